//! Tests of `openapi`.

use super::*;

/// Every reference of a document leads somewhere.
fn check_references(value: &Value, prefix: &str, definitions: &Map) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str) {
                let name = name.strip_prefix(prefix).unwrap();
                assert!(definitions.contains_key(name), "{name} is not defined");
            }
            map.values().for_each(|value| check_references(value, prefix, definitions));
        }
        Value::Array(items) => items.iter().for_each(|value| check_references(value, prefix, definitions)),
        _ => {}
    }
}

#[test]
fn whole_document() {
    let all = definitions(Flavor::V2);
    check_references(&Value::Object(all.clone()), "#/definitions/", &all);
    let pod = &all["io.k8s.api.core.v1.Pod"];
    assert_eq!(
        pod["x-kubernetes-group-version-kind"],
        json!([{"group": "", "version": "v1", "kind": "Pod"}])
    );
    assert!(pod["description"].as_str().unwrap().starts_with("Pod is a collection of containers"));
    let containers = &all["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["items"]["$ref"], "#/definitions/io.k8s.api.core.v1.Container");
    assert_eq!(all["io.k8s.api.core.v1.PodSpec"]["required"], json!(["containers"]));
    assert_eq!(all["io.k8s.api.apps.v1.Deployment"]["properties"]["kind"]["type"], "string");
    let without = all.iter().filter(|(_, definition)| definition.get("description").is_none());
    let without: Vec<&String> = without.map(|(name, _)| name).collect();
    assert!(without.len() < 40, "{} without documentation: {without:?}", without.len());
}

#[test]
fn one_group() {
    let apps = group_definitions("apps", "v1", Flavor::V3);
    check_references(&Value::Object(apps.clone()), "#/components/schemas/", &apps);
    assert!(
        apps.contains_key("io.k8s.api.autoscaling.v1.Scale") && !apps.contains_key("io.k8s.api.batch.v1.Job")
    );
    let replicas = &apps["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["template"];
    assert_eq!(replicas["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.PodTemplateSpec");
    assert_eq!(model_name("apps", "v1", "Deployment").unwrap(), "io.k8s.api.apps.v1.Deployment");
}
