//! The nodes and the pods on them, with pods that were decided for but whose binding has not come back yet.

use crate::{NodeInfo, PodInfo};
use k8s_openapi::api::core::v1::Node;
use std::collections::HashMap;
use std::sync::Arc;

/// All nodes. Invariant: a pod is counted on at most one node.
#[derive(Debug, Default)]
pub struct Cache {
    nodes: Vec<NodeInfo>,
    by_name: HashMap<String, usize>,
    pod_node: HashMap<String, String>,
}

impl Cache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }
    fn entry(&mut self, name: &str) -> &mut NodeInfo {
        let at = *self.by_name.entry(name.to_owned()).or_insert_with(|| {
            self.nodes.push(NodeInfo { name: name.to_owned(), ..NodeInfo::default() });
            self.nodes.len() - 1
        });
        &mut self.nodes[at]
    }
    /// All nodes, those without a Node object among them (`known` is false).
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }
    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).map(|at| &self.nodes[*at])
    }
    /// Adds or changes a node.
    pub fn set_node(&mut self, node: &Node) {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        self.entry(name).set_node(node);
    }
    /// Removes a node; it stays, unknown, while pods are counted on it.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(at) = self.by_name.get(name).copied() {
            self.nodes[at].unset_node();
            self.drop_if_empty(name);
        }
    }
    fn drop_if_empty(&mut self, name: &str) {
        let Some(at) = self.by_name.get(name).copied() else { return };
        if self.nodes[at].known || !self.nodes[at].pods.is_empty() {
            return;
        }
        self.nodes.swap_remove(at);
        self.by_name.remove(name);
        if let Some(moved) = self.nodes.get(at) {
            self.by_name.insert(moved.name.clone(), at);
        }
    }
    /// Counts a pod on a node: seen there, or assumed there before its binding is confirmed.
    pub fn set_pod(&mut self, node: &str, pod: Arc<PodInfo>) {
        if self.pod_node.get(&pod.uid).is_some_and(|was| was != node) {
            self.remove_pod(&pod.uid.clone());
        }
        self.pod_node.insert(pod.uid.clone(), node.to_owned());
        self.entry(node).add_pod(pod);
    }
    /// Counts a pod out, wherever it was; says whether it was counted.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(node) = self.pod_node.remove(uid) else { return false };
        if let Some(at) = self.by_name.get(&node) {
            self.nodes[*at].remove_pod(uid);
        }
        self.drop_if_empty(&node);
        true
    }
    /// The node that a pod is counted on.
    pub fn node_of(&self, uid: &str) -> Option<&str> {
        self.pod_node.get(uid).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, cpu: &str) -> Arc<PodInfo> {
        let pod = serde_json::from_value(serde_json::json!({"metadata": {"uid": uid},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}));
        Arc::new(PodInfo::new(Arc::new(pod.expect("a pod"))))
    }

    #[test]
    fn sums_follow_the_pods() {
        let mut cache = Cache::new();
        cache.set_pod("a", pod("1", "100m"));
        cache.set_pod("a", pod("2", "200m"));
        cache.set_pod("a", pod("2", "300m"));
        assert_eq!(cache.node("a").map(|n| n.requested.milli_cpu), Some(400));
        cache.set_pod("b", pod("2", "300m"));
        assert_eq!(cache.node("a").map(|n| n.requested.milli_cpu), Some(100));
        assert!(cache.remove_pod("1"));
        assert!(!cache.remove_pod("1"));
        assert!(cache.node("a").is_none(), "an unknown node without pods is forgotten");
        assert_eq!(cache.nodes().len(), 1);
        assert_eq!(cache.node_of("2"), Some("b"));
    }
}
