//! Defaults of the networking.k8s.io, discovery.k8s.io and scheduling.k8s.io groups.

use super::{Hook, is_empty, object, object_or_new, objects, set};
use crate::{Map, Value};
use serde_json::json;

pub(super) fn hook(package: &str, name: &str) -> Option<Hook> {
    Some(match (package, name) {
        ("networking/v1", "NetworkPolicyPort") => |map| set(map, "protocol", "TCP"),
        ("networking/v1", "NetworkPolicy") => network_policy,
        ("networking/v1" | "networking/v1beta1", "IngressClass") => ingress_class,
        ("networking/v1beta1", "HTTPIngressPath") => |map| set(map, "pathType", "ImplementationSpecific"),
        ("discovery/v1" | "discovery/v1beta1", "EndpointSlice") => endpoint_slice,
        ("scheduling/v1" | "scheduling/v1beta1", "PriorityClass") => {
            |map| set(map, "preemptionPolicy", "PreemptLowerPriority")
        }
        _ => return None,
    })
}

fn network_policy(policy: &mut Map) {
    let spec = object_or_new(policy, "spec");
    if is_empty(spec, "policyTypes") {
        let types = if is_empty(spec, "egress") { json!(["Ingress"]) } else { json!(["Ingress", "Egress"]) };
        spec.insert("policyTypes".into(), types);
    }
}

fn ingress_class(class: &mut Map) {
    if let Some(parameters) = object(class, "spec").and_then(|spec| object(spec, "parameters")) {
        set(parameters, "scope", "Cluster");
    }
}

fn endpoint_slice(slice: &mut Map) {
    for port in objects(slice, "ports") {
        // The empty name is a value here: the field is a pointer.
        if port.get("name").is_none_or(Value::is_null) {
            port.insert("name".into(), "".into());
        }
        set(port, "protocol", "TCP");
    }
}
