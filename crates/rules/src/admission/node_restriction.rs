//! NodeRestriction: a kubelet changes its own node, its own pods and what belongs to them, and nothing else; a
//! node taken over must not become a cluster taken over (CVE-2025-5187, CVE-2025-4563 among others).

use std::collections::BTreeSet;

use isopod_api::Value;
use isopod_api::identity::GROUP_NODES;
use isopod_api::status::Status;

use super::node_restriction_pods::{pods, pods_needs};
use super::value::{list, text};
use super::{Operation, Plugin, Query, Request, View};

pub(super) static PLUGIN: Plugin = Plugin {
    name: "NodeRestriction",
    handles: |operation, group, resource, _| {
        operation != Operation::Connect
            && matches!(
                (group, resource),
                ("", "pods" | "nodes" | "persistentvolumeclaims" | "serviceaccounts")
                    | ("coordination.k8s.io", "leases")
                    | ("storage.k8s.io", "csinodes")
                    | ("resource.k8s.io", "resourceslices")
            )
    },
    needs,
    admit: None,
    validate: Some(validate),
};

fn needs(request: &Request<'_>) -> Vec<Query> {
    match (node_of(request), request.resource) {
        (Some(Ok(node)), "pods") => pods_needs(request, node),
        _ => Vec::new(),
    }
}

/// The node a kubelet speaks for; `None` for others; an error for one that does not say which.
fn node_of<'a>(request: &Request<'a>) -> Option<Result<&'a str, ()>> {
    let user = request.user;
    user.in_group(GROUP_NODES).then(|| user.node_name().filter(|name| !name.is_empty()).ok_or(()))
}

fn validate(request: &mut Request<'_>, view: &View) -> Result<(), Status> {
    let request = &*request;
    let node = match node_of(request) {
        None => return Ok(()),
        Some(Err(())) => {
            let user = &request.user.name;
            return Err(request.forbidden(format!("could not determine node from user {user:?}")));
        }
        Some(Ok(node)) => node,
    };
    match request.resource {
        "pods" => pods(request, node, view),
        "nodes" => nodes(request, node),
        "persistentvolumeclaims" => claim_status(request, node),
        "leases" => lease(request, node),
        "csinodes" => {
            same_name(request, node, "can only access CSINode with the same name as the requesting node")
        }
        "resourceslices" => resource_slice(request, node),
        _ => Ok(()),
    }
}

fn nodes(request: &Request<'_>, node: &str) -> Result<(), Status> {
    let (new, old) = (&*request.object, request.old);
    let name = if request.name.is_empty() { text(new, "/metadata/name") } else { request.name };
    if name != node {
        return Err(request.forbidden(format!("node {node:?} is not allowed to modify node {name:?}")));
    }
    let changed = changed_labels(new, old);
    let refused = |why: String| Err(request.forbidden(format!("node {node:?} is not allowed to {why}")));
    if request.operation == Operation::Create {
        let forbidden: Vec<&str> = changed.into_iter().filter(|label| is_forbidden(label)).collect();
        if !forbidden.is_empty() {
            return refused(format!("set the following labels: {}", forbidden.join(", ")));
        }
    } else if request.operation == Operation::Update {
        let forbidden: Vec<&str> = changed.into_iter().filter(|label| is_forbidden(label)).collect();
        if !forbidden.is_empty() {
            return refused(format!("modify labels: {}", forbidden.join(", ")));
        }
        if new["spec"]["taints"] != old["spec"]["taints"]
            && !(empty(&new["spec"]["taints"]) && empty(&old["spec"]["taints"]))
        {
            return refused("modify taints".into());
        }
    }
    let owners = |value: &Value| value["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
    if matches!(request.operation, Operation::Create | Operation::Update) && owners(new) != owners(old) {
        return refused("modify ownerReferences".into());
    }
    let config_source = |value: &Value| value["spec"]["configSource"].clone();
    if !config_source(new).is_null() && config_source(new) != config_source(old) {
        return refused("create pods with a non-nil configSource".into());
    }
    Ok(())
}

fn empty(list: &Value) -> bool {
    list.as_array().is_none_or(Vec::is_empty)
}

fn changed_labels<'a>(new: &'a Value, old: &'a Value) -> BTreeSet<&'a str> {
    let labels = |value: &'a Value| value.pointer("/metadata/labels").and_then(Value::as_object);
    let keys = labels(new).into_iter().chain(labels(old)).flat_map(|labels| labels.keys());
    keys.map(String::as_str)
        .filter(|key| labels(new).and_then(|l| l.get(*key)) != labels(old).and_then(|l| l.get(*key)))
        .collect()
}

/// Labels of Kubernetes' own domains that a kubelet may set on its node; all others there it may not.
const ALLOWED: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/instance-type",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "node.kubernetes.io/windows-build",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

fn is_forbidden(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else { return false };
    let within = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    if within("node-restriction.kubernetes.io") {
        return true;
    }
    let kubelets = within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    (within("kubernetes.io") || within("k8s.io")) && !kubelets && !ALLOWED.contains(&label)
}

/// What growing a volume on the node changes: nothing but capacity, conditions and what goes with them.
fn claim_status(request: &Request<'_>, node: &str) -> Result<(), Status> {
    if request.subresource != "status" || request.operation != Operation::Update {
        return Err(request.forbidden(format!(
            "unexpected operation {:?} of node {node:?} on persistentvolumeclaims/{}",
            request.operation, request.subresource
        )));
    }
    let strip = |claim: &Value| {
        let mut claim = claim.clone();
        for field in
            ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses", "resizeStatus"]
        {
            if let Some(status) = claim.get_mut("status").and_then(Value::as_object_mut) {
                status.remove(field);
            }
        }
        if let Some(meta) = claim.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("managedFields");
            meta.remove("resourceVersion");
        }
        claim
    };
    if strip(request.object) != strip(request.old) {
        return Err(request.forbidden(format!(
            "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
        )));
    }
    Ok(())
}

fn same_name(request: &Request<'_>, node: &str, why: &str) -> Result<(), Status> {
    let name = if request.name.is_empty() { text(request.object, "/metadata/name") } else { request.name };
    if name == node { Ok(()) } else { Err(request.forbidden(why)) }
}

fn lease(request: &Request<'_>, node: &str) -> Result<(), Status> {
    if request.namespace != "kube-node-lease" {
        return Err(request.forbidden("can only access leases in the \"kube-node-lease\" system namespace"));
    }
    same_name(request, node, "can only access node lease with the same name as the requesting node")
}

fn resource_slice(request: &Request<'_>, node: &str) -> Result<(), Status> {
    let slice = if request.operation == Operation::Delete { request.old } else { &*request.object };
    if text(slice, "/spec/nodeName") == node {
        return Ok(());
    }
    Err(request.forbidden(
        "can only create, update or delete ResourceSlices with the same NodeName as the requesting node",
    ))
}

/// Whether a node may ask for this token, bound to this pod (`None`: there is no such pod): the pod runs on it,
/// and the audiences are those the pod's volumes or its pull credentials need.
///
/// # Errors
/// With upstream's words.
pub fn token(node: &str, request: &Value, pod: Option<&Value>) -> Result<(), String> {
    let reference = &request["spec"]["boundObjectRef"];
    if reference.is_null() || text(reference, "/kind") != "Pod" || text(reference, "/name").is_empty() {
        return Err("node requested token not bound to a pod".into());
    }
    let uid = text(reference, "/uid");
    if uid.is_empty() {
        return Err("node requested token with a pod binding without a uid".into());
    }
    let name = text(reference, "/name");
    let Some(pod) = pod else { return Err(format!("pod {name:?} not found")) };
    if text(pod, "/metadata/uid") != uid {
        return Err(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
             been deleted and then recreated"
        ));
    }
    if text(pod, "/spec/nodeName") != node {
        return Err("node requested token bound to a pod scheduled on a different node".into());
    }
    let projected = |audience: &str| {
        let sources = list(pod, "/spec/volumes").iter().flat_map(|volume| list(volume, "/projected/sources"));
        sources
            .filter_map(|source| source.get("serviceAccountToken"))
            .any(|token| text(token, "/audience") == audience)
    };
    for audience in list(request, "/spec/audiences").iter().filter_map(Value::as_str) {
        let drivers = list(pod, "/spec/volumes").iter().any(|volume| volume.get("csi").is_some());
        if !audience.is_empty() && !projected(audience) && !drivers {
            return Err(format!("audience {audience:?} not found in pod spec volume"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use isopod_api::identity::UserInfo;
    use serde_json::json;

    use super::super::tests_support::Change;
    use super::*;

    fn as_node(mut change: Change<'_>) -> String {
        change.user = UserInfo::authenticated("system:node:n1", &[GROUP_NODES]);
        change.verdict(&PLUGIN)
    }

    fn node(name: &str, labels: Value, rest: Value) -> Value {
        let mut node = json!({"metadata": {"name": name, "labels": labels}});
        for (key, value) in rest.as_object().into_iter().flatten() {
            node[key] = value.clone();
        }
        node
    }

    #[test]
    fn its_own_node_and_harmless_labels() {
        let create = |object: Value| as_node(Change { namespace: "", ..Change::create("nodes", object) });
        assert_eq!(
            create(node("n1", json!({"kubernetes.io/hostname": "n1", "mine/x": "y"}), json!({}))),
            "ok"
        );
        assert!(create(node("n2", json!({}), json!({}))).contains("is not allowed to modify node \"n2\""));
        for label in
            ["node-restriction.kubernetes.io/pci", "node-role.kubernetes.io/control-plane", "foo.k8s.io/x"]
        {
            assert!(create(node("n1", json!({label: "1"}), json!({}))).contains(label), "{label}");
        }
        assert_eq!(
            create(node(
                "n1",
                json!({"node.kubernetes.io/x": "1", "topology.kubernetes.io/zone": "z"}),
                json!({})
            )),
            "ok"
        );
    }

    #[test]
    fn no_new_taints_labels_or_owners() {
        let change = |old: Value, new: Value| {
            as_node(Change { name: "n1", namespace: "", ..Change::update("nodes", old, new) })
        };
        let plain = || node("n1", json!({"a": "b"}), json!({}));
        assert_eq!(change(plain(), node("n1", json!({"a": "c"}), json!({"status": {}}))), "ok");
        let tainted = node("n1", json!({"a": "b"}), json!({"spec": {"taints": [{"key": "x"}]}}));
        assert!(change(tainted.clone(), plain()).contains("is not allowed to modify taints"));
        assert_eq!(change(tainted.clone(), tainted), "ok");
        let mut owned = plain();
        owned["metadata"]["ownerReferences"] = json!([{"uid": "1"}]);
        assert!(change(plain(), owned).contains("is not allowed to modify ownerReferences"));
        let role = node("n1", json!({"a": "b", "kubernetes.io/role": "m"}), json!({}));
        assert!(change(plain(), role).contains("modify labels: kubernetes.io/role"));
    }

    #[test]
    fn leases_and_others() {
        let lease = |namespace, name: &str| {
            let object = json!({"metadata": {"name": name}});
            as_node(Change { group: "coordination.k8s.io", namespace, ..Change::create("leases", object) })
        };
        assert_eq!(lease("kube-node-lease", "n1"), "ok");
        assert!(lease("kube-node-lease", "n2").contains("same name as the requesting node"));
        assert!(lease("kube-system", "n1").contains("system namespace"));
        let mut nameless = Change::create("nodes", json!({}));
        nameless.user = UserInfo::authenticated("kubelet", &[GROUP_NODES]);
        assert!(nameless.verdict(&PLUGIN).contains("could not determine node from user \"kubelet\""));
    }

    #[test]
    fn tokens_of_its_own_pods() {
        let pod = |node: &str| {
            json!({"metadata": {"uid": "1"}, "spec": {"nodeName": node, "volumes": [
                {"projected": {"sources": [{"serviceAccountToken": {"audience": "vault"}}]}}]}})
        };
        let request = |audience: &str| json!({"spec": {"audiences": [audience], "boundObjectRef": {"kind": "Pod", "name": "p", "uid": "1"}}});
        assert_eq!(token("n1", &request("vault"), Some(&pod("n1"))), Ok(()));
        assert!(token("n1", &request("bank"), Some(&pod("n1"))).is_err());
        assert!(token("n1", &request("vault"), Some(&pod("n2"))).is_err());
        assert!(token("n1", &request("vault"), None).is_err());
        assert!(token("n1", &json!({"spec": {}}), Some(&pod("n1"))).is_err());
    }
}
