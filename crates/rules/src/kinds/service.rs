//! Services. Addresses and node ports are allocated by the API server, around these functions.

use super::Strategy;

pub(super) const STRATEGIES: &[&Strategy] = &[&Strategy {
    group: "",
    kind: "Service",
    name: super::meta::label_1035,
    create_on_update: true,
    selectable: &[("spec.clusterIP", "spec.clusterIP"), ("spec.type", "spec.type")],
    ..Strategy::DEFAULT
}];
