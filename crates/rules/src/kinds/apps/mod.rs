//! Deployments, ReplicaSets, StatefulSets, DaemonSets, ControllerRevisions and ReplicationControllers.

mod columns;

use isopod_api::Value;

use super::{Context, Strategy};

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy { columns: columns::DEPLOYMENT, row: columns::deployment, ..workload("Deployment") },
    &Strategy { columns: columns::DAEMON_SET, row: columns::daemon_set, ..workload("DaemonSet") },
    &Strategy { columns: columns::STATEFUL_SET, row: columns::stateful_set, ..workload("StatefulSet") },
    &replicas("ReplicaSet"),
    &Strategy {
        group: "apps",
        kind: "ControllerRevision",
        columns: columns::REVISION,
        row: columns::revision,
        ..Strategy::DEFAULT
    },
    &Strategy { group: "", orphan_by_default: true, ..replicas("ReplicationController") },
];

const fn replicas(kind: &'static str) -> Strategy {
    Strategy {
        selectable: &[("status.replicas", "status.replicas")],
        columns: columns::REPLICAS,
        row: columns::replicas,
        ..workload(kind)
    }
}

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
