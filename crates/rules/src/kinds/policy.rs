//! PodDisruptionBudgets.

use isopod_api::Value;

use super::Strategy;
use super::bounds::{at_most_all, int_or_percent};
use super::check::{At, check};
use super::columns::{Column, int_cell};
use super::podspec::label_selector;
use super::shared::at;

pub(super) const STRATEGIES: &[&Strategy] = &[&Strategy {
    group: "policy",
    kind: "PodDisruptionBudget",
    generation: true,
    validate: |budget, _| check(budget, |budget| rules(&budget)),
    validate_update: |budget, _, _| check(budget, |budget| rules(&budget)),
    validate_status_update: |budget, _, _| check(budget, |budget| status(&budget)),
    columns: COLUMNS,
    row: |budget, _| {
        let bound = |path: &str| at(budget, path).map_or_else(|| "N/A".to_owned(), text);
        vec![
            bound("spec.minAvailable").into(),
            bound("spec.maxUnavailable").into(),
            int_cell(budget, "status.disruptionsAllowed"),
        ]
    },
    ..Strategy::DEFAULT
}];

const COLUMNS: &[Column] = &[
    Column::text("Min Available", "Fewest pods that must stay available."),
    Column::text("Max Unavailable", "Most pods that may be unavailable."),
    Column::integer("Allowed Disruptions", "Pods that may be disrupted now."),
];

fn text(number_or_percent: &Value) -> String {
    number_or_percent.as_str().map_or_else(|| number_or_percent.to_string(), str::to_owned)
}

fn rules(budget: &At<'_>) {
    let spec = budget.field("spec");
    let bounds = ["minAvailable", "maxUnavailable"].map(|field| spec.field(field));
    if bounds.iter().all(At::is_set) {
        spec.invalid("minAvailable and maxUnavailable cannot be both set");
    }
    for bound in &bounds {
        int_or_percent(bound);
        at_most_all(bound);
    }
    label_selector(&spec.field("selector"));
    spec.field("unhealthyPodEvictionPolicy").one_of(&["AlwaysAllow", "IfHealthyBudget"]);
}

fn status(budget: &At<'_>) {
    for count in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        budget.field("status").field(count).not_negative();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::check::texts;
    use serde_json::json;

    #[test]
    fn faults() {
        let budget = json!({"spec": {"minAvailable": "150%", "maxUnavailable": -1}});
        assert_eq!(
            texts(&check(&budget, |budget| rules(&budget))),
            [
                "spec: Invalid value: {\"maxUnavailable\":-1,\"minAvailable\":\"150%\"}: minAvailable and maxUnavailable cannot be both set",
                "spec.minAvailable: Invalid value: \"150%\": must not be greater than 100%",
                "spec.maxUnavailable: Invalid value: -1: must be greater than or equal to 0",
            ]
        );
    }
}
