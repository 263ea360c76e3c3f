//! ServiceAccounts.

use super::Strategy;
use super::columns::Column;
use super::shared::list_at;

pub(super) const STRATEGIES: &[&Strategy] = &[&Strategy {
    group: "",
    kind: "ServiceAccount",
    columns: &[Column::text("Secrets", "Secrets that pods of the account may use.")],
    row: |account, _| vec![list_at(account, "secrets").len().into()],
    ..Strategy::DEFAULT
}];
