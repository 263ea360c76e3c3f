//! EndpointSlices that mirror the hand-made Endpoints of Services without a selector.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::endpointslice::diff::{self, Desired, Template, Writes};
use crate::endpointslice::{MANAGED_BY, SERVICE_NAME};
use crate::meta::{Meta, controller_ref, reference};
use crate::plan::{Event, Plan};

/// This controller's value of the managed-by label.
pub const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
/// Label on Endpoints that asks for no mirror.
pub const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Addresses mirrored of one subset at most.
const MAX_ENDPOINTS_PER_SUBSET: usize = 1000;
const NOT_MIRRORED: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "control-plane.alpha.kubernetes.io/leader"];

/// Whether these Endpoints are to be mirrored.
pub fn should_mirror(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let skip = endpoints.labels().get(SKIP_MIRROR).is_some_and(|value| value == "true");
    let leader = endpoints.annotations().contains_key("control-plane.alpha.kubernetes.io/leader");
    let selectorless = service
        .and_then(|service| service.spec.as_ref())
        .is_some_and(|spec| spec.selector.as_ref().is_none_or(BTreeMap::is_empty));
    !skip && !leader && selectorless
}

/// Decides for the name of a Service and its Endpoints.
pub fn reconcile(
    endpoints: Option<&Endpoints>,
    service: Option<&Service>,
    slices: &[Arc<EndpointSlice>],
) -> Plan {
    let mut plan = Plan::nothing();
    let mirrored = endpoints.filter(|endpoints| should_mirror(endpoints, service) && !endpoints.deleting());
    let Some(endpoints) = mirrored else {
        let writes = Writes { deletes: slices.to_vec(), ..Writes::default() };
        let about = slices.first().map(|slice| reference(slice.as_ref())).unwrap_or_default();
        plan.steps.extend(writes.into_step(&Event::warning(about, "FailedToUpdateEndpointSlices", "")));
        return plan;
    };
    let mut desired: BTreeMap<&str, Desired> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(port.port),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(unready).take(MAX_ENDPOINTS_PER_SUBSET) {
            let family = match address.ip.parse() {
                Ok(IpAddr::V4(_)) => "IPv4",
                Ok(IpAddr::V6(_)) => "IPv6",
                Err(_) => continue,
            };
            desired.entry(family).or_default().add(ports.clone(), endpoint(address, ready));
        }
    }
    let mut writes = Writes::default();
    for family in ["IPv4", "IPv6"] {
        let existing: Vec<_> = slices.iter().filter(|slice| slice.address_type == family).cloned().collect();
        match desired.remove(family) {
            Some(wanted) => writes.extend(diff::slices(&template(endpoints, family), wanted, &existing)),
            None => writes.deletes.extend(existing),
        }
    }
    let failed = Event::warning(
        reference(endpoints),
        "FailedToUpdateEndpointSlices",
        format!(
            "Error updating Endpoint Slices for Endpoints {}/{}: ",
            endpoints.namespace(),
            endpoints.name()
        ),
    );
    plan.steps.extend(writes.into_step(&failed));
    plan
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn template(endpoints: &Endpoints, family: &str) -> Template {
    let mut labels = endpoints.labels().clone();
    labels.insert(SERVICE_NAME.to_owned(), endpoints.name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    let annotations: BTreeMap<String, String> = endpoints
        .annotations()
        .iter()
        .filter(|(key, _)| !NOT_MIRRORED.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let slice = EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", endpoints.name())),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![controller_ref(endpoints)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(Vec::new()),
        ..EndpointSlice::default()
    };
    Template { slice, own_annotations: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::describe;
    use serde_json::json;

    #[test]
    fn mirrors_only_what_nobody_selects() {
        let endpoints: Endpoints = serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "d", "uid": "e"},
            "subsets": [{"addresses": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}, {"ip": "no"}],
                "ports": [{"port": 5432}]}],
        }))
        .unwrap();
        let service = |selector: serde_json::Value| -> Service {
            serde_json::from_value(
                json!({"metadata": {"name": "db", "namespace": "d"}, "spec": {"selector": selector}}),
            )
            .unwrap()
        };
        let plan = reconcile(Some(&endpoints), Some(&service(json!(null))), &[]);
        assert_eq!(describe(&plan), "all: create endpointslices/\nall: create endpointslices/\n");
        let selected = service(json!({"app": "db"}));
        assert!(reconcile(Some(&endpoints), Some(&selected), &[]).is_idle());
        assert!(reconcile(Some(&endpoints), None, &[]).is_idle());
    }
}
