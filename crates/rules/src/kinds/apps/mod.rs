//! Deployments, ReplicaSets, StatefulSets, DaemonSets, ControllerRevisions and ReplicationControllers.

mod columns;
mod validate;

use isopod_api::Value;

use super::{Context, Strategy, meta, pod};

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy {
        validate: validate::deployment,
        validate_update: validate::deployment_update,
        validate_status_update: validate::deployment_status,
        columns: columns::DEPLOYMENT,
        row: columns::deployment,
        ..workload("Deployment")
    },
    &Strategy {
        validate: validate::daemon_set,
        validate_update: validate::daemon_set_update,
        validate_status_update: validate::daemon_set_status,
        columns: columns::DAEMON_SET,
        row: columns::daemon_set,
        ..workload("DaemonSet")
    },
    &Strategy {
        name: meta::label,
        validate: validate::stateful_set,
        validate_update: validate::stateful_set_update,
        validate_status_update: validate::stateful_set_status,
        columns: columns::STATEFUL_SET,
        row: columns::stateful_set,
        ..workload("StatefulSet")
    },
    &Strategy {
        validate: validate::replica_set,
        validate_update: validate::replica_set_update,
        ..replicas("ReplicaSet")
    },
    &Strategy {
        group: "",
        orphan_by_default: true,
        validate: validate::replication_controller,
        validate_update: validate::replication_controller_update,
        ..replicas("ReplicationController")
    },
    &Strategy {
        group: "apps",
        kind: "ControllerRevision",
        validate: validate::revision,
        validate_update: validate::revision_update,
        columns: columns::REVISION,
        row: columns::revision,
        ..Strategy::DEFAULT
    },
];

const fn replicas(kind: &'static str) -> Strategy {
    Strategy {
        validate_status_update: validate::replicas_status,
        selectable: &[("status.replicas", "status.replicas")],
        selectable_absent: &[("status.replicas", "0")],
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
        warnings: |new, old| pod::template_warnings(new, old, "spec.template"),
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
