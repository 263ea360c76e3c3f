//! HorizontalPodAutoscalers.

use super::Strategy;

pub(super) const STRATEGIES: &[&Strategy] =
    &[&Strategy { group: "autoscaling", kind: "HorizontalPodAutoscaler", ..Strategy::DEFAULT }];
