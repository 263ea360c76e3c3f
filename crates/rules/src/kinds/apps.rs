//! Deployments, ReplicaSets, StatefulSets, DaemonSets, ControllerRevisions and ReplicationControllers.

use isopod_api::Value;

use super::{Context, Strategy};

pub(super) const STRATEGIES: &[&Strategy] = &[
    &workload("Deployment"),
    &workload("DaemonSet"),
    &workload("StatefulSet"),
    &Strategy { selectable: &[("status.replicas", "status.replicas")], ..workload("ReplicaSet") },
    &Strategy { group: "apps", kind: "ControllerRevision", ..Strategy::DEFAULT },
    &Strategy {
        group: "",
        selectable: &[("status.replicas", "status.replicas")],
        orphan_by_default: true,
        ..workload("ReplicationController")
    },
    &Strategy { group: "", kind: "PodTemplate", generation: true, ..Strategy::DEFAULT },
];

const fn workload(kind: &'static str) -> Strategy {
    Strategy {
        group: "apps",
        kind,
        generation: true,
        prepare_for_status_update: keep_labels,
        ..Strategy::DEFAULT
    }
}

/// A status update cannot change labels: they select pods.
fn keep_labels(new: &mut Value, old: &Value, _: &Context<'_>) {
    let labels = old.get("metadata").and_then(|m| m.get("labels")).cloned();
    if let Some(meta) = new.get_mut("metadata").and_then(Value::as_object_mut) {
        match labels {
            Some(labels) => meta.insert("labels".to_owned(), labels),
            None => meta.remove("labels"),
        };
    }
}
