//! Nodes and RuntimeClasses.

mod columns;

use super::Strategy;

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy {
        group: "",
        kind: "Node",
        // A kubelet registers with the status it has measured.
        keep_status_on_create: true,
        selectable: &[("spec.unschedulable", "spec.unschedulable")],
        columns: columns::NODE,
        row: columns::node,
        name_and_age: false,
        ..Strategy::DEFAULT
    },
    &Strategy {
        group: "node.k8s.io",
        kind: "RuntimeClass",
        columns: columns::RUNTIME_CLASS,
        row: columns::runtime_class,
        ..Strategy::DEFAULT
    },
];
