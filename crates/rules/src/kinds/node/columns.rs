//! Tables of Nodes and RuntimeClasses.

use std::collections::BTreeSet;

use isopod_api::Value;
use jiff::Timestamp;

use crate::kinds::columns::{AGE, Column, NAME, age_cell, name, or};
use crate::kinds::shared::{at, bool_at, list_at, str_at};

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";

pub(super) const NODE: &[Column] = &[
    NAME,
    Column::text("Status", "Whether the node is ready, and takes new pods."),
    Column::text("Roles", "Roles of the node, from its labels."),
    AGE,
    Column::text("Version", "Version of the node's kubelet."),
    Column::text("Internal-IP", "Address inside the cluster.").wide(),
    Column::text("External-IP", "Address outside the cluster.").wide(),
    Column::text("OS-Image", "Operating system.").wide(),
    Column::text("Kernel-Version", "Version of the kernel.").wide(),
    Column::text("Container-Runtime", "Container runtime and its version.").wide(),
];

pub(super) fn node(node: &Value, now: Timestamp) -> Vec<Value> {
    let address = |kind: &str| {
        let addresses = list_at(node, "status.addresses").iter();
        let found = addresses.filter(|a| str_at(a, "type") == kind).map(|a| str_at(a, "address")).next();
        Value::from(found.unwrap_or("<none>"))
    };
    let info = |key: &str| {
        let info = at(node, "status.nodeInfo").map_or("", |info| str_at(info, key));
        Value::from(or(info, "<unknown>"))
    };
    vec![
        name(node),
        status(node).into(),
        or(&roles(node), "<none>").into(),
        age_cell(node, now),
        str_at(node, "status.nodeInfo.kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn status(node: &Value) -> String {
    let ready = list_at(node, "status.conditions").iter().find(|c| str_at(c, "type") == "Ready");
    let status = match ready.map(|c| str_at(c, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let cordoned = if bool_at(node, "spec.unschedulable") { ",SchedulingDisabled" } else { "" };
    format!("{status}{cordoned}")
}

fn roles(node: &Value) -> String {
    let labels = at(node, "metadata.labels").and_then(Value::as_object).into_iter().flatten();
    let role = |(key, value): (&'_ String, &Value)| match key.strip_prefix(ROLE_PREFIX) {
        Some(role) => Some(role.to_owned()),
        None if key == ROLE_LABEL => value.as_str().map(str::to_owned),
        None => None,
    };
    let roles: BTreeSet<String> = labels.filter_map(role).filter(|role| !role.is_empty()).collect();
    roles.into_iter().collect::<Vec<_>>().join(",")
}

pub(super) const RUNTIME_CLASS: &[Column] = &[Column::text("Handler", "Handler of the container runtime.")];

pub(super) fn runtime_class(class: &Value, _: Timestamp) -> Vec<Value> {
    vec![str_at(class, "handler").into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells() {
        let object = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "a"}},
            "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "nodeInfo": {"kubeletVersion": "v1.36.3", "osImage": "Debian"}}});
        assert_eq!(
            node(&object, Timestamp::UNIX_EPOCH),
            [
                "n",
                "Ready,SchedulingDisabled",
                "a,control-plane",
                "<unknown>",
                "v1.36.3",
                "10.0.0.1",
                "<none>",
                "Debian",
                "<unknown>",
                "<unknown>"
            ]
        );
        assert_eq!(status(&json!({})), "Unknown");
    }
}
