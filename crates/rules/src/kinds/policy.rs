//! PodDisruptionBudgets.

use super::Strategy;

pub(super) const STRATEGIES: &[&Strategy] =
    &[&Strategy { group: "policy", kind: "PodDisruptionBudget", generation: true, ..Strategy::DEFAULT }];
