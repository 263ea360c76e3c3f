//! EndpointSlices of Services with a selector.
//!
//! Invariant: an endpoint that stays keeps its slice, and a change touches as few slices as can be, since every
//! write of a slice goes to every node. Matches upstream's staging/src/k8s.io/endpointslice reconciler. The trigger
//! time annotation is taken from the pods' and the Service's own times instead of being tracked.

pub mod diff;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::meta::{Meta, controller_ref, reference};
use crate::plan::{Event, Plan};
use crate::pods;
use diff::{Desired, Template};

/// Label that names a slice's Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label that names who manages a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// This controller's value of the label.
pub const CONTROLLER: &str = "endpointslice-controller.k8s.io";
/// Label of the slices and Endpoints of headless Services.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// Annotation with the time of the change that led to this version.
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What is known about one Service.
#[derive(Debug, Default)]
pub struct View {
    /// Pods that the selector selects.
    pub pods: Vec<Arc<Pod>>,
    /// Zones of the nodes of those pods; a node that does not exist is missing.
    pub zones: BTreeMap<String, Option<String>>,
    /// Slices of the Service that this controller manages.
    pub slices: Vec<Arc<EndpointSlice>>,
}

/// Whether the Service has no cluster IP.
pub fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// The selector of a Service whose endpoints are managed by the cluster.
pub fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

/// Decides for one Service.
pub fn reconcile(service: &Service, view: &View) -> Plan {
    let mut plan = Plan::nothing();
    if selector(service).is_none() || service.deleting() {
        return plan;
    }
    let families = address_types(service);
    let mut writes = diff::Writes::default();
    for slice in &view.slices {
        if !families.contains(&slice.address_type.as_str()) {
            writes.deletes.push(slice.clone());
        }
    }
    let trigger = trigger_time(service, &view.pods);
    for family in families {
        let mut desired = Desired::default();
        for pod in &view.pods {
            if pods::is_terminal(pod) || addresses(pod, family).is_empty() {
                continue;
            }
            let zone = view.zones.get(pods::node(pod));
            let Some(zone) = zone.cloned().or_else(|| publishes_unready(service).then_some(None)) else {
                // The node is gone or not known yet: leave the pod out, and look again.
                plan.retry = true;
                continue;
            };
            desired.add(ports(service, pod), endpoint(service, pod, family, zone));
        }
        let existing: Vec<_> =
            view.slices.iter().filter(|slice| slice.address_type == family).cloned().collect();
        let template = template(service, family, trigger);
        writes.extend(diff::slices(&template, desired, &existing));
    }
    let failed = Event::warning(
        reference(service),
        "FailedToUpdateEndpointSlices",
        format!("Error updating Endpoint Slices for Service {}/{}: ", service.namespace(), service.name()),
    );
    plan.steps.extend(writes.into_step(&failed));
    plan
}

fn publishes_unready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

/// `IPv4` and `IPv6` as the Service has them.
fn address_types(service: &Service) -> BTreeSet<&'static str> {
    let spec = service.spec.as_ref();
    let mut found: BTreeSet<&'static str> = spec
        .and_then(|spec| spec.ip_families.as_ref())
        .into_iter()
        .flatten()
        .map(|family| if family == "IPv6" { "IPv6" } else { "IPv4" })
        .collect();
    if found.is_empty() {
        let address = spec.and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
        found.insert(if address.contains(':') { "IPv6" } else { "IPv4" });
    }
    found
}

/// The pod's addresses of one family.
pub(crate) fn addresses(pod: &Pod, family: &str) -> Vec<String> {
    let Some(status) = &pod.status else { return Vec::new() };
    let listed = status.pod_ips.iter().flatten().map(|address| address.ip.as_str());
    let all: Vec<&str> = match (&status.pod_ips, &status.pod_ip) {
        (Some(ips), _) if !ips.is_empty() => listed.collect(),
        (_, Some(ip)) => vec![ip.as_str()],
        _ => vec![],
    };
    all.into_iter()
        .filter(|ip| !ip.is_empty() && ip.contains(':') == (family == "IPv6"))
        .map(str::to_owned)
        .collect()
}

/// The number behind a Service port's target in a pod; `None` if the pod has no port of that name.
pub(crate) fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let spec = pod.spec.as_ref()?;
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|container| container.restart_policy.as_deref() == Some("Always"));
            spec.containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| container.ports.iter().flatten())
                .find(|p| p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol)
                .map(|p| p.container_port)
        }
    }
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let wanted = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    wanted
        .iter()
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target_port(pod, port)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

/// The host name that DNS gives a pod of a headless Service.
pub(crate) fn host_name(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let host = spec.hostname.as_ref().filter(|host| !host.is_empty())?;
    (spec.subdomain.as_deref() == Some(service.name()) && service.namespace() == pod.namespace())
        .then(|| host.clone())
}

/// A reference to a pod as endpoints carry it.
pub(crate) fn pod_reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

fn endpoint(service: &Service, pod: &Pod, family: &str, zone: Option<String>) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pod.deleting();
    let ready = publishes_unready(service) || (serving && !terminating);
    let node = Some(pods::node(pod)).filter(|node| !node.is_empty()).map(str::to_owned);
    Endpoint {
        addresses: addresses(pod, family),
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        deprecated_topology: None,
        hints: if ready { hints(service, zone.as_deref(), node.as_deref()) } else { None },
        hostname: host_name(service, pod),
        node_name: node,
        target_ref: Some(pod_reference(pod)),
        zone,
    }
}

/// Where traffic to the endpoint should come from, for Services with a traffic distribution.
fn hints(service: &Service, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    let distribution = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let for_zones = || zone.map(|zone| vec![ForZone { name: zone.to_owned() }]);
    match distribution {
        "PreferClose" | "PreferSameZone" => {
            Some(EndpointHints { for_zones: Some(for_zones()?), for_nodes: None })
        }
        "PreferSameNode" => Some(EndpointHints {
            for_nodes: Some(vec![ForNode { name: node?.to_owned() }]),
            for_zones: for_zones(),
        }),
        _ => None,
    }
}

fn template(service: &Service, family: &str, trigger: Option<Timestamp>) -> Template {
    let mut labels: BTreeMap<String, String> = service
        .labels()
        .iter()
        .filter(|(key, _)| ![SERVICE_NAME, MANAGED_BY, HEADLESS].contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), service.name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    let annotations = trigger.map(|at| BTreeMap::from([(TRIGGER_TIME.to_owned(), at.to_string())]));
    let slice = EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.name())),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            annotations,
            owner_references: Some(vec![controller_ref(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(Vec::new()),
        ..EndpointSlice::default()
    };
    Template { slice, own_annotations: false }
}

/// The latest change that the endpoints show: a pod that became ready or unready, or the Service itself.
pub(crate) fn trigger_time(service: &Service, pods: &[Arc<Pod>]) -> Option<Timestamp> {
    pods.iter()
        .filter_map(|pod| pods::condition(pod, "Ready")?.last_transition_time.as_ref())
        .map(|time| time.0)
        .chain(service.created())
        .max()
}

#[cfg(test)]
mod tests;
