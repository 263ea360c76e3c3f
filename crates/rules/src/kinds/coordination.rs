//! Leases.

use super::Strategy;

pub(super) const STRATEGIES: &[&Strategy] = &[&Strategy {
    group: "coordination.k8s.io",
    kind: "Lease",
    create_on_update: true,
    unconditional_update: false,
    ..Strategy::DEFAULT
}];
