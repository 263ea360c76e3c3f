//! HorizontalPodAutoscalers.

mod columns;
mod validate;

use super::Strategy;

pub(super) const STRATEGIES: &[&Strategy] = &[&Strategy {
    group: "autoscaling",
    kind: "HorizontalPodAutoscaler",
    validate: validate::autoscaler,
    validate_update: |new, _, context| validate::autoscaler(new, context),
    columns: columns::AUTOSCALER,
    row: columns::autoscaler,
    ..Strategy::DEFAULT
}];
