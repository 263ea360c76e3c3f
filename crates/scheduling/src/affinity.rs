//! Node selectors and required or preferred node affinity, compiled once a pod.

use isopod_api::selector::{Operator, Requirement};
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec};
use std::collections::BTreeMap;

/// One compiled term: all its expressions and fields must hold. An empty term matches nothing.
#[derive(Clone, Debug)]
pub struct Term {
    labels: Vec<Requirement>,
    name_fields: Vec<Requirement>,
    broken: bool,
}

fn compile(requirement: &NodeSelectorRequirement) -> Option<Requirement> {
    let values = requirement.values.clone().unwrap_or_default();
    let number = || values.first()?.parse::<i64>().ok();
    let operator = match requirement.operator.as_str() {
        "In" => Operator::In(values),
        "NotIn" => Operator::NotIn(values),
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan(number()?),
        "Lt" => Operator::LessThan(number()?),
        _ => return None,
    };
    Some(Requirement { key: requirement.key.clone(), operator })
}

impl Term {
    /// Compiles a term; a malformed requirement makes it match nothing.
    pub fn new(term: &NodeSelectorTerm) -> Self {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        let labels: Vec<_> = expressions.iter().filter_map(compile).collect();
        let name_fields: Vec<_> =
            fields.iter().filter(|f| f.key == "metadata.name").filter_map(compile).collect();
        let broken = labels.len() != expressions.len()
            || name_fields.len() != fields.len()
            || expressions.is_empty() && fields.is_empty();
        Term { labels, name_fields, broken }
    }
    /// Whether a node of this name and these labels matches.
    pub fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        if self.broken || !self.labels.iter().all(|r| r.matches(labels)) {
            return false;
        }
        if self.name_fields.is_empty() {
            return true;
        }
        let fields = BTreeMap::from([("metadata.name".to_owned(), name.to_owned())]);
        self.name_fields.iter().all(|r| r.matches(&fields))
    }
    /// The node names that this term is limited to by `metadata.name In (…)`, if it is.
    pub fn names(&self) -> Option<&[String]> {
        self.name_fields.iter().find_map(|r| match &r.operator {
            Operator::In(names) => Some(names.as_slice()),
            _ => None,
        })
    }
}

/// What a pod requires of, and prefers in, a node.
#[derive(Clone, Debug, Default)]
pub struct NodeAffinity {
    selector: Vec<(String, String)>,
    required: Option<Vec<Term>>,
    /// Weight and term.
    pub preferred: Vec<(i64, Term)>,
}

impl NodeAffinity {
    /// Compiles a pod's `nodeSelector` and node affinity.
    pub fn new(spec: &PodSpec) -> Self {
        let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        let required = affinity
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
            .map(|s| s.node_selector_terms.iter().map(Term::new).collect());
        let preferred = affinity
            .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref())
            .unwrap_or_default()
            .iter()
            .filter(|p| p.weight != 0)
            .map(|p| (i64::from(p.weight), Term::new(&p.preference)))
            .collect();
        let selector = spec.node_selector.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        NodeAffinity { selector, required, preferred }
    }
    /// Whether a node satisfies the selector and the required affinity; terms are alternatives.
    pub fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.selector.iter().all(|(k, v)| labels.get(k) == Some(v))
            && self.required.as_ref().is_none_or(|terms| terms.iter().any(|t| t.matches(name, labels)))
    }
    /// Whether nothing is required.
    pub fn requires_nothing(&self) -> bool {
        self.selector.is_empty() && self.required.is_none()
    }
    /// The only nodes that can match, when every required term names nodes (as DaemonSet pods do).
    pub fn names(&self) -> Option<Vec<&str>> {
        let mut out = Vec::new();
        for term in self.required.as_ref()? {
            out.extend(term.names()?.iter().map(String::as_str));
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_alternatives_and_an_empty_one_matches_nothing() {
        let spec: PodSpec = serde_json::from_value(serde_json::json!({
            "containers": [], "nodeSelector": {"disk": "ssd"},
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {}, {"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["3"]}]},
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n9"]}]}]}}}}))
        .expect("spec");
        let affinity = NodeAffinity::new(&spec);
        let labels = |cores: &str, disk: &str| {
            BTreeMap::from([("cores".to_owned(), cores.to_owned()), ("disk".to_owned(), disk.to_owned())])
        };
        assert!(affinity.matches("n1", &labels("4", "ssd")));
        assert!(!affinity.matches("n1", &labels("4", "hdd")));
        assert!(!affinity.matches("n1", &labels("3", "ssd")));
        assert!(affinity.matches("n9", &labels("3", "ssd")));
        assert_eq!(affinity.names(), None);
    }
}
