//! Nodes and RuntimeClasses.

use super::Strategy;

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy {
        group: "",
        kind: "Node",
        // A kubelet registers with the status it has measured.
        keep_status_on_create: true,
        selectable: &[("spec.unschedulable", "spec.unschedulable")],
        ..Strategy::DEFAULT
    },
    &Strategy { group: "node.k8s.io", kind: "RuntimeClass", ..Strategy::DEFAULT },
];
