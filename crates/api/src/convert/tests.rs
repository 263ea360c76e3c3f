//! Tests of `convert`.

use super::*;
use serde_json::json;

/// Decodes canonically, converts there and back, and gives what is there.
fn there_and_back(value: Value, to: (&str, &str)) -> Value {
    let (group, version) = object::split_api_version(value["apiVersion"].as_str().unwrap());
    let kind = facts::builtin().kind(group, version, value["kind"].as_str().unwrap()).unwrap();
    let value = codec::normalize(value.clone(), &kind.schema, FieldValidation::Strict).unwrap().value;
    let there = convert(value.clone(), to.0, to.1).unwrap();
    assert_eq!(convert(there.clone(), group, version).unwrap(), value);
    there
}

#[test]
fn events() {
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "x"}, "message": "m", "count": 2,
        "involvedObject": {"kind": "Pod"}, "source": {"component": "kubelet"}});
    let there = there_and_back(event, ("events.k8s.io", "v1"));
    assert_eq!((&there["note"], &there["deprecatedCount"]), (&json!("m"), &json!(2)));
    assert_eq!(there["regarding"], json!({"kind": "Pod"}));
    assert_eq!(there["apiVersion"], "events.k8s.io/v1");
}

#[test]
fn autoscalers() {
    let spec = json!({"scaleTargetRef": {"kind": "Deployment", "name": "x"}, "maxReplicas": 3, "metrics": [
        {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}},
        {"type": "Pods", "pods": {"metric": {"name": "rate"}, "target": {"type": "AverageValue", "averageValue": "1k"}}}],
        "behavior": {"scaleDown": {"selectPolicy": "Min", "policies": [{"type": "Pods", "value": 1, "periodSeconds": 9}]}}});
    let autoscaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "x", "annotations": {"a": "b"}}, "spec": spec,
        "status": {"currentMetrics": [{"type": "Resource", "resource":
            {"name": "cpu", "current": {"averageUtilization": 5, "averageValue": "10m"}}}],
            "conditions": [{"type": "AbleToScale", "status": "True"}]}});
    let there = there_and_back(autoscaler, ("autoscaling", "v1"));
    assert_eq!(there["spec"]["targetCPUUtilizationPercentage"], 70);
    assert_eq!(there["status"]["currentCPUUtilizationPercentage"], 5);
    assert_eq!(
        there["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/metrics"],
        r#"[{"pods":{"metricName":"rate","targetAverageValue":"1k"},"type":"Pods"}]"#
    );
}

#[test]
fn resource_claims() {
    let claim = json!({"apiVersion": "resource.k8s.io/v1beta1", "kind": "ResourceClaim", "metadata": {},
        "spec": {"devices": {"requests": [{"name": "a", "deviceClassName": "gpu", "count": 2}]}}});
    let there = there_and_back(claim, ("resource.k8s.io", "v1"));
    assert_eq!(
        there["spec"]["devices"]["requests"][0]["exactly"],
        json!({"deviceClassName": "gpu", "count": 2})
    );
    let slice = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {},
        "spec": {"driver": "d", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "a", "attributes": {"x": {"int": 1}}}]}});
    let there = there_and_back(slice, ("resource.k8s.io", "v1beta1"));
    assert_eq!(there["spec"]["devices"][0]["basic"]["attributes"], json!({"x": {"int": 1}}));
}

#[test]
fn unknown_targets() {
    let error = convert(json!({"apiVersion": "v1", "kind": "Pod"}), "apps", "v1").unwrap_err();
    assert_eq!(error.to_string(), "no kind \"Pod\" is registered for version \"apps/v1\"");
}
