//! The table of HorizontalPodAutoscalers.

use isopod_api::Value;
use jiff::Timestamp;

use crate::kinds::columns::{Column, int_cell, or_unset};
use crate::kinds::shared::{at, list_at, str_at};

/// Most metrics shown.
const SHOWN_MAX: usize = 2;

pub(super) const AUTOSCALER: &[Column] = &[
    Column::text("Reference", "Workload that is scaled."),
    Column::text("Targets", "Every metric as it is, and as it should be."),
    Column::text("MinPods", "Fewest replicas."),
    Column::text("MaxPods", "Most replicas."),
    Column::text("Replicas", "Replicas now."),
];

pub(super) fn autoscaler(autoscaler: &Value, _: Timestamp) -> Vec<Value> {
    let target = |key: &str| at(autoscaler, "spec.scaleTargetRef").map_or("", |target| str_at(target, key));
    vec![
        format!("{}/{}", target("kind"), target("name")).into(),
        metrics(autoscaler).into(),
        or_unset(autoscaler, "spec.minReplicas").into(),
        int_cell(autoscaler, "spec.maxReplicas"),
        int_cell(autoscaler, "status.currentReplicas"),
    ]
}

fn metrics(autoscaler: &Value) -> String {
    let (specs, statuses) =
        (list_at(autoscaler, "spec.metrics"), list_at(autoscaler, "status.currentMetrics"));
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let metric = |(i, spec)| metric(spec, statuses.get(i).unwrap_or(&Value::Null));
    let shown: Vec<String> = specs.iter().enumerate().take(SHOWN_MAX).map(metric).collect();
    let shown = shown.join(", ");
    if specs.len() > SHOWN_MAX { format!("{shown} + {} more...", specs.len() - SHOWN_MAX) } else { shown }
}

fn metric(spec: &Value, status: &Value) -> String {
    let source = match str_at(spec, "type") {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let wanted = |key: &str| spec.get(source)?.get("target")?.get(key);
    let current = |key: &str| status.get(source)?.get("current")?.get(key);
    let quantity = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("<unknown>").to_owned();
    let per_resource = source.ends_with("esource");
    let text = match wanted("averageValue").and_then(Value::as_str) {
        Some(average) => format!("{}/{average}", quantity(current("averageValue"))),
        None if per_resource => {
            let percent = |value: Option<&Value>, absent: &str| {
                value.and_then(Value::as_i64).map_or_else(|| absent.to_owned(), |v| format!("{v}%"))
            };
            let now = percent(current("averageUtilization"), "<unknown>");
            format!("{now}/{}", percent(wanted("averageUtilization"), "<auto>"))
        }
        None => format!("{}/{}", quantity(current("value")), quantity(wanted("value"))),
    };
    match source {
        "resource" | "containerResource" => {
            format!("{}: {text}", spec.get(source).map_or("", |source| str_at(source, "name")))
        }
        "external" | "object" if wanted("averageValue").is_some() => format!("{text} (avg)"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells() {
        let cpu =
            json!({"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}});
        let now =
            json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 12}}});
        let queue = json!({"type": "External", "external": {"target": {"averageValue": "30"}}});
        let object = json!({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "maxReplicas": 5,
            "metrics": [cpu, queue, {"type": "Pods", "pods": {}}]}, "status": {"currentMetrics": [now]}});
        assert_eq!(
            autoscaler(&object, Timestamp::UNIX_EPOCH),
            [
                json!("Deployment/web"),
                json!("cpu: 12%/80%, <unknown>/30 (avg) + 1 more..."),
                json!("<unset>"),
                json!(5),
                json!(0)
            ]
        );
    }
}
