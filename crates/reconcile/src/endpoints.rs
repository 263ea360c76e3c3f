//! Endpoints (the legacy form) of Services with a selector.
//!
//! Addresses are packed into subsets of equal ports as upstream's RepackSubsets does, in canonical order, and cut at
//! 1,000 addresses with the over-capacity annotation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::endpointslice::{
    HEADLESS, TRIGGER_TIME, addresses, host_name, is_headless, pod_reference, selector, target_port,
    trigger_time,
};
use crate::meta::{Meta, reference, set_annotation, set_label};
use crate::plan::{Action, Event, Plan, Tail, Target, Tolerate};
use crate::pods;
use crate::template::semantically_equal;

/// Addresses in one Endpoints object at most.
pub const MAX_ADDRESSES: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpoint-controller";

/// Decides for the name of a Service: `service` is absent once it was deleted.
pub fn reconcile(service: Option<&Service>, pods: &[Arc<Pod>], current: Option<&Endpoints>) -> Plan {
    let mut plan = Plan::nothing();
    let Some(service) = service else {
        if let Some(current) = current.filter(|c| c.labels().get(MANAGED_BY).is_some_and(|m| m == CONTROLLER))
        {
            plan.push(Action::delete_at(Target::of(current), current.metadata.uid.clone()));
        }
        return plan;
    };
    if selector(service).is_none() || service.deleting() {
        return plan;
    }
    let mut subsets = subsets(service, pods);
    let truncated = truncate(&mut subsets);
    let mut wanted = current.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    wanted.subsets = (!subsets.is_empty()).then_some(subsets);
    wanted.metadata.labels = Some(service.labels().clone());
    if is_headless(service) {
        set_label(&mut wanted.metadata, HEADLESS, "");
    } else if let Some(labels) = &mut wanted.metadata.labels {
        labels.remove(HEADLESS);
    }
    set_label(&mut wanted.metadata, MANAGED_BY, CONTROLLER);
    if truncated {
        set_annotation(&mut wanted.metadata, OVER_CAPACITY, "truncated");
    } else if let Some(annotations) = &mut wanted.metadata.annotations {
        annotations.remove(OVER_CAPACITY);
    }
    if current.is_some_and(|current| semantically_equal(current, &wanted)) {
        return plan;
    }
    if let Some(at) = trigger_time(service, pods) {
        set_annotation(&mut wanted.metadata, TRIGGER_TIME, at.to_string());
    }
    let failed = |reason, text: &str| {
        Event::warning(
            reference(service),
            reason,
            format!("{text} {}/{}: ", service.namespace(), service.name()),
        )
        .tail(Tail::Error)
    };
    plan.push(if current.is_some() {
        Action::update(&wanted).err_event(failed("FailedToUpdateEndpoint", "Failed to update endpoint"))
    } else {
        Action::create(&wanted)
            .err_event(failed("FailedToCreateEndpoint", "Failed to create endpoint for service"))
            .tolerating(Tolerate { terminating: true, ..Tolerate::default() })
    });
    plan
}

type Ready = bool;
type Addresses = BTreeMap<(String, String), (Ready, EndpointAddress)>;

/// The family of a Service's first address.
fn family(service: &Service) -> &'static str {
    let spec = service.spec.as_ref();
    let first = spec.and_then(|spec| spec.ip_families.as_ref()).and_then(|families| families.first());
    match first {
        Some(family) if family == "IPv6" => "IPv6",
        Some(_) => "IPv4",
        None => {
            let address = spec.and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
            if address.contains(':') { "IPv6" } else { "IPv4" }
        }
    }
}

fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let publish = spec.publish_not_ready_addresses == Some(true);
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut by_port: BTreeMap<Option<PortKey>, Addresses> = BTreeMap::new();
    for pod in pods {
        if pods::is_terminal(pod) || (pod.deleting() && !publish) {
            continue;
        }
        let Some(ip) = addresses(pod, family(service)).into_iter().next() else { continue };
        let address = EndpointAddress {
            ip,
            hostname: host_name(service, pod),
            node_name: Some(pods::node(pod).to_owned()).filter(|node| !node.is_empty()),
            target_ref: Some(ObjectReference { ..pod_reference(pod) }),
        };
        let ready = publish || pods::is_ready(pod);
        let mut add = |port: Option<PortKey>| {
            let key = (address.ip.clone(), pod.uid().to_owned());
            by_port.entry(port).or_default().insert(key, (ready, address.clone()));
        };
        if ports.is_empty() && is_headless(service) {
            add(None);
        }
        for port in ports {
            if let Some(number) = target_port(pod, port) {
                add(Some(PortKey {
                    port: number,
                    protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                    name: port.name.clone(),
                    app_protocol: port.app_protocol.clone(),
                }));
            }
        }
    }
    pack(by_port)
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PortKey {
    port: i32,
    protocol: String,
    name: Option<String>,
    app_protocol: Option<String>,
}

/// What tells one set of addresses from another: address, pod and readiness of each.
type AddressSet = Vec<(String, String, Ready)>;

/// Joins the ports that have the same addresses into one subset.
fn pack(by_port: BTreeMap<Option<PortKey>, Addresses>) -> Vec<EndpointSubset> {
    let mut groups: BTreeMap<AddressSet, (BTreeSet<PortKey>, Addresses)> = BTreeMap::new();
    for (port, addresses) in by_port {
        let key = addresses.iter().map(|((ip, uid), (ready, _))| (ip.clone(), uid.clone(), *ready)).collect();
        groups.entry(key).or_insert_with(|| (BTreeSet::new(), addresses)).0.extend(port);
    }
    let list = |addresses: &Addresses, wanted: bool| -> Option<Vec<EndpointAddress>> {
        let some: Vec<_> =
            addresses.values().filter(|(ready, _)| *ready == wanted).map(|(_, a)| a.clone()).collect();
        (!some.is_empty()).then_some(some)
    };
    groups
        .into_values()
        .map(|(ports, found)| EndpointSubset {
            addresses: list(&found, true),
            not_ready_addresses: list(&found, false),
            ports: (!ports.is_empty()).then(|| {
                ports
                    .into_iter()
                    .map(|p| EndpointPort {
                        name: p.name,
                        port: p.port,
                        protocol: Some(p.protocol),
                        app_protocol: p.app_protocol,
                    })
                    .collect()
            }),
        })
        .collect()
}

/// Cuts to the limit, ready addresses first, evenly over the subsets. True if something was cut.
fn truncate(subsets: &mut [EndpointSubset]) -> bool {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|s| count(&s.addresses)).sum();
    let unready: usize = subsets.iter().map(|s| count(&s.not_ready_addresses)).sum();
    if ready + unready <= MAX_ADDRESSES {
        return false;
    }
    cut(subsets.iter_mut().map(|s| &mut s.addresses), ready, MAX_ADDRESSES);
    cut(subsets.iter_mut().map(|s| &mut s.not_ready_addresses), unready, MAX_ADDRESSES.saturating_sub(ready));
    true
}

fn cut<'a>(lists: impl Iterator<Item = &'a mut Option<Vec<EndpointAddress>>>, total: usize, limit: usize) {
    if total <= limit {
        return;
    }
    let mut left = limit;
    for list in lists {
        let Some(addresses) = list else { continue };
        let share = (addresses.len() * limit / total).min(left);
        addresses.truncate(share);
        left -= share;
        if addresses.is_empty() {
            *list = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::json;

    fn service() -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "d", "uid": "s"},
            "spec": {"clusterIP": "10.43.0.5", "selector": {"app": "web"},
                "ports": [{"name": "a", "port": 80, "targetPort": 8080}, {"name": "b", "port": 81, "targetPort": 8081}]},
        }))
        .unwrap()
    }

    fn pod(number: usize, ready: bool) -> Arc<Pod> {
        let value = json!({
            "metadata": {"name": format!("p{number}"), "namespace": "d", "uid": format!("u{number}")},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Running", "podIP": format!("10.42.{}.{}", number / 250, number % 250),
                "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}]},
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn wanted(pods: &[Arc<Pod>]) -> Endpoints {
        let plan = reconcile(Some(&service()), pods, None);
        let crate::plan::Write::Create { body, .. } = &plan.actions().next().unwrap().write else { panic!() };
        serde_json::from_value(body.clone()).unwrap()
    }

    #[test]
    fn ports_with_the_same_addresses_share_a_subset() {
        let found = wanted(&[pod(1, true), pod(2, false)]);
        expect![[r#"{"apiVersion":"v1","kind":"Endpoints","metadata":{"labels":{"endpoints.kubernetes.io/managed-by":"endpoint-controller"},"name":"web","namespace":"d"},"subsets":[{"addresses":[{"ip":"10.42.0.1","nodeName":"n","targetRef":{"kind":"Pod","name":"p1","namespace":"d","uid":"u1"}}],"notReadyAddresses":[{"ip":"10.42.0.2","nodeName":"n","targetRef":{"kind":"Pod","name":"p2","namespace":"d","uid":"u2"}}],"ports":[{"name":"a","port":8080,"protocol":"TCP"},{"name":"b","port":8081,"protocol":"TCP"}]}]}"#]].assert_eq(&serde_json::to_string(&found).unwrap());
        assert!(reconcile(Some(&service()), &[pod(1, true), pod(2, false)], Some(&found)).is_idle());
        assert!(!reconcile(None, &[], Some(&found)).is_idle(), "goes with its Service");
    }

    #[test]
    fn too_many_addresses_are_cut_and_marked() {
        let pods: Vec<_> = (0..1200).map(|n| pod(n, n % 2 == 0)).collect();
        let found = wanted(&pods);
        assert_eq!(found.annotations()[OVER_CAPACITY], "truncated");
        let subset = &found.subsets.unwrap()[0];
        assert_eq!(subset.addresses.as_ref().unwrap().len(), 600);
        assert_eq!(subset.not_ready_addresses.as_ref().unwrap().len(), 400);
    }
}
