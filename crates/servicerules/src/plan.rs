//! From one Service and its endpoints to the elements it needs on this node.

use crate::chains::{CLUSTER_SLOTS, Chain, Front, Learn};
use crate::endpoints::{Selection, select};
use crate::input::{Endpoint, Family, NodePortAddresses, NodeView, Service, ServicePort};
use crate::model::{Key, Port, Tuple, Value};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// The elements of one owner.
pub type Elements = BTreeMap<Key, Value>;

/// The elements of a Service. An address or port that another Service also claims is settled later, by
/// [`crate::Ruleset`].
#[must_use]
pub fn service_elements(service: &Service, endpoints: &[Endpoint], view: &NodeView) -> Elements {
    let mut out = Elements::new();
    for &family in &view.families {
        let of_family =
            |ips: &[IpAddr]| ips.iter().copied().filter(move |ip| Family::of(*ip) == family).collect();
        let cluster_ips: Vec<IpAddr> = of_family(&service.cluster_ips);
        let external: Vec<IpAddr> = of_family(&service.external_ips);
        let balancers: Vec<IpAddr> = of_family(&service.load_balancer_ips);
        for ip in &cluster_ips {
            out.insert(Key::ClusterIp(*ip), Value::Unit);
        }
        for port in &service.ports {
            let chosen = select(endpoints, port, family);
            let mut plan = PortPlan { out: &mut out, service, port, family, chosen: &chosen };
            for ip in &cluster_ips {
                plan.cluster_ip(*ip);
            }
            for ip in external.iter().chain(&balancers) {
                plan.external_ip(*ip);
            }
            if !service.source_ranges.is_empty() {
                for ip in &balancers {
                    plan.firewall(*ip);
                }
            }
            if let Some(node_port) = port.node_port {
                plan.node_port(node_port);
            }
        }
    }
    for endpoint in endpoints.iter().filter(|e| e.local && (e.ready || e.serving)) {
        if view.families.contains(&Family::of(endpoint.address)) {
            out.insert(Key::Hairpin(endpoint.address), Value::Unit);
        }
    }
    out
}

/// The elements that belong to the node and to no Service.
#[must_use]
pub fn node_elements(view: &NodeView) -> Elements {
    let mut out = Elements::new();
    if let NodePortAddresses::Only(ips) = &view.node_port_addresses {
        for ip in ips.iter().filter(|ip| view.families.contains(&Family::of(**ip))) {
            out.insert(Key::NodePortIp(*ip), Value::Unit);
        }
    }
    out
}

/// One port of a Service in one family.
struct PortPlan<'a> {
    out: &'a mut Elements,
    service: &'a Service,
    port: &'a ServicePort,
    family: Family,
    chosen: &'a Selection,
}

impl PortPlan<'_> {
    fn tuple(&self, ip: IpAddr) -> Tuple {
        Tuple { ip, protocol: self.port.protocol, port: self.port.port }
    }

    fn put(&mut self, key: Key, value: Value) {
        self.out.entry(key).or_insert(value);
    }

    fn learn(&self) -> Option<Value> {
        let (family, protocol) = (self.family, self.port.protocol);
        self.service.affinity_seconds.map(|seconds| Value::Learn(Learn { family, protocol, seconds }))
    }

    fn chain(&self, front: Front, first: &[SocketAddr], second: &[SocketAddr]) -> Value {
        Value::Chain(Chain {
            family: self.family,
            front,
            protocol: self.port.protocol,
            affinity: self.service.affinity_seconds.is_some(),
            first: u32::try_from(first.len()).unwrap_or(u32::MAX),
            second: u32::try_from(second.len()).unwrap_or(u32::MAX),
        })
    }

    /// What happens to packets for which there is no endpoint to use: refused when there is none anywhere, dropped
    /// when another node has one.
    fn nobody(&self) -> Value {
        if self.chosen.any { Value::Drop } else { Value::Reject }
    }

    fn cluster_ip(&mut self, ip: IpAddr) {
        let (tuple, chosen) = (self.tuple(ip), self.chosen);
        let list = if self.service.internal_local { &chosen.local } else { &chosen.cluster };
        self.frontend(tuple, Front::ClusterIp, list, &[]);
    }

    fn external_ip(&mut self, ip: IpAddr) {
        let (tuple, chosen) = (self.tuple(ip), self.chosen);
        if self.service.external_local {
            self.frontend(tuple, Front::ExternalLocal, &chosen.local, &chosen.cluster);
        } else {
            self.frontend(tuple, Front::External, &chosen.cluster, &[]);
        }
    }

    fn frontend(&mut self, tuple: Tuple, front: Front, first: &[SocketAddr], second: &[SocketAddr]) {
        if first.is_empty() {
            self.put(Key::NoEndpointIp(tuple), self.nobody());
        }
        if first.is_empty() && second.is_empty() {
            return;
        }
        self.put(Key::ServiceIp(tuple), self.chain(front, first, second));
        for (slot, endpoint) in slots(first, second) {
            self.put(Key::Endpoint(tuple, slot), Value::Endpoint(endpoint));
        }
        if let Some(learn) = self.learn() {
            self.put(Key::AffinityIp(tuple), learn);
        }
    }

    fn node_port(&mut self, number: u16) {
        let chosen = self.chosen;
        let port = Port { family: self.family, protocol: self.port.protocol, port: number };
        let (front, first, second): (_, &[SocketAddr], &[SocketAddr]) = if self.service.external_local {
            (Front::NodePortLocal, &chosen.local, &chosen.cluster)
        } else {
            (Front::NodePort, &chosen.cluster, &[])
        };
        if first.is_empty() {
            self.put(Key::NoEndpointNodePort(port), self.nobody());
        }
        if first.is_empty() && second.is_empty() {
            return;
        }
        self.put(Key::ServiceNodePort(port), self.chain(front, first, second));
        for (slot, endpoint) in slots(first, second) {
            self.put(Key::NodePortEndpoint(port, slot), Value::Endpoint(endpoint));
        }
        if let Some(learn) = self.learn() {
            self.put(Key::AffinityNodePort(port), learn);
        }
    }

    fn firewall(&mut self, ip: IpAddr) {
        let tuple = self.tuple(ip);
        self.put(Key::Firewalled(tuple), Value::Unit);
        let ranges: Vec<IpNet> = self
            .service
            .source_ranges
            .iter()
            .map(IpNet::trunc)
            .filter(|range| Family::of(range.addr()) == self.family)
            .collect();
        // The kernel refuses an interval that lies in another one.
        for range in IpNet::aggregate(&ranges) {
            self.put(Key::FirewallAllow(tuple, range), Value::Unit);
        }
    }
}

/// Numbers the endpoints of both lists.
fn slots<'a>(
    first: &'a [SocketAddr],
    second: &'a [SocketAddr],
) -> impl Iterator<Item = (u32, SocketAddr)> + 'a {
    (0..).zip(first.iter().copied()).chain((CLUSTER_SLOTS..).zip(second.iter().copied()))
}
