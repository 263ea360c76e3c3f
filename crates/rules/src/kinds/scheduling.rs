//! PriorityClasses, and groups of pods that are scheduled together.

use super::Strategy;
use super::columns::{AGE, Column, NAME, age_cell, bool_cell, int_cell, name};
use super::shared::str_at;

pub(super) const STRATEGIES: &[&Strategy] = &[&Strategy {
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    generation: true,
    columns: &[
        NAME,
        Column::integer("Value", "Priority of pods of the class."),
        Column::boolean("Global-Default", "Whether pods without a class get this one."),
        AGE,
        Column::text("PreemptionPolicy", "Whether pods of the class displace others."),
    ],
    row: |class, now| {
        vec![
            name(class),
            int_cell(class, "value"),
            bool_cell(class, "globalDefault", false),
            age_cell(class, now),
            str_at(class, "preemptionPolicy").into(),
        ]
    },
    name_and_age: false,
    ..Strategy::DEFAULT
}];
