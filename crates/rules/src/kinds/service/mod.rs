//! Services. Addresses and node ports are allocated by the API server, around these functions.

mod columns;

use super::Strategy;
pub(super) use columns::load_balancer;

pub(super) const STRATEGIES: &[&Strategy] = &[&Strategy {
    group: "",
    kind: "Service",
    name: super::meta::label_1035,
    create_on_update: true,
    selectable: &[("spec.clusterIP", "spec.clusterIP"), ("spec.type", "spec.type")],
    columns: columns::SERVICE,
    row: columns::service,
    ..Strategy::DEFAULT
}];
