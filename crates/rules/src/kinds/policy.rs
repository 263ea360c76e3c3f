//! PodDisruptionBudgets.

use isopod_api::Value;

use super::Strategy;
use super::columns::{Column, int_cell};
use super::shared::at;

pub(super) const STRATEGIES: &[&Strategy] = &[&Strategy {
    group: "policy",
    kind: "PodDisruptionBudget",
    generation: true,
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
