//! ServiceAccounts.

use super::Strategy;

pub(super) const STRATEGIES: &[&Strategy] =
    &[&Strategy { group: "", kind: "ServiceAccount", ..Strategy::DEFAULT }];
