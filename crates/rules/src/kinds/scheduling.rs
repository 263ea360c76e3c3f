//! PriorityClasses, and groups of pods that are scheduled together.

use super::Strategy;
use super::check::{At, check, check_update};
use super::columns::{AGE, Column, NAME, age_cell, bool_cell, int_cell, name};
use super::shared::str_at;

pub(super) const STRATEGIES: &[&Strategy] = &[&Strategy {
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    generation: true,
    validate: |class, _| check(class, |class| rules(&class)),
    validate_update: |new, old, _| check_update(new, old, |new, old| stays(&new, &old)),
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

/// Highest priority that users can give.
const USER_PRIORITY_MAX: i64 = 1_000_000_000;
/// The classes of the system, and their priorities.
const SYSTEM: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

fn rules(class: &At<'_>) {
    let (name, value) = (class.field("metadata.name"), class.field("value"));
    if name.str().starts_with("system-") {
        let known = SYSTEM.iter().find(|(system, _)| *system == name.str());
        let wrong = match known {
            None => Some(format!("{} is not a known system priority class", name.str())),
            Some((_, v)) if value.int() != Some(*v) => {
                Some(format!("value of {} PriorityClass must be {v}", name.str()))
            }
            Some(_) if class.field("globalDefault").is_true() => {
                Some(format!("globalDefault of {} PriorityClass must be false", name.str()))
            }
            Some(_) => None,
        };
        if let Some(why) = wrong {
            name.forbidden(format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
            ));
        }
    } else if value.int().is_some_and(|v| v > USER_PRIORITY_MAX) {
        value.forbidden(format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}"));
    }
    class.field("preemptionPolicy").one_of(&["Never", "PreemptLowerPriority"]);
}

/// Pods carry the class's number, so a class cannot change it.
fn stays(new: &At<'_>, old: &At<'_>) {
    if new.field("value").int().unwrap_or(0) != old.field("value").int().unwrap_or(0) {
        new.field("value").forbidden("may not be changed in an update.");
    }
    new.field("preemptionPolicy").unchanged(&old.field("preemptionPolicy"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::check::texts;
    use serde_json::json;

    #[test]
    fn faults() {
        let class = |name: &str, value: i64| json!({"metadata": {"name": name}, "value": value});
        let create = |object: serde_json::Value| texts(&check(&object, |class| rules(&class)));
        assert_eq!(create(class("a", 5)), Vec::<String>::new());
        assert_eq!(create(class("system-node-critical", 2_000_001_000)), Vec::<String>::new());
        assert_eq!(
            create(class("a", 1_000_000_001)),
            ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]
        );
        assert_eq!(
            create(class("system-x", 5)),
            [
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-x is not a known system priority class"
            ]
        );
        assert_eq!(
            texts(&check_update(&class("a", 5), &class("a", 6), |new, old| stays(&new, &old))),
            ["value: Forbidden: may not be changed in an update."]
        );
    }
}
