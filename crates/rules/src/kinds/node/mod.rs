//! Nodes and RuntimeClasses.

mod columns;
mod validate;

use super::Strategy;

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy {
        group: "",
        kind: "Node",
        // A kubelet registers with the status it has measured.
        keep_status_on_create: true,
        validate: validate::node,
        validate_update: validate::node_update,
        validate_status_update: validate::node_status,
        selectable: &[("spec.unschedulable", "spec.unschedulable")],
        selectable_absent: &[("spec.unschedulable", "false")],
        columns: columns::NODE,
        row: columns::node,
        name_and_age: false,
        ..Strategy::DEFAULT
    },
    &Strategy {
        group: "node.k8s.io",
        kind: "RuntimeClass",
        unconditional_update: false,
        validate: validate::runtime_class,
        validate_update: validate::runtime_class_update,
        columns: columns::RUNTIME_CLASS,
        row: columns::runtime_class,
        ..Strategy::DEFAULT
    },
];
