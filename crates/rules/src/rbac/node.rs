//! The node authoriser: a kubelet sees what the pods bound to its node need, and little more.
//!
//! Matches upstream's. The graph is kept as what refers to what: pods by node, and for each pod the secrets,
//! config maps, claims, service accounts and resource claims it names; volumes by claim; attachments by node.

use std::collections::{BTreeSet, HashMap};

use isopod_api::Value;

use super::rule::{Request, Rule};

/// What a pod may lead a node to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
    /// A PersistentVolumeClaim.
    Claim,
    /// A PersistentVolume; its key has no namespace.
    Volume,
    /// A ServiceAccount.
    ServiceAccount,
    /// A ResourceClaim.
    ResourceClaim,
}

type Key = (Target, String, String);

#[derive(Debug)]
struct Source {
    node: String,
    targets: Vec<Key>,
}

/// Who refers to what. Pods and volumes are fed in as they change.
#[derive(Debug, Default)]
pub struct NodeGraph {
    pods: HashMap<(String, String), Source>,
    /// How many pods of a node lead to a target.
    reachable: HashMap<Key, HashMap<String, u32>>,
    /// Claim and secrets behind a volume.
    volumes: HashMap<String, (Key, Vec<Key>)>,
    /// Volumes bound to a claim.
    bound: HashMap<Key, BTreeSet<String>>,
    attachments: HashMap<String, String>,
}

impl NodeGraph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// A pod was created or changed, or is gone.
    pub fn set_pod(&mut self, namespace: &str, name: &str, pod: Option<&Value>) {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(old) = self.pods.remove(&key) {
            for target in &old.targets {
                self.release(target, &old.node);
            }
        }
        let Some(pod) = pod else { return };
        let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or("");
        if node.is_empty() {
            return;
        }
        // The kubelet itself makes mirror pods, so what they refer to proves nothing.
        let targets: Vec<Key> =
            if is_mirror(pod) { Vec::new() } else { pod_targets(namespace, pod).into_iter().collect() };
        for target in &targets {
            *self.reachable.entry(target.clone()).or_default().entry(node.to_owned()).or_insert(0) += 1;
        }
        self.pods.insert(key, Source { node: node.to_owned(), targets });
    }

    /// Sets all pods of a namespace at once; those not given are gone.
    pub fn set_pods_of(&mut self, namespace: &str, pods: &[Value]) {
        let name =
            |pod: &Value| pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("").to_owned();
        let named: BTreeSet<String> = pods.iter().map(name).collect();
        let gone: Vec<String> = self
            .pods
            .keys()
            .filter(|(of, name)| of == namespace && !named.contains(name))
            .map(|(_, name)| name.clone())
            .collect();
        for name in gone {
            self.set_pod(namespace, &name, None);
        }
        for pod in pods {
            self.set_pod(namespace, &name(pod), Some(pod));
        }
    }

    /// A PersistentVolume was created or changed, or is gone.
    pub fn set_volume(&mut self, name: &str, volume: Option<&Value>) {
        if let Some((claim, _)) = self.volumes.remove(name)
            && let Some(names) = self.bound.get_mut(&claim)
        {
            names.remove(name);
            if names.is_empty() {
                self.bound.remove(&claim);
            }
        }
        let Some(spec) = volume.and_then(|volume| volume.get("spec")) else { return };
        let text = |pointer: &str| spec.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
        let (namespace, claim) = (text("/claimRef/namespace"), text("/claimRef/name"));
        if claim.is_empty() {
            return;
        }
        let claim = (Target::Claim, namespace.clone(), claim);
        self.bound.entry(claim.clone()).or_default().insert(name.to_owned());
        self.volumes.insert(name.to_owned(), (claim, volume_secrets(spec, &namespace)));
    }

    /// A VolumeAttachment was created or changed, or is gone.
    pub fn set_attachment(&mut self, name: &str, attachment: Option<&Value>) {
        match attachment.and_then(|a| a.pointer("/spec/nodeName")?.as_str()) {
            Some(node) => self.attachments.insert(name.to_owned(), node.to_owned()),
            None => self.attachments.remove(name),
        };
    }

    fn release(&mut self, target: &Key, node: &str) {
        let Some(nodes) = self.reachable.get_mut(target) else { return };
        if let Some(count) = nodes.get_mut(node) {
            *count -= 1;
            if *count == 0 {
                nodes.remove(node);
            }
        }
        if nodes.is_empty() {
            self.reachable.remove(target);
        }
    }

    fn direct(&self, node: &str, key: &Key) -> bool {
        self.reachable.get(key).is_some_and(|nodes| nodes.contains_key(node))
    }

    /// Whether a pod bound to `node` leads to the object.
    pub fn reaches(&self, node: &str, target: Target, namespace: &str, name: &str) -> bool {
        let key = (target, namespace.to_owned(), name.to_owned());
        match target {
            Target::Volume => self.volumes.get(name).is_some_and(|(claim, _)| self.direct(node, claim)),
            Target::Secret => {
                self.direct(node, &key)
                    || self
                        .volumes
                        .values()
                        .any(|(claim, secrets)| secrets.contains(&key) && self.direct(node, claim))
            }
            _ => self.direct(node, &key),
        }
    }
}

fn is_mirror(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations").is_some_and(|a| a.get("kubernetes.io/config.mirror").is_some())
}

fn pod_targets(namespace: &str, pod: &Value) -> BTreeSet<Key> {
    let mut targets = BTreeSet::new();
    let Some(spec) = pod.get("spec") else { return targets };
    let mut add = |target: Target, name: Option<&Value>| {
        if let Some(name) = name.and_then(Value::as_str).filter(|name| !name.is_empty()) {
            targets.insert((target, namespace.to_owned(), name.to_owned()));
        }
    };
    add(Target::ServiceAccount, spec.get("serviceAccountName"));
    for secret in items(spec, "imagePullSecrets") {
        add(Target::Secret, secret.get("name"));
    }
    for container in
        ["initContainers", "containers", "ephemeralContainers"].iter().flat_map(|list| items(spec, list))
    {
        for source in items(container, "envFrom") {
            add(Target::Secret, source.pointer("/secretRef/name"));
            add(Target::ConfigMap, source.pointer("/configMapRef/name"));
        }
        for variable in items(container, "env") {
            add(Target::Secret, variable.pointer("/valueFrom/secretKeyRef/name"));
            add(Target::ConfigMap, variable.pointer("/valueFrom/configMapKeyRef/name"));
        }
    }
    for volume in items(spec, "volumes") {
        add(Target::ConfigMap, volume.pointer("/configMap/name"));
        add(Target::Secret, volume.pointer("/secret/secretName"));
        for source in ["cephfs", "cinder", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"] {
            add(Target::Secret, volume.get(source).and_then(|source| source.pointer("/secretRef/name")));
        }
        add(Target::Secret, volume.pointer("/azureFile/secretName"));
        add(Target::Secret, volume.pointer("/csi/nodePublishSecretRef/name"));
        add(Target::Claim, volume.pointer("/persistentVolumeClaim/claimName"));
        for source in volume.get("projected").map(|projected| items(projected, "sources")).unwrap_or_default()
        {
            add(Target::ConfigMap, source.pointer("/configMap/name"));
            add(Target::Secret, source.pointer("/secret/name"));
        }
        if volume.get("ephemeral").is_some() {
            let name = |value: &Value, pointer: &str| {
                value.pointer(pointer).and_then(Value::as_str).map(str::to_owned)
            };
            if let (Some(pod), Some(volume)) = (name(pod, "/metadata/name"), name(volume, "/name")) {
                add(Target::Claim, Some(&Value::from(format!("{pod}-{volume}"))));
            }
        }
    }
    for claim in pod.get("status").map(|status| items(status, "resourceClaimStatuses")).unwrap_or_default() {
        add(Target::ResourceClaim, claim.get("resourceClaimName"));
    }
    for claim in items(spec, "resourceClaims") {
        add(Target::ResourceClaim, claim.get("resourceClaimName"));
    }
    targets
}

fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Secrets that a volume's driver needs on the node.
fn volume_secrets(spec: &Value, claim_namespace: &str) -> Vec<Key> {
    let references = [
        "/azureFile",
        "/cephfs/secretRef",
        "/cinder/secretRef",
        "/csi/nodePublishSecretRef",
        "/csi/nodeStageSecretRef",
        "/csi/nodeExpandSecretRef",
        "/flexVolume/secretRef",
        "/iscsi/secretRef",
        "/rbd/secretRef",
        "/scaleIO/secretRef",
        "/storageos/secretRef",
    ];
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let secret = |pointer: &&str| {
        let reference = spec.pointer(pointer)?;
        let (name, namespace) = match *pointer {
            "/azureFile" => (text(reference, "secretName"), text(reference, "secretNamespace")),
            _ => (text(reference, "name"), text(reference, "namespace")),
        };
        let namespace = if namespace.is_empty() { claim_namespace.to_owned() } else { namespace };
        (!name.is_empty()).then_some((Target::Secret, namespace, name))
    };
    references.iter().filter_map(secret).collect()
}

/// Decides about a request of the node `node`. `rules` are those of the role `system:node`.
///
/// # Errors
/// When it is not permitted; the text says why, as upstream's does.
pub fn authorize(graph: &NodeGraph, rules: &[Rule], node: &str, request: &Request<'_>) -> Result<(), String> {
    if request.is_resource {
        match (request.group, request.resource) {
            ("", "secrets") => return read_related(graph, node, Target::Secret, request),
            ("", "configmaps") => return read_related(graph, node, Target::ConfigMap, request),
            ("", "persistentvolumeclaims") if request.subresource == "status" => {
                return status_of_claim(graph, node, request);
            }
            ("", "persistentvolumeclaims") => return get_related(graph, node, Target::Claim, request),
            ("", "persistentvolumes") => return get_related(graph, node, Target::Volume, request),
            ("resource.k8s.io", "resourceclaims") => {
                return get_related(graph, node, Target::ResourceClaim, request);
            }
            ("storage.k8s.io", "volumeattachments") => return attachment(graph, node, request),
            ("", "serviceaccounts") => return service_account(graph, node, request),
            ("coordination.k8s.io", "leases") => return lease(node, request),
            ("storage.k8s.io", "csinodes") => return csi_node(node, request),
            ("resource.k8s.io", "resourceslices") => return resource_slice(rules, node, request),
            ("", "nodes") => return own_node(node, request),
            ("", "pods") => return pod(graph, rules, node, request),
            _ => {}
        }
    }
    by_rules(rules, request)
}

fn by_rules(rules: &[Rule], request: &Request<'_>) -> Result<(), String> {
    if rules.iter().any(|rule| rule.allows(request)) { Ok(()) } else { Err(String::new()) }
}

fn unrelated(node: &str) -> String {
    format!("no relationship found between node '{node}' and this object")
}

fn related(graph: &NodeGraph, node: &str, target: Target, request: &Request<'_>) -> Result<(), String> {
    if request.name.is_empty() {
        return Err("No Object name found".into());
    }
    let namespace = if target == Target::Volume { "" } else { request.namespace };
    if graph.reaches(node, target, namespace, request.name) { Ok(()) } else { Err(unrelated(node)) }
}

/// Secrets and config maps: also by list and watch, of one name.
fn read_related(graph: &NodeGraph, node: &str, target: Target, request: &Request<'_>) -> Result<(), String> {
    if !matches!(request.verb, "get" | "list" | "watch") {
        return Err("can only read resources of this type".into());
    }
    if !request.subresource.is_empty() {
        return Err("cannot read subresource".into());
    }
    related(graph, node, target, request)
}

fn get_related(graph: &NodeGraph, node: &str, target: Target, request: &Request<'_>) -> Result<(), String> {
    if request.verb != "get" {
        return Err("can only get individual resources of this type".into());
    }
    if !request.subresource.is_empty() {
        return Err("cannot get subresource".into());
    }
    related(graph, node, target, request)
}

fn status_of_claim(graph: &NodeGraph, node: &str, request: &Request<'_>) -> Result<(), String> {
    if !matches!(request.verb, "get" | "update" | "patch") {
        return Err("can only get/update/patch this type".into());
    }
    related(graph, node, Target::Claim, request)
}

fn attachment(graph: &NodeGraph, node: &str, request: &Request<'_>) -> Result<(), String> {
    if request.verb != "get" || !request.subresource.is_empty() {
        return Err("can only get individual resources of this type".into());
    }
    if graph.attachments.get(request.name).is_some_and(|owner| owner == node) {
        Ok(())
    } else {
        Err(unrelated(node))
    }
}

fn service_account(graph: &NodeGraph, node: &str, request: &Request<'_>) -> Result<(), String> {
    match (request.subresource, request.verb) {
        ("token", "create") => related(graph, node, Target::ServiceAccount, request),
        ("", "get") => related(graph, node, Target::ServiceAccount, request),
        ("", _) => Err("can only get individual service accounts".into()),
        _ => Err("can only create tokens for individual service accounts".into()),
    }
}

fn lease(node: &str, request: &Request<'_>) -> Result<(), String> {
    if !matches!(request.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a node lease".into());
    }
    if request.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".into());
    }
    // The name of a lease to be created is in the object, where NodeRestriction looks at it.
    if request.verb != "create" && request.name != node {
        return Err("can only access node lease with the same name as the requesting node".into());
    }
    Ok(())
}

fn csi_node(node: &str, request: &Request<'_>) -> Result<(), String> {
    if !request.subresource.is_empty() {
        return Err("cannot authorize CSINode subresources".into());
    }
    if !matches!(request.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a CSINode".into());
    }
    if request.verb != "create" && request.name != node {
        return Err("can only access CSINode with the same name as the requesting node".into());
    }
    Ok(())
}

/// The slices of devices of a node, all at once by the field selector for it: the kubelet sweeps them when a driver is
/// gone. Drivers publish under identities of their own.
fn resource_slice(rules: &[Rule], node: &str, request: &Request<'_>) -> Result<(), String> {
    if !request.subresource.is_empty() {
        return Err("cannot authorize ResourceSlice subresources".into());
    }
    match request.verb {
        "list" | "watch" | "deletecollection" if selects_own(node, request) => Ok(()),
        "list" | "watch" | "deletecollection" => {
            Err("can only list/watch/deletecollection resourceslices with spec.nodeName field selector"
                .into())
        }
        _ => by_rules(rules, request),
    }
}

/// Whether the field selector keeps to objects of the node.
fn selects_own(node: &str, request: &Request<'_>) -> bool {
    request.field_selector.split(',').any(|requirement| {
        let requirement = requirement.strip_prefix("spec.nodeName=");
        requirement.is_some_and(|name| name.trim_start_matches('=') == node)
    })
}

fn own_node(node: &str, request: &Request<'_>) -> Result<(), String> {
    match (request.verb, request.subresource) {
        // NodeRestriction looks at the name in the object.
        ("create", "") => Ok(()),
        ("get" | "list" | "watch", "") if request.name == node => Ok(()),
        ("get" | "list" | "watch", "") => {
            Err(format!("node '{node}' cannot read '{}', only its own Node object", request.name))
        }
        ("update" | "patch", "" | "status") if request.name == node => Ok(()),
        ("update" | "patch", "" | "status") => {
            Err(format!("node '{node}' cannot modify '{}', only its own Node object", request.name))
        }
        _ => Err(String::new()),
    }
}

/// A kubelet reads the pods bound to its node: one by name, or all by the field selector for it. Which pods it
/// may write is for NodeRestriction.
fn pod(graph: &NodeGraph, rules: &[Rule], node: &str, request: &Request<'_>) -> Result<(), String> {
    match (request.verb, request.subresource) {
        ("get", _) => {
            let key = (request.namespace.to_owned(), request.name.to_owned());
            let own = graph.pods.get(&key).is_some_and(|source| source.node == node);
            if own { Ok(()) } else { Err(unrelated(node)) }
        }
        ("list" | "watch", "") => {
            if selects_own(node, request) {
                Ok(())
            } else {
                Err("can only list/watch pods with spec.nodeName field selector".into())
            }
        }
        _ => by_rules(rules, request),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn graph() -> NodeGraph {
        let mut graph = NodeGraph::new();
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "serviceAccountName": "sa",
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"envFrom": [{"configMapRef": {"name": "env"}}],
                "env": [{"valueFrom": {"secretKeyRef": {"name": "key"}}}]}],
            "volumes": [{"name": "v", "secret": {"secretName": "vol"}}, {"persistentVolumeClaim": {"claimName": "c"}},
                {"projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}}]}});
        graph.set_pod("a", "p", Some(&pod));
        graph.set_volume(
            "pv",
            Some(&json!({"spec": {"claimRef": {"namespace": "a", "name": "c"},
            "csi": {"nodeStageSecretRef": {"namespace": "csi", "name": "stage"}}}})),
        );
        graph
    }

    fn ask(graph: &NodeGraph, node: &str, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let rules = crate::rbac::bootstrap::rules_of("system:node");
        let (group, resource) = resource.rsplit_once(':').unwrap_or(("", resource));
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let field_selector = match (resource, verb) {
            ("pods", "watch") | ("resourceslices", "list" | "deletecollection") => "spec.nodeName=n1",
            _ => "",
        };
        let request = Request {
            verb,
            group,
            resource,
            subresource,
            namespace,
            name,
            is_resource: true,
            path: "",
            field_selector,
        };
        authorize(graph, &rules, node, &request).is_ok()
    }

    #[test]
    fn a_node_sees_what_its_pods_need() {
        let mut graph = graph();
        let cases = [
            ("get", "secrets", "a", "key", true),
            ("watch", "secrets", "a", "vol", true),
            ("get", "secrets", "a", "pull", true),
            ("get", "secrets", "csi", "stage", true),
            ("get", "secrets", "b", "key", false),
            ("get", "secrets", "a", "other", false),
            ("list", "secrets", "a", "", false),
            ("delete", "secrets", "a", "key", false),
            ("get", "configmaps", "a", "env", true),
            ("get", "configmaps", "a", "kube-root-ca.crt", true),
            ("get", "persistentvolumeclaims", "a", "c", true),
            ("patch", "persistentvolumeclaims/status", "a", "c", true),
            ("update", "persistentvolumeclaims", "a", "c", false),
            ("get", "persistentvolumes", "", "pv", true),
            ("get", "persistentvolumes", "", "other", false),
            ("get", "serviceaccounts", "a", "sa", true),
            ("list", "serviceaccounts", "a", "", false),
            ("create", "serviceaccounts/token", "a", "sa", true),
            ("create", "serviceaccounts/token", "a", "default", false),
        ];
        for (verb, resource, namespace, name, allowed) in cases {
            assert_eq!(
                ask(&graph, "n1", verb, resource, namespace, name),
                allowed,
                "{verb} {resource} {name}"
            );
            assert!(
                !ask(&graph, "n2", verb, resource, namespace, name),
                "another node: {verb} {resource} {name}"
            );
        }
        graph.set_pod("a", "p", None);
        assert!(!ask(&graph, "n1", "get", "secrets", "a", "key"));
        assert!(graph.reachable.is_empty());
    }

    #[test]
    fn a_node_changes_itself_alone() {
        let graph = graph();
        let cases = [
            ("create", "nodes", "", "n1", true),
            ("patch", "nodes/status", "", "n1", true),
            ("patch", "nodes/status", "", "n2", false),
            ("delete", "nodes", "", "n1", false),
            ("get", "nodes", "", "n2", false),
            ("watch", "nodes", "", "n1", true),
            ("update", "coordination.k8s.io:leases", "kube-node-lease", "n1", true),
            ("update", "coordination.k8s.io:leases", "kube-node-lease", "n2", false),
            ("update", "coordination.k8s.io:leases", "kube-system", "n1", false),
            ("patch", "storage.k8s.io:csinodes", "", "n1", true),
            ("patch", "storage.k8s.io:csinodes", "", "n2", false),
            ("deletecollection", "resource.k8s.io:resourceslices", "", "", true),
            ("list", "resource.k8s.io:resourceslices", "", "", true),
            ("watch", "resource.k8s.io:resourceslices", "", "", false),
            ("delete", "resource.k8s.io:resourceslices", "", "s", false),
            ("create", "resource.k8s.io:resourceslices", "", "", false),
            ("watch", "pods", "", "", true),
            ("list", "pods", "", "", false),
            ("get", "pods", "a", "p", true),
            ("get", "pods", "a", "other", false),
            ("create", "pods/eviction", "a", "p", true),
            ("update", "apps:deployments", "a", "d", false),
            ("create", "events", "a", "", true),
            ("list", "services", "", "", true),
        ];
        for (verb, resource, namespace, name, allowed) in cases {
            assert_eq!(
                ask(&graph, "n1", verb, resource, namespace, name),
                allowed,
                "{verb} {resource} {name}"
            );
        }
    }
}
