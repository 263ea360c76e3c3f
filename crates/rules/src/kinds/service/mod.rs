//! Services. Addresses and node ports are allocated by the API server, around these functions.

mod columns;
mod validate;

use isopod_api::object::child_mut;
use isopod_api::{Map, Value};

use super::shared::{list_at, str_at};
use super::{Context, Strategy};

pub(super) use columns::load_balancer;
pub(super) use validate::load_balancer_ingress;

pub(super) const STRATEGIES: &[&Strategy] = &[&Strategy {
    group: "",
    kind: "Service",
    name: super::meta::label_1035,
    create_on_update: true,
    prepare_for_update,
    validate: validate::service,
    validate_update: validate::service_update,
    validate_status_update: validate::service_status,
    warnings,
    columns: columns::SERVICE,
    row: columns::service,
    selectable: &[("spec.clusterIP", "spec.clusterIP"), ("spec.type", "spec.type")],
    ..Strategy::DEFAULT
}];

/// Whether Services of this type have cluster addresses.
pub fn needs_cluster_ip(service: &Value) -> bool {
    matches!(str_at(service, "spec.type"), "" | "ClusterIP" | "NodePort" | "LoadBalancer")
}

/// Whether Services of this type have node ports.
pub fn needs_node_ports(service: &Value) -> bool {
    match str_at(service, "spec.type") {
        "NodePort" => true,
        "LoadBalancer" => {
            super::shared::at(service, "spec.allocateLoadBalancerNodePorts") != Some(&Value::Bool(false))
        }
        _ => false,
    }
}

/// Whether the Service load-balances at nodes that have endpoints only, and so needs a health check port.
pub fn needs_health_check_port(service: &Value) -> bool {
    str_at(service, "spec.type") == "LoadBalancer" && str_at(service, "spec.externalTrafficPolicy") == "Local"
}

/// What was allocated stays when an update leaves it out (clients send back old manifests), and goes when
/// the new type has no use for it.
fn prepare_for_update(new: &mut Value, old: &Value, _: &Context<'_>) {
    let old_spec = old.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
    let (had_ip, has_ip) = (needs_cluster_ip(old), needs_cluster_ip(new));
    let (had_ports, has_ports) = (needs_node_ports(old), needs_node_ports(new));
    let health = needs_health_check_port(old) && needs_health_check_port(new);
    let old_ports = list_at(old, "spec.ports").to_vec();
    let spec = child_mut(new, "spec");
    if had_ip && has_ip {
        let text = |m: &Map, key: &str| m.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        if text(spec, "clusterIP").is_empty() && is_empty(spec.get("clusterIPs")) {
            copy(spec, &old_spec, &["clusterIP", "clusterIPs"]);
        } else if is_empty(spec.get("clusterIPs")) && text(spec, "clusterIP") == text(&old_spec, "clusterIP")
        {
            copy(spec, &old_spec, &["clusterIPs"]);
        }
        for key in ["ipFamilies", "ipFamilyPolicy"] {
            if is_empty(spec.get(key)) {
                copy(spec, &old_spec, &[key]);
            }
        }
    } else if had_ip && !has_ip {
        // Addresses sent back unchanged with the new type are meant to go.
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if spec.get(key) == old_spec.get(key) {
                spec.remove(key);
            }
        }
    }
    if had_ports && has_ports {
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            keep_node_port(port, &old_ports);
        }
    } else if had_ports && !has_ports {
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            let number = port.get("nodePort").cloned();
            if old_ports.iter().any(|o| o.get("nodePort") == number.as_ref())
                && let Some(port) = port.as_object_mut()
            {
                port.remove("nodePort");
            }
        }
    }
    if health && spec.get("healthCheckNodePort").and_then(Value::as_i64).unwrap_or(0) == 0 {
        copy(spec, &old_spec, &["healthCheckNodePort"]);
    }
    if !needs_health_check_port(new) {
        child_mut(new, "spec").remove("healthCheckNodePort");
    }
    drop_unused(new, old);
}

/// Fields that only some types have go with the type, unless the update sets them anew.
fn drop_unused(new: &mut Value, old: &Value) {
    let balanced = |service: &Value| str_at(service, "spec.type") == "LoadBalancer";
    let external = |service: &Value| {
        matches!(str_at(service, "spec.type"), "LoadBalancer" | "NodePort")
            || (str_at(service, "spec.type") == "ClusterIP"
                && !list_at(service, "spec.externalIPs").is_empty())
    };
    let unbalanced = balanced(old) && !balanced(new);
    let internal = external(old) && !external(new);
    for (gone, field) in [
        (unbalanced, "allocateLoadBalancerNodePorts"),
        (unbalanced, "loadBalancerClass"),
        (internal, "externalTrafficPolicy"),
    ] {
        let before = old.get("spec").and_then(|spec| spec.get(field));
        let spec = child_mut(new, "spec");
        if gone && spec.get(field) == before {
            spec.remove(field);
        }
    }
}

/// Things that are allowed and yet most likely mistakes.
fn warnings(service: &Value, _: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if !str_at(service, "spec.externalName").is_empty() && str_at(service, "spec.type") != "ExternalName" {
        warnings.push(format!("spec.externalName is ignored when spec.type is not {:?}", "ExternalName"));
    }
    if str_at(service, "spec.type") == "ExternalName" && !list_at(service, "spec.externalIPs").is_empty() {
        warnings.push(format!("spec.externalIPs is ignored when spec.type is {:?}", "ExternalName"));
    }
    if list_at(service, "spec.clusterIPs").first().is_some_and(|ip| ip == "None") {
        for (field, set) in [
            ("loadBalancerIP", !str_at(service, "spec.loadBalancerIP").is_empty()),
            ("externalIPs", !list_at(service, "spec.externalIPs").is_empty()),
        ] {
            if set {
                warnings.push(format!("spec.{field} is ignored when spec.clusterIP is \"None\""));
            }
        }
        if str_at(service, "spec.sessionAffinity") == "ClientIP" {
            warnings.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    warnings
}

fn keep_node_port(port: &mut Value, old: &[Value]) {
    if port.get("nodePort").and_then(Value::as_i64).unwrap_or(0) != 0 {
        return;
    }
    let same = |o: &&Value| o.get("port") == port.get("port") && o.get("protocol") == port.get("protocol");
    let kept = old.iter().find(same).and_then(|o| o.get("nodePort")).cloned();
    if let (Some(port), Some(kept)) = (port.as_object_mut(), kept) {
        port.insert("nodePort".to_owned(), kept);
    }
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

fn copy(to: &mut Map, from: &Map, keys: &[&str]) {
    for key in keys {
        if let Some(value) = from.get(*key) {
            to.insert((*key).to_owned(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn allocations_survive_an_update_that_leaves_them_out() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ipFamilies": ["IPv4"], "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}});
        let context = Context::TEST;
        prepare_for_update(&mut new, &old, &context);
        assert_eq!(new, old);
        let mut new = old.clone();
        new["spec"]["type"] = "ClusterIP".into();
        prepare_for_update(&mut new, &old, &context);
        assert_eq!(new["spec"]["ports"], json!([{"port": 80, "protocol": "TCP"}]));
        let mut new = json!({"spec": {"type": "ExternalName", "clusterIP": "10.0.0.1"}});
        prepare_for_update(&mut new, &old, &context);
        assert_eq!(new, json!({"spec": {"type": "ExternalName"}}));
    }
}
