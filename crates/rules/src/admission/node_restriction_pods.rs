//! What a kubelet may do to pods: make mirror pods of its own static pods, report the status of those bound to its
//! node, evict and delete them.

use isopod_api::Value;
use isopod_api::status::Status;

use super::value::{annotation, containers, items, list, text};
use super::{Operation, Query, Request, View};

const MIRROR: &str = "kubernetes.io/config.mirror";

pub(super) fn pods_needs(request: &Request<'_>, node: &str) -> Vec<Query> {
    match (request.operation, request.subresource) {
        (Operation::Create, "") => vec![Query::get("", "nodes", "", node)],
        (_, "eviction") if request.old.is_null() => {
            vec![Query::get("", "pods", request.namespace, pod_name(request))]
        }
        _ => Vec::new(),
    }
}

fn pod_name<'a>(request: &'a Request<'_>) -> &'a str {
    if request.name.is_empty() { text(request.object, "/metadata/name") } else { request.name }
}

pub(super) fn pods(request: &Request<'_>, node: &str, view: &View) -> Result<(), Status> {
    match (request.operation, request.subresource) {
        (Operation::Create, "") => create(request, node, view),
        // Made of changes of the pod, its deletion among them.
        (_, "eviction") => eviction(request, node, view),
        (Operation::Delete, "") => {
            if text(request.old, "/spec/nodeName") == node {
                return Ok(());
            }
            Err(request
                .forbidden(format!("node {node:?} can only delete pods with spec.nodeName set to itself")))
        }
        (Operation::Update, "status") => status(request, node),
        (operation, "") => Err(request.forbidden(format!("unexpected operation {operation:?}"))),
        (_, subresource) => Err(request.forbidden(format!(
            "unexpected pod subresource {subresource:?}, only 'status' and 'eviction' are allowed"
        ))),
    }
}

fn create(request: &Request<'_>, node: &str, view: &View) -> Result<(), Status> {
    let pod = &*request.object;
    let only = |what: &str| request.forbidden(format!("node {node:?} can only create pods with {what}"));
    if annotation(pod, MIRROR).is_none() {
        return Err(request.forbidden(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        )));
    }
    if text(pod, "/spec/nodeName") != node {
        return Err(only("spec.nodeName set to itself"));
    }
    let owner = match list(pod, "/metadata/ownerReferences") {
        [] => return Err(only("an owner reference set to itself")),
        [owner] => owner,
        _ => return Err(only("a single owner reference set to itself")),
    };
    if (text(owner, "/apiVersion"), text(owner, "/kind"), text(owner, "/name")) != ("v1", "Node", node) {
        return Err(only("an owner reference set to itself"));
    }
    if owner["controller"] != true {
        return Err(only("a controller owner reference set to itself"));
    }
    if owner["blockOwnerDeletion"] == true {
        return Err(
            request.forbidden(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"))
        );
    }
    let uid = view.one("nodes").map(|node| text(node, "/metadata/uid"));
    if uid.is_none_or(|uid| uid != text(owner, "/uid")) {
        return Err(request.forbidden(format!(
            "node {node:?} UID mismatch: expected {:?} got {:?}",
            text(owner, "/uid"),
            uid.unwrap_or("")
        )));
    }
    match reference(pod) {
        Some(what) => {
            Err(request.forbidden(format!("node {node:?} can not create pods that reference {what}")))
        }
        None => Ok(()),
    }
}

/// The first sort of API object the pod refers to: a mirror pod would make the node authoriser give it out.
fn reference(pod: &Value) -> Option<&'static str> {
    let spec = &pod["spec"];
    let any =
        |value: &Value, pointers: &[&str]| pointers.iter().any(|pointer| !text(value, pointer).is_empty());
    if any(spec, &["/serviceAccountName"]) {
        return Some("a service account");
    }
    let volumes = items(spec, "volumes");
    let sources = || volumes.iter().flat_map(|volume| list(volume, "/projected/sources"));
    let variables = || containers(spec).flat_map(|container| items(container, "env"));
    let bundles = || containers(spec).flat_map(|container| items(container, "envFrom"));
    let secret = volumes.iter().any(|volume| {
        any(volume, &["/secret/secretName", "/azureFile/secretName", "/csi/nodePublishSecretRef/name"])
            || ["cephfs", "cinder", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"]
                .iter()
                .any(|driver| any(&volume[*driver], &["/secretRef/name"]))
    }) || sources().any(|source| any(source, &["/secret/name"]))
        || variables().any(|variable| any(variable, &["/valueFrom/secretKeyRef/name"]))
        || bundles().any(|bundle| any(bundle, &["/secretRef/name"]))
        || !items(spec, "imagePullSecrets").is_empty();
    if secret {
        return Some("secrets");
    }
    let config_map = volumes.iter().any(|volume| any(volume, &["/configMap/name"]))
        || sources().any(|source| any(source, &["/configMap/name"]))
        || variables().any(|variable| any(variable, &["/valueFrom/configMapKeyRef/name"]))
        || bundles().any(|bundle| any(bundle, &["/configMapRef/name"]));
    if config_map {
        return Some("configmaps");
    }
    if sources().any(|source| source.get("clusterTrustBundle").is_some()) {
        return Some("clustertrustbundles");
    }
    if volumes.iter().any(|v| v.get("persistentVolumeClaim").is_some() || v.get("ephemeral").is_some()) {
        return Some("persistentvolumeclaims");
    }
    (!items(spec, "resourceClaims").is_empty()).then_some("resourceclaims")
}

fn status(request: &Request<'_>, node: &str) -> Result<(), Status> {
    let (new, old) = (&*request.object, request.old);
    if text(old, "/spec/nodeName") != node {
        let why =
            format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself");
        return Err(request.forbidden(why));
    }
    if new["metadata"]["labels"] != old["metadata"]["labels"] {
        return Err(request.forbidden(format!("node {node:?} cannot update labels through pod status")));
    }
    let claims = |pod: &Value, field: &str| pod["status"][field].clone();
    for field in ["resourceClaimStatuses", "extendedResourceClaimStatus"] {
        if claims(new, field) != claims(old, field) {
            return Err(request.forbidden(format!("node {node:?} cannot update resource claim statuses")));
        }
    }
    Ok(())
}

fn eviction(request: &Request<'_>, node: &str, view: &View) -> Result<(), Status> {
    let name = pod_name(request);
    let named = text(request.object, "/metadata/name");
    let stored = if request.old.is_null() { view.one("pods") } else { Some(request.old) };
    if !named.is_empty() && named != name {
        return Err(request.forbidden("the eviction names another pod than the request"));
    }
    match stored {
        None => Err(Status::not_found("", "pods", name)),
        Some(pod) if text(pod, "/spec/nodeName") == node => Ok(()),
        Some(_) => {
            Err(request
                .forbidden(format!("node {node} can only evict pods with spec.nodeName set to itself")))
        }
    }
}

#[cfg(test)]
mod tests {
    use isopod_api::identity::{GROUP_NODES, UserInfo};
    use serde_json::json;

    use super::super::node_restriction::PLUGIN;
    use super::super::tests_support::Change;
    use super::*;

    fn as_node(mut change: Change<'_>) -> String {
        change.user = UserInfo::authenticated("system:node:n1", &[GROUP_NODES]);
        change.stored.push(("nodes", vec![json!({"metadata": {"name": "n1", "uid": "u"}})]));
        change.verdict(&PLUGIN)
    }

    fn mirror() -> Value {
        json!({"metadata": {"name": "p", "annotations": {MIRROR: "x"}, "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u", "controller": true}]},
            "spec": {"nodeName": "n1", "containers": [{"name": "a"}]}})
    }

    #[test]
    fn mirror_pods_alone() {
        assert_eq!(as_node(Change::create("pods", mirror())), "ok");
        let cases = [
            ("/metadata/annotations", json!({}), "can only create mirror pods"),
            ("/spec/nodeName", json!("n2"), "spec.nodeName set to itself"),
            ("/metadata/ownerReferences", json!([]), "an owner reference set to itself"),
            ("/metadata/ownerReferences/0/name", json!("n2"), "an owner reference set to itself"),
            ("/metadata/ownerReferences/0/uid", json!("v"), "UID mismatch"),
            ("/metadata/ownerReferences/0/controller", json!(false), "a controller owner reference"),
            ("/spec/containers", json!([{"envFrom": [{"secretRef": {"name": "s"}}]}]), "reference secrets"),
            (
                "/spec/containers",
                json!([{"env": [{"valueFrom": {"configMapKeyRef": {"name": "c"}}}]}]),
                "configmaps",
            ),
        ];
        for (pointer, value, why) in cases {
            let mut pod = mirror();
            *pod.pointer_mut(pointer).expect("the field is there") = value;
            let verdict = as_node(Change::create("pods", pod));
            assert!(verdict.contains(why), "{pointer}: {verdict}");
        }
        let mut pod = mirror();
        pod["spec"]["volumes"] = json!([{"persistentVolumeClaim": {"claimName": "c"}}]);
        assert!(as_node(Change::create("pods", pod)).contains("reference persistentvolumeclaims"));
        let mut pod = mirror();
        pod["spec"]["serviceAccountName"] = json!("default");
        assert!(as_node(Change::create("pods", pod)).contains("reference a service account"));
    }

    #[test]
    fn its_own_pods_alone() {
        let pod = |node: &str, labels: Value| json!({"metadata": {"name": "p", "labels": labels}, "spec": {"nodeName": node}});
        let status = |old: Value, new: Value| {
            as_node(Change { subresource: "status", name: "p", ..Change::update("pods", old, new) })
        };
        assert_eq!(status(pod("n1", json!({})), pod("n1", json!({}))), "ok");
        assert!(status(pod("n2", json!({})), pod("n2", json!({}))).contains("set to itself"));
        assert!(status(pod("n1", json!({})), pod("n1", json!({"a": "b"}))).contains("cannot update labels"));
        let delete = |node| {
            let change = Change::update("pods", pod(node, json!({})), Value::Null);
            as_node(Change { operation: Operation::Delete, name: "p", ..change })
        };
        assert_eq!(delete("n1"), "ok");
        assert!(delete("n2").contains("can only delete pods"));
        let evict = |node| {
            let change = Change::create("pods", json!({"metadata": {"name": "p"}}));
            let change = Change { subresource: "eviction", name: "p", ..change };
            as_node(change.stored("pods", vec![pod(node, json!({}))]))
        };
        assert_eq!(evict("n1"), "ok");
        assert!(evict("n2").contains("can only evict pods"));
        let update = as_node(Change::update("pods", pod("n1", json!({})), pod("n1", json!({}))));
        assert!(update.contains("unexpected operation"));
        let bind = as_node(Change { subresource: "binding", ..Change::create("pods", json!({})) });
        assert!(bind.contains("unexpected pod subresource \"binding\""));
    }
}
