//! What the scheduler knows of a node, kept up to date pod by pod.

use crate::pod::{HostPort, PodInfo};
use crate::resources::{Resources, value};
use k8s_openapi::api::core::v1::{Node, Taint};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A node with the sums over its pods.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// `metadata.name`.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// What pods may use.
    pub allocatable: Resources,
    /// Most pods.
    pub pods_max: i64,
    /// Bytes of images present, by name.
    pub images: HashMap<String, i64>,
    /// Sum of the pods' requests.
    pub requested: Resources,
    /// Sum of the pods' requests with defaults assumed; for scores.
    pub nonzero_requested: Resources,
    /// Pods on the node, by uid.
    pub pods: HashMap<String, Arc<PodInfo>>,
    /// Ports taken.
    pub host_ports: Vec<HostPort>,
    /// Whether the Node object is known (pods can be seen before their node).
    pub known: bool,
}

impl NodeInfo {
    /// Takes over the facts of a Node object.
    pub fn set_node(&mut self, node: &Node) {
        self.known = true;
        self.name = node.metadata.name.clone().unwrap_or_default();
        self.labels = node.metadata.labels.clone().unwrap_or_default();
        let spec = node.spec.as_ref();
        self.taints = spec.and_then(|s| s.taints.clone()).unwrap_or_default();
        self.unschedulable = spec.and_then(|s| s.unschedulable).unwrap_or(false);
        let status = node.status.as_ref();
        let allocatable = status.and_then(|s| s.allocatable.as_ref());
        self.allocatable = Resources::from_list(allocatable);
        self.pods_max = allocatable.and_then(|a| a.get("pods")).map_or(0, value);
        self.images = status
            .and_then(|s| s.images.as_ref())
            .into_iter()
            .flatten()
            .flat_map(|image| {
                let bytes = image.size_bytes.unwrap_or(0);
                image.names.iter().flatten().map(move |name| (name.clone(), bytes))
            })
            .collect();
    }
    /// Forgets the Node object but keeps the pods.
    pub fn unset_node(&mut self) {
        *self = NodeInfo {
            name: std::mem::take(&mut self.name),
            requested: std::mem::take(&mut self.requested),
            nonzero_requested: std::mem::take(&mut self.nonzero_requested),
            pods: std::mem::take(&mut self.pods),
            host_ports: std::mem::take(&mut self.host_ports),
            ..NodeInfo::default()
        };
    }
    /// Counts a pod in; one of the same uid is replaced.
    pub fn add_pod(&mut self, pod: Arc<PodInfo>) {
        self.remove_pod(&pod.uid);
        self.requested.add(&pod.requests);
        self.nonzero_requested.add(&pod.nonzero_requests);
        self.host_ports.extend(pod.host_ports.iter().cloned());
        self.pods.insert(pod.uid.clone(), pod);
    }
    /// Counts a pod out; gives it when it was there.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(uid)?;
        self.requested.sub(&pod.requests);
        self.nonzero_requested.sub(&pod.nonzero_requests);
        for port in &pod.host_ports {
            if let Some(at) = self.host_ports.iter().position(|p| p == port) {
                self.host_ports.swap_remove(at);
            }
        }
        Some(pod)
    }
}
