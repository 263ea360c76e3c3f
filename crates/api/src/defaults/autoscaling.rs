//! Defaults of the autoscaling group.

use super::{Hook, is_empty, object, object_or_new, set};
use crate::{Map, Value};
use serde_json::json;

/// Average CPU use that autoscalers aim at which name no metric, in percent.
pub(crate) const CPU_UTILIZATION_DEFAULT: i64 = 80;

pub(super) fn hook(package: &str, name: &str) -> Option<Hook> {
    match (package, name) {
        ("autoscaling/v1", "HorizontalPodAutoscaler") => {
            Some(|map| set(object_or_new(map, "spec"), "minReplicas", 1))
        }
        ("autoscaling/v2", "HorizontalPodAutoscaler") => Some(v2),
        _ => None,
    }
}

fn v2(autoscaler: &mut Map) {
    let spec = object_or_new(autoscaler, "spec");
    set(spec, "minReplicas", 1);
    if is_empty(spec, "metrics") {
        spec.insert("metrics".into(), json!([cpu_metric(CPU_UTILIZATION_DEFAULT)]));
    }
    if let Some(behavior) = object(spec, "behavior") {
        let up = object_or_new(behavior, "scaleUp");
        set(up, "stabilizationWindowSeconds", 0);
        set(up, "selectPolicy", "Max");
        set(up, "policies", json!([policy("Pods", 4), policy("Percent", 100)]));
        let down = object_or_new(behavior, "scaleDown");
        set(down, "selectPolicy", "Max");
        set(down, "policies", json!([policy("Percent", 100)]));
    }
}

/// The metric that says to keep the average CPU use at so many percent.
pub(crate) fn cpu_metric(percent: i64) -> Value {
    json!({
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}},
    })
}

fn policy(kind: &str, value: i64) -> Value {
    json!({"type": kind, "value": value, "periodSeconds": 15})
}
