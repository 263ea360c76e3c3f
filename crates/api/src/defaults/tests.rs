//! Tests of `defaults`.

use super::*;
use crate::codec::{self, FieldValidation, MediaType};
use serde_json::json;

/// Decodes YAML of a kind, defaults it and gives the field at `path` back.
fn check(group: &str, kind: &str, yaml: &str, path: &str) -> Value {
    let version = if kind == "HorizontalPodAutoscaler" { "v2" } else { "v1" };
    let facts = facts::builtin().kind(group, version, kind).unwrap();
    let decoded =
        codec::decode(yaml.as_bytes(), MediaType::Yaml, &facts.schema, FieldValidation::Strict).unwrap();
    let mut value = decoded.value;
    apply(group, version, kind, &mut value);
    let again = codec::normalize(value.clone(), &facts.schema, FieldValidation::Strict).unwrap().value;
    assert_eq!(again, value, "defaulting left the canonical form");
    value.pointer(path).cloned().unwrap_or(Value::Null)
}

#[test]
fn pods() {
    let yaml = "
spec:
  hostNetwork: true
  serviceAccount: robot
  volumes: [{name: v}, {name: c, configMap: {name: x}}, {name: h, hostPath: {path: /}}]
  containers:
  - name: a
    image: reg:5000/busybox
    ports: [{containerPort: 80}]
    resources: {limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 100u}}
    readinessProbe: {httpGet: {port: 80}}
  - {name: b, image: 'nginx:1.27'}
  - {name: c, image: 'nginx@sha256:00'}";
    let spec = check("", "Pod", yaml, "/spec");
    assert_eq!(spec["volumes"][0]["emptyDir"], json!({}));
    assert_eq!(spec["volumes"][1]["configMap"]["defaultMode"], 420);
    assert_eq!(spec["volumes"][2]["hostPath"]["type"], "");
    let a = &spec["containers"][0];
    assert_eq!(a["imagePullPolicy"], "Always");
    assert_eq!(a["ports"], json!([{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]));
    assert_eq!(a["resources"]["requests"], json!({"cpu": "1m", "memory": "1Gi"}));
    assert_eq!(
        a["resizePolicy"],
        json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}, {"resourceName": "memory", "restartPolicy": "NotRequired"}])
    );
    assert_eq!(spec["containers"][1].get("resizePolicy"), None);
    assert_eq!(a["readinessProbe"]["httpGet"], json!({"path": "/", "port": 80, "scheme": "HTTP"}));
    assert_eq!(spec["containers"][1]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(spec["containers"][2]["imagePullPolicy"], "IfNotPresent");
    assert_eq!((&spec["serviceAccountName"], &spec["enableServiceLinks"]), (&json!("robot"), &json!(true)));
    assert_eq!(spec["securityContext"], json!({}));
}

#[test]
fn resize_policies() {
    let yaml = "
spec:
  initContainers: [{name: i, image: x, resources: {requests: {cpu: 1}}}]
  containers:
  - name: a
    image: x
    resources: {requests: {cpu: 1, memory: 1Gi, ephemeral-storage: 1Gi}}
    resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]";
    let spec = check("", "Pod", yaml, "/spec");
    assert_eq!(
        spec["containers"][0]["resizePolicy"],
        json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"},
            {"resourceName": "cpu", "restartPolicy": "NotRequired"}])
    );
    assert_eq!(spec["initContainers"][0].get("resizePolicy"), None);
}

#[test]
fn templates_are_no_pods() {
    let yaml = "
spec:
  selector: {}
  template: {spec: {containers: [{name: a, image: x, resources: {limits: {cpu: 1}}}]}}";
    let spec = check("apps", "Deployment", yaml, "/spec");
    assert_eq!(spec["strategy"]["rollingUpdate"], json!({"maxSurge": "25%", "maxUnavailable": "25%"}));
    let pod = &spec["template"]["spec"];
    assert_eq!((&pod["dnsPolicy"], &pod["enableServiceLinks"]), (&json!("ClusterFirst"), &Value::Null));
    assert_eq!(pod["containers"][0]["resources"]["requests"], Value::Null);
}

#[test]
fn pod_level_requests() {
    let yaml = "
spec:
  resources: {limits: {cpu: 2, memory: 2Gi}}
  initContainers: [{name: i, image: x, resources: {requests: {cpu: 1500m}}}]
  containers: [{name: a, image: x, resources: {requests: {cpu: 1}}}]";
    let requests = check("", "Pod", yaml, "/spec/resources/requests");
    assert_eq!(requests, json!({"cpu": "1500m", "memory": "2Gi"}));
}

#[test]
fn services() {
    let spec = check("", "Service", "spec: {type: NodePort, ports: [{port: 80}]}", "/spec");
    assert_eq!(
        spec,
        json!({"externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "type": "NodePort", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]})
    );
    let spec = check("", "Service", "spec: {sessionAffinity: ClientIP}", "/spec/sessionAffinityConfig");
    assert_eq!(spec, json!({"clientIP": {"timeoutSeconds": 10800}}));
}

#[test]
fn other_kinds() {
    let ports = check("", "Endpoints", "subsets: [{ports: [{port: 80}]}]", "/subsets/0/ports");
    assert_eq!(ports, json!([{"port": 80, "protocol": "TCP"}]));
    let strategy = check("apps", "StatefulSet", "spec: {template: {}}", "/spec/updateStrategy");
    assert_eq!(
        strategy,
        json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": 1}})
    );
    assert_eq!(check("", "Secret", "stringData: {a: b}", "/data"), json!({"a": "Yg=="}));
    assert_eq!(
        check("", "Namespace", "metadata: {name: x}", ""),
        json!({"metadata": {"name": "x", "labels": {"kubernetes.io/metadata.name": "x"}},
            "spec": {}, "status": {"phase": "Active"}})
    );
    let item = check(
        "",
        "LimitRange",
        "spec: {limits: [{type: Container, max: {cpu: 2}, min: {memory: 1Mi}}]}",
        "/spec/limits/0",
    );
    assert_eq!(item["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
    let job = check("batch", "Job", "spec: {backoffLimitPerIndex: 1}", "/spec");
    assert_eq!((&job["backoffLimit"], &job["completions"]), (&json!(i32::MAX), &json!(1)));
    let policy = check(
        "networking.k8s.io",
        "NetworkPolicy",
        "spec: {podSelector: {}, egress: [{}]}",
        "/spec/policyTypes",
    );
    assert_eq!(policy, json!(["Ingress", "Egress"]));
    let metrics =
        check("autoscaling", "HorizontalPodAutoscaler", "spec: {}", "/spec/metrics/0/resource/name");
    assert_eq!(metrics, "cpu");
    let claim = check(
        "apps",
        "StatefulSet",
        "spec: {volumeClaimTemplates: [{spec: {}}]}",
        "/spec/volumeClaimTemplates/0",
    );
    assert_eq!(
        (&claim["kind"], &claim["status"]["phase"]),
        (&json!("PersistentVolumeClaim"), &json!("Pending"))
    );
    let role = check(
        "rbac.authorization.k8s.io",
        "RoleBinding",
        "roleRef: {kind: Role, name: x}\nsubjects: [{kind: User, name: y}]",
        "",
    );
    assert_eq!(role["roleRef"]["apiGroup"], role["subjects"][0]["apiGroup"]);
}
