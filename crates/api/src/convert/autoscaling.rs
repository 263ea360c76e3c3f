//! Horizontal pod autoscalers: v1 knows one metric, the average CPU use; what else v2 says travels in annotations.

use crate::defaults::{CPU_UTILIZATION_DEFAULT, cpu_metric};
use crate::{Map, Value};
use serde_json::json;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// Member of a metric that holds it, by its type.
fn member(metric: &Map) -> &'static str {
    match metric.get("type").and_then(Value::as_str) {
        Some("Pods") => "pods",
        Some("Object") => "object",
        Some("External") => "external",
        Some("ContainerResource") => "containerResource",
        _ => "resource",
    }
}

fn object<'m>(map: &'m mut Map, key: &str) -> &'m mut Map {
    crate::defaults::object_or_new(map, key)
}

pub(super) fn to_v2(autoscaler: &mut Map) {
    let mut noted = Map::new();
    if let Some(Value::Object(annotations)) = object(autoscaler, "metadata").get_mut("annotations") {
        for name in [METRICS, CURRENT_METRICS, CONDITIONS, BEHAVIOR] {
            let text = annotations.remove(name);
            if let Some(value) =
                text.as_ref().and_then(Value::as_str).and_then(|t| serde_json::from_str(t).ok())
            {
                noted.insert(name.into(), value);
            }
        }
    }
    let mut list = |name: &str| match noted.remove(name) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    let (others, current, conditions) = (list(METRICS), list(CURRENT_METRICS), list(CONDITIONS));
    let spec = object(autoscaler, "spec");
    let mut metrics: Vec<Value> = Vec::new();
    if let Some(percent) = spec.remove("targetCPUUtilizationPercentage").as_ref().and_then(Value::as_i64) {
        metrics.push(cpu_metric(percent));
    }
    metrics.extend(others.into_iter().map(|metric| metric_to_v2(metric, false)));
    if metrics.is_empty() {
        metrics.push(cpu_metric(CPU_UTILIZATION_DEFAULT));
    }
    spec.insert("metrics".into(), Value::Array(metrics));
    if let Some(behavior) = noted.remove(BEHAVIOR) {
        spec.insert("behavior".into(), with_initials(behavior, false));
    }
    let status = object(autoscaler, "status");
    let percent = status.remove("currentCPUUtilizationPercentage");
    let current: Vec<Value> = match (current.is_empty(), percent) {
        (true, Some(percent)) if !percent.is_null() => vec![json!({
            "type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}},
        })],
        _ => current.into_iter().map(|metric| metric_to_v2(metric, true)).collect(),
    };
    status.insert("currentMetrics".into(), Value::Array(current));
    status.insert("conditions".into(), Value::Array(conditions));
}

pub(super) fn to_v1(autoscaler: &mut Map) {
    let mut noted: Vec<(&str, Value)> = Vec::new();
    let spec = object(autoscaler, "spec");
    let mut others = Vec::new();
    let mut percent = None;
    for metric in take_list(spec, "metrics") {
        match cpu_percent(&metric, "target") {
            Some(found) => percent = percent.or(Some(found)),
            None => others.push(metric_to_v1(metric, false)),
        }
    }
    if let Some(percent) = percent {
        spec.insert("targetCPUUtilizationPercentage".into(), percent.into());
    }
    if let Some(behavior) = spec.remove("behavior").filter(Value::is_object) {
        noted.push((BEHAVIOR, with_initials(behavior, true)));
    }
    let status = object(autoscaler, "status");
    let current = take_list(status, "currentMetrics");
    if let Some(percent) = current.iter().find_map(|metric| cpu_percent(metric, "current")) {
        status.insert("currentCPUUtilizationPercentage".into(), percent.into());
    }
    let conditions = take_list(status, "conditions");
    let current: Vec<Value> = current.into_iter().map(|metric| metric_to_v1(metric, true)).collect();
    for (name, list) in [(METRICS, others), (CURRENT_METRICS, current), (CONDITIONS, conditions)] {
        if !list.is_empty() {
            noted.push((name, Value::Array(list)));
        }
    }
    if !noted.is_empty() {
        let annotations = object(object(autoscaler, "metadata"), "annotations");
        annotations
            .extend(noted.into_iter().map(|(name, value)| (name.to_owned(), value.to_string().into())));
    }
}

fn take_list(map: &mut Map, key: &str) -> Vec<Value> {
    match map.remove(key) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

/// Percent of CPU use that a v2 metric aims at or observes.
fn cpu_percent(metric: &Value, what: &str) -> Option<i64> {
    let resource = metric.get("resource").filter(|_| metric.get("type") == Some(&json!("Resource")))?;
    let cpu = resource.get("name").and_then(Value::as_str) == Some("cpu");
    resource.get(what)?.get("averageUtilization")?.as_i64().filter(|_| cpu)
}

/// Names of amounts in v1, for what is aimed at or observed: value, average value, average utilization.
fn amounts(kind: &str, status: bool) -> [(&'static str, &'static str); 3] {
    match (status, kind) {
        (false, "object") => {
            [("targetValue", "value"), ("averageValue", "averageValue"), ("", "averageUtilization")]
        }
        (true, "object") => {
            [("currentValue", "value"), ("averageValue", "averageValue"), ("", "averageUtilization")]
        }
        (false, _) => [
            ("targetValue", "value"),
            ("targetAverageValue", "averageValue"),
            ("targetAverageUtilization", "averageUtilization"),
        ],
        (true, _) => [
            ("currentValue", "value"),
            ("currentAverageValue", "averageValue"),
            ("currentAverageUtilization", "averageUtilization"),
        ],
    }
}

fn metric_to_v2(metric: Value, status: bool) -> Value {
    let Value::Object(mut metric) = metric else { return metric };
    let kind = member(&metric);
    let Some(Value::Object(mut old)) = metric.remove(kind) else { return Value::Object(metric) };
    let mut amount = Map::new();
    for (from, to) in amounts(kind, status) {
        if let Some(value) = old.remove(from).filter(|value| !value.is_null()) {
            amount.insert(to.into(), value);
        }
    }
    if !status {
        let has = |name: &str| amount.get(name).is_some_and(|value| *value != "0");
        let target = match () {
            () if amount.contains_key("averageUtilization") => "Utilization",
            () if has("averageValue") => "AverageValue",
            () => "Value",
        };
        if target == "AverageValue" {
            amount.remove("value");
        }
        amount.insert("type".into(), target.into());
    }
    let mut new = Map::new();
    if let Some(described) = old.remove("target") {
        new.insert("describedObject".into(), described);
    }
    if let Some(name) = old.remove("metricName") {
        let selector = old.remove("selector").or_else(|| old.remove("metricSelector"));
        let mut identifier = Map::from_iter([("name".to_owned(), name)]);
        identifier.extend(selector.map(|selector| ("selector".to_owned(), selector)));
        new.insert("metric".into(), Value::Object(identifier));
    }
    new.extend(old);
    new.insert(if status { "current" } else { "target" }.into(), Value::Object(amount));
    metric.insert(kind.into(), Value::Object(new));
    Value::Object(metric)
}

fn metric_to_v1(metric: Value, status: bool) -> Value {
    let Value::Object(mut metric) = metric else { return metric };
    let kind = member(&metric);
    let Some(Value::Object(mut new)) = metric.remove(kind) else { return Value::Object(metric) };
    let mut old = Map::new();
    if let Some(Value::Object(mut amount)) = new.remove(if status { "current" } else { "target" }) {
        for (to, from) in amounts(kind, status).into_iter().filter(|(to, _)| !to.is_empty()) {
            if let Some(value) = amount.remove(from).filter(|value| !value.is_null()) {
                old.insert(to.into(), value);
            }
        }
        // Required there, though nothing says it in v2.
        let required = match (kind, status) {
            ("object", false) => "targetValue",
            ("object" | "external", true) => "currentValue",
            ("resource" | "containerResource", true) => "currentAverageValue",
            _ => "",
        };
        if !required.is_empty() {
            old.entry(required).or_insert_with(|| "0".into());
        }
    }
    if let Some(described) = new.remove("describedObject") {
        old.insert("target".into(), described);
    }
    if let Some(Value::Object(mut identifier)) = new.remove("metric") {
        old.insert("metricName".into(), identifier.remove("name").unwrap_or_default());
        if let Some(selector) = identifier.remove("selector") {
            let name = if kind == "external" { "metricSelector" } else { "selector" };
            old.insert(name.into(), selector);
        }
    }
    old.extend(new);
    metric.insert(kind.into(), Value::Object(old));
    Value::Object(metric)
}

/// The behaviour's annotation spells names with capitals.
fn with_initials(value: Value, upper: bool) -> Value {
    match value {
        Value::Object(map) => {
            let entries = map.into_iter().map(|(key, value)| {
                let mut chars = key.chars();
                let first =
                    chars.next().map(|c| if upper { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() });
                (first.into_iter().chain(chars).collect::<String>(), with_initials(value, upper))
            });
            Value::Object(entries.collect())
        }
        Value::Array(items) => {
            Value::Array(items.into_iter().map(|item| with_initials(item, upper)).collect())
        }
        scalar => scalar,
    }
}
