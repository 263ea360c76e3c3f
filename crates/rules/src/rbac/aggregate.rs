//! Cluster roles that are the sum of others: those whose labels a selector chooses.

use isopod_api::Value;
use isopod_api::selector::LabelSelector;
use serde_json::json;

/// The rules an aggregated role is to have, if it is one and they differ from those it has.
///
/// Rules are taken from the chosen roles in order of name, each once, and never from the role itself, as
/// upstream's controller does.
pub fn aggregated_rules(role: &Value, all: &[Value]) -> Option<Value> {
    let selectors = role.pointer("/aggregationRule/clusterRoleSelectors")?.as_array()?;
    let own = name(role);
    let mut rules: Vec<Value> = Vec::new();
    for selector in selectors {
        let Ok(selector) = LabelSelector::from_value(selector) else { continue };
        let mut chosen: Vec<&Value> =
            all.iter().filter(|other| name(other) != own && selector.matches(&labels(other))).collect();
        chosen.sort_by_key(|other| name(other));
        for rule in chosen.iter().filter_map(|other| other.get("rules")?.as_array()).flatten() {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    let current = role.get("rules").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    (current != rules.as_slice()).then(|| json!(rules))
}

fn name(role: &Value) -> &str {
    role.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("")
}

fn labels(role: &Value) -> std::collections::BTreeMap<String, String> {
    let labels = role.pointer("/metadata/labels").and_then(Value::as_object);
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    labels.into_iter().flatten().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_the_chosen_without_itself() {
        let role = |name: &str, verbs: &str| {
            json!({"metadata": {"name": name, "labels": {"to-all": "true"}},
            "rules": [{"verbs": [verbs], "apiGroups": [""], "resources": ["pods"]}]})
        };
        let mut all = vec![role("b", "list"), role("a", "get"), role("c", "get")];
        let mut sum = role("sum", "delete");
        sum["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"to-all": "true"}}]});
        all.push(sum.clone());
        let rules = aggregated_rules(&sum, &all).expect("changed");
        let verbs: Vec<&str> =
            rules.as_array().into_iter().flatten().filter_map(|r| r["verbs"][0].as_str()).collect();
        assert_eq!(verbs, ["get", "list"]);
        sum["rules"] = rules;
        assert_eq!(aggregated_rules(&sum, &all), None);
        assert_eq!(aggregated_rules(&all[0], &all), None);
    }
}
