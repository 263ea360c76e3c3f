//! From API objects to what the rules are made from. Pure.

use crate::config::{Config, NodePortAddresses};
use isopod_servicerules::input::{self, Endpoint, Family, NodeView, Protocol, Service, ServicePort};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Label with which a Service, or a slice, says that another proxy serves it.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// Label of the slices of headless Services.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Label with which a slice names its Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label that tells a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// Taint of a node that is about to be removed: load balancers should send it no more traffic.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// Seconds of ClientIP affinity when the Service does not say.
const AFFINITY_SECONDS_DEFAULT: u32 = 10_800;

type Labels = Option<BTreeMap<String, String>>;

fn has(labels: &Labels, name: &str) -> bool {
    labels.as_ref().is_some_and(|labels| labels.contains_key(name))
}

/// What we know of our own node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NodeInfo {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) zone: Option<String>,
    pub(crate) eligible: bool,
}

impl NodeInfo {
    pub(crate) fn of(node: &core::Node) -> Self {
        let status = node.status.as_ref().and_then(|s| s.addresses.as_ref());
        let all: Vec<_> = status.into_iter().flatten().collect();
        let of_type = |wanted: &str| -> Vec<IpAddr> {
            all.iter().filter(|a| a.type_ == wanted).filter_map(|a| a.address.parse().ok()).collect()
        };
        let mut addresses = of_type("InternalIP");
        if addresses.is_empty() {
            addresses = of_type("ExternalIP");
        }
        let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref());
        let leaving = taints.into_iter().flatten().any(|t| t.key == TO_BE_DELETED);
        Self {
            addresses,
            zone: node.metadata.labels.as_ref().and_then(|l| l.get(ZONE)).cloned(),
            eligible: !leaving && node.metadata.deletion_timestamp.is_none(),
        }
    }

    pub(crate) fn view(&self, config: &Config) -> NodeView {
        NodeView {
            families: if config.ipv6 { vec![Family::V4, Family::V6] } else { vec![Family::V4] },
            cluster_cidrs: config.cluster_cidrs.clone(),
            service_cidrs: config.service_cidrs.clone(),
            masquerade_all: config.masquerade_all,
            masquerade_bit: config.masquerade_bit,
            node_port_addresses: match config.node_port_addresses {
                NodePortAddresses::Primary => input::NodePortAddresses::Only(self.addresses.clone()),
                NodePortAddresses::All => input::NodePortAddresses::AnyLocal,
            },
        }
    }
}

/// The Service as the rules see it; `None` if it is not ours to serve.
pub(crate) fn service(service: &core::Service) -> Option<Service> {
    let spec = service.spec.as_ref()?;
    let labels = &service.metadata.labels;
    if has(labels, OTHER_PROXY) || has(labels, HEADLESS) || spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let mut cluster_ips = ips(spec.cluster_ips.iter().flatten());
    if cluster_ips.is_empty() {
        cluster_ips = ips(spec.cluster_ip.iter());
    }
    // Headless ("None") and not yet allocated ones have no address that parses.
    if cluster_ips.is_empty() {
        return None;
    }
    let balancer =
        service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    Some(Service {
        cluster_ips,
        external_ips: ips(spec.external_ips.iter().flatten()),
        load_balancer_ips: ips(balancer
            .into_iter()
            .flatten()
            .filter(|i| i.ip_mode.as_deref() != Some("Proxy"))
            .filter_map(|i| i.ip.as_ref())),
        source_ranges: spec
            .load_balancer_source_ranges
            .iter()
            .flatten()
            .filter_map(|range| range.trim().parse().ok())
            .collect(),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local,
        affinity_seconds: affinity(spec),
        health_check_node_port: spec
            .health_check_node_port
            .and_then(port)
            .filter(|_| external_local && spec.type_.as_deref() == Some("LoadBalancer")),
        ports: spec.ports.iter().flatten().filter_map(service_port).collect(),
    })
}

fn affinity(spec: &core::ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|c| c.timeout_seconds).and_then(|s| u32::try_from(s).ok());
    Some(seconds.filter(|s| *s > 0).unwrap_or(AFFINITY_SECONDS_DEFAULT))
}

fn service_port(p: &core::ServicePort) -> Option<ServicePort> {
    Some(ServicePort {
        name: p.name.clone().unwrap_or_default(),
        protocol: Protocol::parse(p.protocol.as_deref())?,
        port: port(p.port)?,
        node_port: p.node_port.and_then(port),
    })
}

fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|n| *n > 0)
}

fn ips<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<IpAddr> {
    texts.filter_map(|text| text.parse().ok()).collect()
}

/// Whether a slice is ours to look at.
pub(crate) fn is_ours(slice: &EndpointSlice) -> bool {
    !has(&slice.metadata.labels, OTHER_PROXY) && !has(&slice.metadata.labels, HEADLESS)
}

/// `namespace/name` of the Service a slice belongs to.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<String> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(format!("{}/{name}", slice.metadata.namespace.as_deref()?))
}

/// Adds the endpoints of a slice, as seen from the node called `node_name`.
pub(crate) fn endpoints(slice: &EndpointSlice, node_name: &str, node: &NodeInfo, out: &mut Vec<Endpoint>) {
    if slice.address_type == "FQDN" || !is_ours(slice) {
        return;
    }
    for p in slice.ports.iter().flatten() {
        let (Some(number), Some(protocol)) = (p.port.and_then(port), Protocol::parse(p.protocol.as_deref()))
        else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            // Upstream looks at the first address alone; the others mean the same endpoint.
            let Some(address) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else { continue };
            let conditions = endpoint.conditions.as_ref();
            let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
            let hints = endpoint.hints.as_ref();
            let zones = hints.and_then(|h| h.for_zones.as_ref()).filter(|z| !z.is_empty());
            let nodes = hints.and_then(|h| h.for_nodes.as_ref()).filter(|n| !n.is_empty());
            out.push(Endpoint {
                port_name: p.name.clone().unwrap_or_default(),
                protocol,
                address,
                port: number,
                ready,
                serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
                terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
                local: endpoint.node_name.as_deref() == Some(node_name),
                node_hint: nodes.map(|nodes| nodes.iter().any(|n| n.name == node_name)),
                zone_hint: zones.map(|zones| zones.iter().any(|z| Some(&z.name) == node.zone.as_ref())),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn convert(spec: Value, labels: Value) -> Option<Service> {
        let object = json!({"metadata": {"name": "s", "namespace": "ns", "labels": labels}, "spec": spec});
        service(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn services_that_are_not_ours() {
        let ports = json!([{"port": 80}]);
        let served = json!({"clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"], "ports": ports});
        assert!(convert(served.clone(), json!({})).is_some());
        assert!(convert(served.clone(), json!({OTHER_PROXY: "mine"})).is_none());
        assert!(convert(served, json!({HEADLESS: ""})).is_none());
        assert!(
            convert(json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": ports}), json!({}))
                .is_none()
        );
        assert!(convert(json!({"type": "ExternalName", "externalName": "example.org"}), json!({})).is_none());
        assert!(convert(json!({"ports": ports}), json!({})).is_none());
    }

    #[test]
    fn affinity_and_ports() {
        let got = convert(
            json!({"clusterIP": "10.43.0.9", "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
                "ports": [{"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053},
                    {"name": "odd", "port": 1, "protocol": "ICMP"}]}),
            json!({}),
        )
        .unwrap();
        assert_eq!(got.affinity_seconds, Some(60));
        let port =
            ServicePort { name: "dns".into(), protocol: Protocol::Udp, port: 53, node_port: Some(30053) };
        assert_eq!(got.ports, [port]);
    }

    #[test]
    fn conditions_locality_and_hints() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "s-1", "namespace": "ns", "labels": {SERVICE_NAME: "s"}},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 80}, {"name": "all"}],
            "endpoints": [
                {"addresses": ["10.42.0.5"], "nodeName": "me", "hints": {"forZones": [{"name": "a"}]}},
                {"addresses": ["10.42.1.5"], "conditions": {"ready": false, "serving": true, "terminating": true},
                    "hints": {"forNodes": [{"name": "other"}]}},
                {"addresses": []},
            ],
        }))
        .unwrap();
        assert_eq!(service_of(&slice).as_deref(), Some("ns/s"));
        let node = NodeInfo { zone: Some("a".into()), ..NodeInfo::default() };
        let mut got = Vec::new();
        endpoints(&slice, "me", &node, &mut got);
        let summary: Vec<_> = got
            .iter()
            .map(|e| (e.ready, e.serving, e.terminating, e.local, e.node_hint, e.zone_hint))
            .collect();
        assert_eq!(
            summary,
            [(true, true, false, true, None, Some(true)), (false, true, true, false, Some(false), None)]
        );
    }
}
