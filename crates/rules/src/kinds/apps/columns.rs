//! Tables of workloads.

use isopod_api::Value;
use jiff::Timestamp;

use crate::kinds::columns::{
    CONTAINERS, Column, IMAGES, SELECTOR, containers_and_images, int_cell, labels, selector,
};
use crate::kinds::shared::{at, bool_at, int_at, list_at, str_at};

const POD_SPEC: &str = "spec.template.spec";

pub(super) const REPLICAS: &[Column] = &[
    Column::integer("Desired", "Pods wanted."),
    Column::integer("Current", "Pods that exist."),
    Column::integer("Ready", "Pods that are ready."),
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

/// Cells of a ReplicaSet or ReplicationController.
pub(super) fn replicas(object: &Value, _: Timestamp) -> Vec<Value> {
    let [containers, images] = containers_and_images(object, POD_SPEC);
    let by = at(object, "spec.selector");
    let is_set = str_at(object, "kind") != "ReplicationController";
    vec![
        int_cell(object, "spec.replicas"),
        int_cell(object, "status.replicas"),
        int_cell(object, "status.readyReplicas"),
        containers,
        images,
        if is_set { selector(by) } else { labels(by) },
    ]
}

pub(super) const DEPLOYMENT: &[Column] = &[
    Column::text("Ready", "Pods that are ready, of those wanted."),
    Column::text("Up-to-date", "Pods of the newest template."),
    Column::text("Available", "Pods ready for long enough."),
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn ready_of(object: &Value) -> Value {
    format!("{}/{}", int_at(object, "status.readyReplicas"), int_at(object, "spec.replicas")).into()
}

pub(super) fn deployment(object: &Value, _: Timestamp) -> Vec<Value> {
    let [containers, images] = containers_and_images(object, POD_SPEC);
    vec![
        ready_of(object),
        int_cell(object, "status.updatedReplicas"),
        int_cell(object, "status.availableReplicas"),
        containers,
        images,
        selector(at(object, "spec.selector")),
    ]
}

pub(super) const STATEFUL_SET: &[Column] =
    &[Column::text("Ready", "Pods that are ready, of those wanted."), CONTAINERS, IMAGES];

pub(super) fn stateful_set(object: &Value, _: Timestamp) -> Vec<Value> {
    let [containers, images] = containers_and_images(object, POD_SPEC);
    vec![ready_of(object), containers, images]
}

pub(super) const DAEMON_SET: &[Column] = &[
    Column::integer("Desired", "Nodes that should run the pod."),
    Column::integer("Current", "Nodes that should run the pod and have one."),
    Column::integer("Ready", "Nodes whose pod is ready."),
    Column::integer("Up-to-date", "Nodes whose pod is of the newest template."),
    Column::integer("Available", "Nodes whose pod was ready for long enough."),
    Column::text("Node Selector", "Labels by which nodes are selected."),
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) fn daemon_set(object: &Value, _: Timestamp) -> Vec<Value> {
    let [containers, images] = containers_and_images(object, POD_SPEC);
    vec![
        int_cell(object, "status.desiredNumberScheduled"),
        int_cell(object, "status.currentNumberScheduled"),
        int_cell(object, "status.numberReady"),
        int_cell(object, "status.updatedNumberScheduled"),
        int_cell(object, "status.numberAvailable"),
        labels(at(object, "spec.template.spec.nodeSelector")),
        containers,
        images,
        selector(at(object, "spec.selector")),
    ]
}

pub(super) const REVISION: &[Column] = &[
    Column::text("Controller", "Owner of the revision."),
    Column::text("Revision", "Number of the revision."),
];

pub(super) fn revision(object: &Value, _: Timestamp) -> Vec<Value> {
    let owners = list_at(object, "metadata.ownerReferences");
    let controller = owners.iter().find(|owner| bool_at(owner, "controller")).map(|owner| {
        let (group, _) = isopod_api::object::split_api_version(str_at(owner, "apiVersion"));
        let kind = str_at(owner, "kind");
        let dot = if group.is_empty() { "" } else { "." };
        format!("{}/{}", format!("{kind}{dot}{group}").to_lowercase(), str_at(owner, "name"))
    });
    vec![controller.unwrap_or_else(|| "<none>".to_owned()).into(), int_cell(object, "revision")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells() {
        let now = Timestamp::UNIX_EPOCH;
        let template = json!({"spec": {"nodeSelector": {"os": "linux"},
            "containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "j"}]}});
        let selector = json!({"matchLabels": {"app": "web"}});
        let object = json!({"spec": {"replicas": 3, "selector": selector, "template": template},
            "status": {"readyReplicas": 1, "replicas": 2, "updatedReplicas": 2}});
        assert_eq!(
            deployment(&object, now),
            [json!("1/3"), json!(2), json!(0), json!("a,b"), json!("i:1,j"), json!("app=web")]
        );
        assert_eq!(replicas(&object, now)[..3], [3, 2, 1]);
        assert_eq!(stateful_set(&object, now), ["1/3", "a,b", "i:1,j"]);
        assert_eq!(daemon_set(&object, now)[5], "os=linux");
        let owned = json!({"revision": 4, "metadata": {"ownerReferences":
            [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "controller": true}]}});
        assert_eq!(revision(&owned, now), [json!("statefulset.apps/db"), json!(4)]);
    }
}
