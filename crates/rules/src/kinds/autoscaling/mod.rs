//! HorizontalPodAutoscalers.

mod columns;

use super::Strategy;

pub(super) const STRATEGIES: &[&Strategy] = &[&Strategy {
    group: "autoscaling",
    kind: "HorizontalPodAutoscaler",
    columns: columns::AUTOSCALER,
    row: columns::autoscaler,
    ..Strategy::DEFAULT
}];
