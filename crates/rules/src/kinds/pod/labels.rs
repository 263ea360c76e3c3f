//! `matchLabelKeys` of affinity terms and topology constraints, which become part of their label selectors
//! when the pod is made.

use isopod_api::Value;
use isopod_api::object::child_mut;
use serde_json::json;

use crate::kinds::shared::list_at;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Adds an expression for every such key that the pod has a label for.
pub(super) fn merge_match_label_keys(pod: &mut Value) {
    let labels = pod["metadata"]["labels"].clone();
    if let Some(spec) = pod.get_mut("spec") {
        for constraint in items(spec.get_mut("topologySpreadConstraints")) {
            merge(constraint, &labels, "matchLabelKeys", "In");
        }
        for kind in ["podAffinity", "podAntiAffinity"] {
            let Some(affinity) = spec.get_mut("affinity").and_then(|a| a.get_mut(kind)) else { continue };
            for term in items(affinity.get_mut(REQUIRED)) {
                merge_both(term, &labels);
            }
            for weighted in items(affinity.get_mut(PREFERRED)) {
                if let Some(term) = weighted.get_mut("podAffinityTerm") {
                    merge_both(term, &labels);
                }
            }
        }
    }
}

fn items(list: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    list.and_then(Value::as_array_mut).into_iter().flatten()
}

fn merge_both(term: &mut Value, labels: &Value) {
    merge(term, labels, "matchLabelKeys", "In");
    merge(term, labels, "mismatchLabelKeys", "NotIn");
}

fn merge(term: &mut Value, labels: &Value, field: &str, operator: &str) {
    if term.get("labelSelector").is_none() {
        return;
    }
    let mut added = Vec::new();
    for key in list_at(term, field).iter().filter_map(Value::as_str) {
        if let Some(value) = labels.get(key) {
            added.push(json!({"key": key, "operator": operator, "values": [value]}));
        }
    }
    if added.is_empty() {
        return;
    }
    let selector = child_mut(term, "labelSelector");
    let expressions = selector.entry("matchExpressions").or_insert_with(|| json!([]));
    if let Some(expressions) = expressions.as_array_mut() {
        // A pod made from another one has them already.
        added.retain(|expression| !expressions.contains(expression));
        expressions.extend(added);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_expressions_once() {
        let mut pod = json!({"metadata": {"labels": {"app": "a", "hash": "h"}}, "spec": {
            "topologySpreadConstraints": [{"labelSelector": {}, "matchLabelKeys": ["hash", "absent"]}],
            "affinity": {"podAntiAffinity": {(REQUIRED): [{"labelSelector": {}, "mismatchLabelKeys": ["app"]}]}}}});
        merge_match_label_keys(&mut pod);
        merge_match_label_keys(&mut pod);
        let selector = |v: &Value| v["labelSelector"]["matchExpressions"].clone();
        assert_eq!(
            selector(&pod["spec"]["topologySpreadConstraints"][0]),
            json!([{"key": "hash", "operator": "In", "values": ["h"]}])
        );
        assert_eq!(
            selector(&pod["spec"]["affinity"]["podAntiAffinity"][REQUIRED][0]),
            json!([{"key": "app", "operator": "NotIn", "values": ["a"]}])
        );
    }
}
