//! Scopes: which objects a quota is about.

use isopod_api::Value;

use crate::kinds::qos_class;

/// Whether a quota's scopes choose the object. A quota with scopes is about pods (and, by volume attributes class,
/// claims) alone.
pub fn matches_scopes(quota_spec: &Value, group: &str, resource: &str, object: &Value) -> bool {
    let scopes = quota_spec["scopes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let plain = scopes.iter().filter_map(Value::as_str).map(|scope| (scope, "Exists", Vec::new()));
    let expressions = quota_spec.pointer("/scopeSelector/matchExpressions").and_then(Value::as_array);
    let selected = expressions.into_iter().flatten().map(|expression| {
        let text = |key: &str| expression[key].as_str().unwrap_or("");
        let values = expression["values"].as_array().map(Vec::as_slice).unwrap_or_default();
        (text("scopeName"), text("operator"), values.iter().filter_map(Value::as_str).collect::<Vec<_>>())
    });
    plain.chain(selected).all(|(scope, operator, values)| match (group, resource, scope) {
        ("", "pods", "PriorityClass") => {
            in_class(object["spec"]["priorityClassName"].as_str().unwrap_or(""), operator, &values)
        }
        ("", "persistentvolumeclaims", "VolumeAttributesClass") => {
            in_class(object["spec"]["volumeAttributesClassName"].as_str().unwrap_or(""), operator, &values)
        }
        ("", "pods", scope) => pod_in(scope, object),
        _ => false,
    })
}

fn in_class(class: &str, operator: &str, values: &[&str]) -> bool {
    match operator {
        "In" => values.contains(&class),
        "NotIn" => !values.contains(&class),
        "DoesNotExist" => class.is_empty(),
        _ => !class.is_empty(),
    }
}

fn pod_in(scope: &str, pod: &Value) -> bool {
    let ends = pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
    match scope {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => qos_class(pod) == "BestEffort",
        "NotBestEffort" => qos_class(pod) != "BestEffort",
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

/// Whether a pod's (anti-)affinity looks into other namespaces.
fn crosses_namespaces(pod: &Value) -> bool {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &pod["spec"]["affinity"][*kind];
        let required = list(&affinity["requiredDuringSchedulingIgnoredDuringExecution"]);
        let preferred = list(&affinity["preferredDuringSchedulingIgnoredDuringExecution"]);
        let preferred = preferred.iter().map(|weighted| weighted["podAffinityTerm"].clone());
        required
            .iter()
            .cloned()
            .chain(preferred)
            .any(|term| !list(&term["namespaces"]).is_empty() || !term["namespaceSelector"].is_null())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn priority_classes() {
        let matches = |operator: &str, values: Value, class: &str| {
            let spec = json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": values}]}});
            matches_scopes(&spec, "", "pods", &json!({"spec": {"priorityClassName": class}}))
        };
        assert!(matches("In", json!(["high"]), "high") && !matches("In", json!(["high"]), "low"));
        assert!(matches("NotIn", json!(["high"]), "low") && !matches("NotIn", json!(["high"]), "high"));
        assert!(matches("Exists", json!([]), "low") && !matches("Exists", json!([]), ""));
        let best_effort = json!({"scopes": ["BestEffort"]});
        assert!(matches_scopes(&best_effort, "", "pods", &json!({"spec": {"containers": [{}]}})));
        assert!(!matches_scopes(&best_effort, "", "secrets", &json!({})));
        assert!(matches_scopes(&json!({}), "", "secrets", &json!({})));
    }
}
