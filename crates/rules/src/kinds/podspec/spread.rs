//! Tolerations and topology spread constraints.

use std::collections::BTreeSet;

use isopod_api::field::Error;
use isopod_api::names;

use super::affinity::label_selector;
use crate::kinds::check::At;

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
const UNSATISFIABLE: &[&str] = &["DoNotSchedule", "ScheduleAnyway"];

/// Validates `tolerations`.
pub(in crate::kinds) fn tolerations(tolerations: &At<'_>) {
    for toleration in tolerations.items() {
        let (key, operator) = (toleration.field("key"), toleration.field("operator"));
        let (value, effect) = (toleration.field("value"), toleration.field("effect"));
        key.follows(names::is_qualified_name);
        if key.is_empty() && operator.str() != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            operator.invalid_as(operator.str(), detail);
        }
        if toleration.field("tolerationSeconds").is_set() && effect.str() != "NoExecute" {
            effect.invalid_as(effect.str(), "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator.str() {
            "" | "Equal" => {
                let messages = names::is_label_value(value.str());
                messages.into_iter().for_each(|message| operator.invalid_as(value.str(), message));
            }
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                operator.invalid_as(toleration.value().clone(), detail);
            }
            "Exists" => {}
            "Lt" | "Gt" if value.str().parse::<i64>().is_ok() => {}
            "Lt" | "Gt" => {
                value.invalid_as(value.str(), "value must be a valid integer for numeric operators")
            }
            _ => operator.one_of(&["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            effect.one_of(EFFECTS);
        }
    }
}

/// Validates `topologySpreadConstraints`.
pub(super) fn topology(constraints: &At<'_>) {
    let mut seen = BTreeSet::new();
    for constraint in constraints.items() {
        let (skew, key) = (constraint.field("maxSkew"), constraint.field("topologyKey"));
        if skew.int().unwrap_or(0) <= 0 {
            skew.invalid_as(skew.int().unwrap_or(0), "must be greater than zero");
        }
        if key.is_empty() {
            key.required("can not be empty");
        } else {
            key.must_follow(names::is_qualified_name);
        }
        let unsatisfiable = constraint.field("whenUnsatisfiable");
        unsatisfiable.one_of(UNSATISFIABLE);
        let pair = format!("{{{}, {}}}", key.str(), unsatisfiable.str());
        if !seen.insert(pair.clone()) {
            let path = constraint.field("{topologyKey, whenUnsatisfiable}").path();
            constraint.report(Error::duplicate(&path, pair));
        }
        domains(&constraint, unsatisfiable.str());
        constraint.field("nodeAffinityPolicy").one_of(&["Honor", "Ignore"]);
        constraint.field("nodeTaintsPolicy").one_of(&["Honor", "Ignore"]);
        let selector = constraint.field("labelSelector");
        let keys = constraint.field("matchLabelKeys");
        if !keys.is_empty() && !selector.is_set() {
            keys.forbidden("must not be specified when labelSelector is not set");
        }
        keys.items().for_each(|key| key.must_follow(names::is_qualified_name));
        label_selector(&selector);
    }
}

fn domains(constraint: &At<'_>, unsatisfiable: &str) {
    let domains = constraint.field("minDomains");
    let Some(count) = domains.int() else { return };
    if count <= 0 {
        domains.invalid("must be greater than zero");
    }
    if unsatisfiable != "DoNotSchedule" {
        let detail =
            format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {unsatisfiable}");
        domains.invalid(detail);
    }
}
