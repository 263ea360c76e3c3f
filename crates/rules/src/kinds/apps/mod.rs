//! Deployments, ReplicaSets, StatefulSets, DaemonSets, ControllerRevisions and ReplicationControllers.

mod columns;
mod validate;

use isopod_api::Value;
use isopod_api::object::child_mut;

use super::shared::at;
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
        prepare_for_create: |new, _| template_generation(new, 1),
        prepare_for_update: |new, old, _| {
            let changed = at(new, "spec.template") != at(old, "spec.template");
            template_generation(new, known_template_generation(old) + i64::from(changed));
        },
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

/// Where DaemonSets count the changes of their template, for clients that still look there.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn known_template_generation(object: &Value) -> i64 {
    let known = at(object, "metadata.annotations").and_then(|a| a.get(TEMPLATE_GENERATION)?.as_str());
    known.and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn template_generation(object: &mut Value, generation: i64) {
    child_mut(object, "metadata");
    let annotations = child_mut(&mut object["metadata"], "annotations");
    annotations.insert(TEMPLATE_GENERATION.to_owned(), generation.to_string().into());
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
