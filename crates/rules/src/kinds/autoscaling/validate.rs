//! What HorizontalPodAutoscalers obey.

use isopod_api::field::ErrorList;
use isopod_api::{Value, names};

use crate::kinds::Context;
use crate::kinds::check::{At, check};
use crate::kinds::podspec::label_selector;

/// Longest look back at former recommendations, in seconds.
const STABILIZATION_SECONDS_MAX: i64 = 3600;
/// Longest period that a policy counts changes over, in seconds.
const PERIOD_SECONDS_MAX: i64 = 1800;

/// Types of metrics and the fields that hold them.
const SOURCES: &[(&str, &str)] = &[
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];

pub(super) fn autoscaler(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |autoscaler| {
        let spec = autoscaler.field("spec");
        let (min, max) = (spec.field("minReplicas"), spec.field("maxReplicas"));
        if min.int().is_some_and(|m| m < 1) {
            min.invalid("must be greater than or equal to 1");
        }
        let most = max.int().unwrap_or(0);
        if most < 1 {
            max.invalid_as(most, "must be greater than 0");
        }
        if min.int().is_some_and(|m| most < m) {
            max.invalid_as(most, "must be greater than or equal to `minReplicas`");
        }
        reference(&spec.field("scaleTargetRef"));
        spec.field("metrics").items().for_each(|m| metric(&m));
        for direction in ["scaleUp", "scaleDown"] {
            let rules = spec.field("behavior").field(direction);
            if rules.is_set() {
                scaling_rules(&rules);
            }
        }
    })
}

fn reference(target: &At<'_>) {
    target.field("kind").needs(names::is_path_segment_name);
    target.field("name").needs(names::is_path_segment_name);
}

fn metric(metric: &At<'_>) {
    let kind = metric.field("type");
    if kind.is_empty() {
        kind.required("must specify a metric source type");
    } else {
        kind.one_of(&SOURCES.iter().map(|(kind, _)| *kind).collect::<Vec<_>>());
    }
    for (name, field) in SOURCES {
        let source = metric.field(field);
        match (*name == kind.str(), source.is_set()) {
            (true, false) => source.required("must populate information for the given metric source"),
            (false, true) => source.forbidden("must populate the given metric source only"),
            (true, true) => metric_source(&source, name),
            (false, false) => {}
        }
    }
}

fn metric_source(source: &At<'_>, kind: &str) {
    let target = source.field("target");
    metric_target(&target);
    let (value, average) = (target.field("value"), target.field("averageValue"));
    match kind {
        "Resource" | "ContainerResource" => {
            if source.field("name").is_empty() {
                source.field("name").required("must specify a resource name");
            }
            let container = source.field("container");
            if kind == "ContainerResource" && container.is_empty() {
                container.required("must specify a container");
            } else if kind == "ContainerResource" {
                container.must_follow(names::is_dns1123_label);
            }
            let utilization = target.field("averageUtilization");
            match (utilization.is_set(), average.is_set()) {
                (false, false) => {
                    utilization.required("must set either a target raw value or a target utilization");
                }
                (true, true) => {
                    average.forbidden("may not set both a target raw value and a target utilization")
                }
                _ => {}
            }
            return;
        }
        "Pods" => {
            if !average.is_set() {
                average.required("must specify a positive target averageValue");
            }
        }
        // An Object's metric may have both: its value is then what counts.
        "Object" => {
            reference(&source.field("describedObject"));
            if !value.is_set() && !average.is_set() {
                average.required("must set either a target value or averageValue");
            }
        }
        _ => match (value.is_set(), average.is_set()) {
            (false, false) => {
                average.required("must set either a target value for metric or a per-pod target");
            }
            (true, true) => {
                value.forbidden("may not set both a target value for metric and a per-pod target");
            }
            _ => {}
        },
    }
    let name = source.field("metric.name");
    if name.is_empty() {
        name.required("must specify a metric name");
    } else {
        name.must_follow(names::is_path_segment_name);
    }
    label_selector(&source.field("metric.selector"));
}

fn metric_target(target: &At<'_>) {
    let kind = target.field("type");
    if kind.is_empty() {
        kind.required("must specify a metric target type");
    } else if !matches!(kind.str(), "Utilization" | "Value" | "AverageValue") {
        kind.invalid("must be either Utilization, Value, or AverageValue");
    }
    for amount in ["value", "averageValue"].map(|field| target.field(field)) {
        if amount.quantity().is_some_and(|q| q.signum() != 1) {
            amount.invalid("must be positive");
        }
    }
    let utilization = target.field("averageUtilization");
    if utilization.int().is_some_and(|u| u < 1) {
        utilization.invalid("must be greater than 0");
    }
}

fn scaling_rules(rules: &At<'_>) {
    let window = rules.field("stabilizationWindowSeconds");
    match window.int() {
        Some(w) if w < 0 => window.invalid("must be greater than or equal to zero"),
        Some(w) if w > STABILIZATION_SECONDS_MAX => {
            window.invalid(format!("must be less than or equal to {STABILIZATION_SECONDS_MAX}"));
        }
        _ => {}
    }
    rules.field("selectPolicy").one_of(&["Disabled", "Max", "Min"]);
    if rules.field("policies").is_empty() {
        rules.field("policies").required("must specify at least one Policy");
    }
    for policy in rules.field("policies").items() {
        policy.field("type").needs_one_of(&["Percent", "Pods"]);
        for number in ["value", "periodSeconds"].map(|field| policy.field(field)) {
            if number.int().unwrap_or(0) <= 0 {
                number.invalid_as(number.int().unwrap_or(0), "must be greater than zero");
            }
        }
        let period = policy.field("periodSeconds");
        if period.int().is_some_and(|p| p > PERIOD_SECONDS_MAX) {
            period.invalid(format!("must be less than or equal to {PERIOD_SECONDS_MAX}"));
        }
    }
    let tolerance = rules.field("tolerance");
    if tolerance.quantity().is_some_and(|t| t.signum() < 0) {
        tolerance.invalid("must be greater than or equal to 0");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::check::texts;
    use serde_json::json;

    #[test]
    fn faults() {
        let object = json!({"spec": {"minReplicas": 3, "maxReplicas": 2, "scaleTargetRef": {"kind": "Deployment"},
            "metrics": [{"type": "Resource"}, {"type": "Pods", "pods": {"target": {"type": "X"}}, "object": {}}]}});
        assert_eq!(
            texts(&autoscaler(&object, &Context::TEST)),
            [
                "spec.maxReplicas: Invalid value: 2: must be greater than or equal to `minReplicas`",
                "spec.scaleTargetRef.name: Required value",
                "spec.metrics[0].resource: Required value: must populate information for the given metric source",
                "spec.metrics[1].object: Forbidden: must populate the given metric source only",
                "spec.metrics[1].pods.target.type: Invalid value: \"X\": must be either Utilization, Value, or AverageValue",
                "spec.metrics[1].pods.target.averageValue: Required value: must specify a positive target averageValue",
                "spec.metrics[1].pods.metric.name: Required value: must specify a metric name",
            ]
        );
    }

    #[test]
    fn sources() {
        let reference = json!({"kind": "Deployment", "name": "web"});
        let both = json!({"type": "Value", "value": "5", "averageValue": "1"});
        let object = json!({"spec": {"maxReplicas": 2, "scaleTargetRef": reference, "metrics": [
            {"type": "Object", "object": {"describedObject": reference, "metric": {"name": "m"}, "target": both}},
            {"type": "External", "external": {"metric": {"name": "m"}, "target": both}},
            {"type": "Object", "object": {"describedObject": reference, "metric": {"name": "m"},
                "target": {"type": "Value"}}},
            {"type": "ContainerResource", "containerResource": {"name": "cpu", "target": {
                "type": "Utilization", "averageUtilization": 50}}},
            {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "A", "target": {
                "type": "Utilization", "averageUtilization": 50}}},
        ]}});
        let found = texts(&autoscaler(&object, &Context::TEST));
        let starts = [
            "spec.metrics[1].external.target.value: Forbidden: may not set both a target value for metric and a",
            "spec.metrics[2].object.target.averageValue: Required value: must set either a target value or averageValue",
            "spec.metrics[3].containerResource.container: Required value: must specify a container",
            "spec.metrics[4].containerResource.container: Invalid value: \"A\": a lowercase RFC 1123 label",
        ];
        assert_eq!(found.len(), starts.len(), "{found:?}");
        for (found, start) in found.iter().zip(starts) {
            assert!(found.starts_with(start), "{found} is not {start}");
        }
    }
}
