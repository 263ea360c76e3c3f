//! Tables of Ingresses, IngressClasses, NetworkPolicies, IPAddresses and ServiceCIDRs.

use isopod_api::Value;
use jiff::Timestamp;

use crate::kinds::columns::{Column, NAME, join_texts, name, or, or_none, selector};
use crate::kinds::service::load_balancer;
use crate::kinds::shared::{at, list_at, str_at};

/// Most hosts shown.
const HOSTS_SHOWN_MAX: usize = 3;

pub(super) const INGRESS: &[Column] = &[
    Column::text("Class", "Class of the controller that serves it."),
    Column::text("Hosts", "Hosts that requests are matched against."),
    Column::text("Address", "Addresses of the load balancer."),
    Column::text("Ports", "Ports that are open."),
];

pub(super) fn ingress(ingress: &Value, _: Timestamp) -> Vec<Value> {
    let address: Vec<&str> = load_balancer(ingress).into_iter().collect();
    let tls = !list_at(ingress, "spec.tls").is_empty();
    vec![
        or_none(ingress, "spec.ingressClassName"),
        hosts(ingress).into(),
        address.join(",").into(),
        if tls { "80, 443" } else { "80" }.into(),
    ]
}

/// The first hosts that are named. Rules without a host count among the others.
fn hosts(ingress: &Value) -> String {
    let rules = list_at(ingress, "spec.rules");
    let named: Vec<(usize, &str)> = rules
        .iter()
        .map(|rule| str_at(rule, "host"))
        .enumerate()
        .filter(|(_, host)| !host.is_empty())
        .collect();
    let shown = &named[..named.len().min(HOSTS_SHOWN_MAX)];
    let text = shown.iter().map(|(_, host)| *host).collect::<Vec<_>>().join(",");
    let full = shown.len() == HOSTS_SHOWN_MAX;
    match shown.last() {
        Some((last, _)) if full && last + 1 < rules.len() => {
            format!("{text} + {} more...", rules.len() - HOSTS_SHOWN_MAX)
        }
        _ => or(&text, "*"),
    }
}

pub(super) const INGRESS_CLASS: &[Column] = &[
    Column::text("Controller", "Controller that serves the class."),
    Column::text("Parameters", "Object with the class's parameters."),
];

pub(super) fn ingress_class(class: &Value, _: Timestamp) -> Vec<Value> {
    let parameters = at(class, "spec.parameters").map_or_else(
        || "<none>".to_owned(),
        |parameters| {
            let group = str_at(parameters, "apiGroup");
            let dot = if group.is_empty() { "" } else { "." };
            format!("{}{dot}{group}/{}", str_at(parameters, "kind"), str_at(parameters, "name"))
        },
    );
    vec![str_at(class, "spec.controller").into(), parameters.into()]
}

pub(super) const NETWORK_POLICY: &[Column] =
    &[Column::text("Pod-Selector", "Labels of the pods that the policy is about.")];

pub(super) fn network_policy(policy: &Value, _: Timestamp) -> Vec<Value> {
    vec![selector(at(policy, "spec.podSelector"))]
}

pub(super) const IP_ADDRESS: &[Column] = &[NAME, Column::text("ParentRef", "Object that uses the address.")];

pub(super) fn ip_address(address: &Value, _: Timestamp) -> Vec<Value> {
    let Some(parent) = at(address, "spec.parentRef") else { return vec![name(address), "<none>".into()] };
    let mut text = str_at(parent, "resource").to_owned();
    if let group @ [_, ..] = str_at(parent, "group").as_bytes() {
        text = format!("{text}.{}", String::from_utf8_lossy(group));
    }
    text = text.to_lowercase();
    for part in ["namespace", "name"].map(|key| str_at(parent, key)) {
        if !part.is_empty() {
            text = format!("{text}/{part}");
        }
    }
    vec![name(address), text.into()]
}

pub(super) const SERVICE_CIDR: &[Column] = &[Column::text("CIDRs", "Ranges that addresses are taken from.")];

pub(super) fn service_cidr(cidr: &Value, _: Timestamp) -> Vec<Value> {
    vec![join_texts(list_at(cidr, "spec.cidrs")).into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells() {
        let now = Timestamp::UNIX_EPOCH;
        let hosts: Vec<Value> = ["a", "b", "c", "d"].map(|h| json!({"host": h})).to_vec();
        let object = json!({"spec": {"ingressClassName": "nginx", "rules": hosts, "tls": [{}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}});
        assert_eq!(ingress(&object, now), ["nginx", "a,b,c + 1 more...", "1.2.3.4", "80, 443"]);
        assert_eq!(ingress(&json!({}), now), ["<none>", "*", "", "80"]);
        let named = |hosts: &[&str]| {
            let rules: Vec<Value> = hosts.iter().map(|h| json!({"host": h})).collect();
            super::hosts(&json!({"spec": {"rules": rules}}))
        };
        assert_eq!(named(&["", "a", "b", "c"]), "a,b,c");
        assert_eq!(named(&["a", "b", "c", ""]), "a,b,c + 1 more...");
        let object = json!({"spec": {"controller": "x/y", "parameters": {"apiGroup": "k.io", "kind": "P", "name": "n"}}});
        assert_eq!(ingress_class(&object, now), ["x/y", "P.k.io/n"]);
        let parent =
            json!({"group": "", "resource": "services", "namespace": "default", "name": "kubernetes"});
        let object = json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": parent}});
        assert_eq!(ip_address(&object, now), ["10.0.0.1", "services/default/kubernetes"]);
        assert_eq!(network_policy(&json!({"spec": {"podSelector": {}}}), now), ["<none>"]);
    }
}
