//! ResourceQuotas and LimitRanges.

use super::Strategy;

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy { group: "", kind: "ResourceQuota", ..Strategy::DEFAULT },
    &Strategy { group: "", kind: "LimitRange", create_on_update: true, ..Strategy::DEFAULT },
];
