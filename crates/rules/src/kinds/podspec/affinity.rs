//! Affinity to nodes and to other pods, and the selectors that it is made of.

use isopod_api::names;

use crate::kinds::check::At;
use crate::kinds::meta;

const NEEDS_VALUES: &str = "must be specified when `operator` is 'In' or 'NotIn'";
const NO_VALUES: &str = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
const OPERATOR: &str = "not a valid selector operator";
const WEIGHT: &str = "must be in the range 1-100";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Validates `affinity`.
pub(super) fn affinity(affinity: &At<'_>) {
    let node = affinity.field("nodeAffinity");
    if node.field(REQUIRED).is_set() {
        node_selector(&node.field(REQUIRED));
    }
    for term in node.field(PREFERRED).items() {
        weight(&term);
        node_term(&term.field("preference"));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pod = affinity.field(kind);
        pod.field(REQUIRED).items().for_each(|term| pod_term(&term));
        for term in pod.field(PREFERRED).items() {
            weight(&term);
            pod_term(&term.field("podAffinityTerm"));
        }
    }
}

fn weight(term: &At<'_>) {
    let weight = term.field("weight");
    if !(1..=100).contains(&weight.int().unwrap_or(0)) {
        weight.invalid_as(weight.int().unwrap_or(0), WEIGHT);
    }
}

/// A selector of nodes.
pub(in crate::kinds) fn node_selector(selector: &At<'_>) {
    let terms = selector.field("nodeSelectorTerms");
    if terms.is_empty() {
        terms.required("must have at least one node selector term");
    }
    terms.items().for_each(|term| node_term(&term));
}

fn node_term(term: &At<'_>) {
    for requirement in term.field("matchExpressions").items() {
        let values = requirement.field("values");
        match requirement.field("operator").str() {
            "In" | "NotIn" if values.is_empty() => values.required(NEEDS_VALUES),
            "Exists" | "DoesNotExist" if !values.is_empty() => values.forbidden(NO_VALUES),
            "Gt" | "Lt" if values.len() != 1 => {
                values.required("must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => requirement.field("operator").invalid(OPERATOR),
        }
        requirement.field("key").must_follow(names::is_qualified_name);
        values.items().for_each(|value| value.must_follow(names::is_label_value));
    }
    for requirement in term.field("matchFields").items() {
        let (key, values) = (requirement.field("key"), requirement.field("values"));
        match requirement.field("operator").str() {
            "In" | "NotIn" if values.len() != 1 => values.required(
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            ),
            "In" | "NotIn" => {}
            _ => requirement.field("operator").invalid(OPERATOR),
        }
        if key.str() == "metadata.name" {
            values.items().for_each(|value| value.must_follow(names::is_dns1123_subdomain));
        } else {
            key.invalid("not a valid field selector key");
        }
    }
}

fn pod_term(term: &At<'_>) {
    label_selector(&term.field("labelSelector"));
    label_selector(&term.field("namespaceSelector"));
    for namespace in term.field("namespaces").items() {
        namespace.must_follow(names::is_dns1123_label);
    }
    let key = term.field("topologyKey");
    if key.is_empty() {
        key.required("can not be empty");
    }
    key.must_follow(names::is_qualified_name);
    for keys in ["matchLabelKeys", "mismatchLabelKeys"].map(|k| term.field(k)) {
        if !keys.is_empty() && !term.field("labelSelector").is_set() {
            keys.forbidden("must not be specified when labelSelector is not set");
        }
        keys.items().for_each(|key| key.must_follow(names::is_qualified_name));
    }
}

/// A selector of labels.
pub(in crate::kinds) fn label_selector(selector: &At<'_>) {
    if !selector.is_set() {
        return;
    }
    let labels = selector.field("matchLabels");
    selector.report_all(meta::validate_labels(Some(labels.value()), &labels.path()));
    selector_requirements(&selector.field("matchExpressions"));
}

/// The expressions of a selector of labels.
pub(in crate::kinds) fn selector_requirements(expressions: &At<'_>) {
    for requirement in expressions.items() {
        let values = requirement.field("values");
        match requirement.field("operator").str() {
            "In" | "NotIn" if values.is_empty() => values.required(NEEDS_VALUES),
            "Exists" | "DoesNotExist" if !values.is_empty() => values.forbidden(NO_VALUES),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => requirement.field("operator").invalid(OPERATOR),
        }
        requirement.field("key").must_follow(names::is_qualified_name);
        values.items().for_each(|value| value.must_follow(names::is_label_value));
    }
}
