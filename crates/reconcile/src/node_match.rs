//! Whether a node is one that a pod may run on: selector, required affinity, taints.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

use crate::meta::Meta;
use crate::node_lifecycle::eviction::tolerates;

fn requirement(term: &NodeSelectorRequirement, values: &BTreeMap<String, String>) -> bool {
    let have = values.get(&term.key);
    let wanted = term.values.as_deref().unwrap_or_default();
    let number = |text: &String| text.parse::<i64>().ok();
    let compare = |test: fn(i64, i64) -> bool| match (have.and_then(number), wanted.first().and_then(number))
    {
        (Some(have), Some(limit)) => test(have, limit),
        _ => false,
    };
    match term.operator.as_str() {
        "In" => have.is_some_and(|have| wanted.contains(have)),
        "NotIn" => !have.is_some_and(|have| wanted.contains(have)),
        "Exists" => have.is_some(),
        "DoesNotExist" => have.is_none(),
        "Gt" => compare(|a, b| a > b),
        "Lt" => compare(|a, b| a < b),
        _ => false,
    }
}

fn term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    // A term without requirements matches nothing.
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    let own = BTreeMap::from([("metadata.name".to_owned(), node.name().to_owned())]);
    labels.iter().all(|r| requirement(r, node.labels())) && fields.iter().all(|r| requirement(r, &own))
}

/// Whether the pod's node selector and required node affinity allow the node.
pub fn affinity(spec: &PodSpec, node: &Node) -> bool {
    let selected =
        spec.node_selector.iter().flatten().all(|(key, value)| node.labels().get(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|required| required.node_selector_terms.iter().any(|t| term(t, node)))
}

/// Whether a taint of one of these effects is not tolerated.
pub fn untolerated(taints: &[Taint], tolerations: &[Toleration], effects: &[&str]) -> bool {
    taints
        .iter()
        .filter(|taint| effects.contains(&taint.effect.as_str()))
        .any(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selector_and_affinity() {
        let node: Node =
            serde_json::from_str(r#"{"metadata":{"name":"n1","labels":{"disk":"ssd","cores":"8"}}}"#)
                .unwrap();
        let check = |spec: &str| {
            let spec: PodSpec = serde_json::from_str(spec).unwrap();
            affinity(&spec, &node)
        };
        let required = |term: &str| {
            format!(
                r#"{{"containers":[],"affinity":{{"nodeAffinity":{{"requiredDuringSchedulingIgnoredDuringExecution":{{"nodeSelectorTerms":[{term}]}}}}}}}}"#
            )
        };
        assert!(check(r#"{"containers":[],"nodeSelector":{"disk":"ssd"}}"#));
        assert!(!check(r#"{"containers":[],"nodeSelector":{"disk":"hdd"}}"#));
        assert!(check(&required(r#"{"matchExpressions":[{"key":"cores","operator":"Gt","values":["4"]}]}"#)));
        assert!(!check(&required(
            r#"{"matchFields":[{"key":"metadata.name","operator":"In","values":["n2"]}]}"#
        )));
        assert!(!check(&required("{}")));
    }
}
