//! What the scheduler knows of a pod, compiled once when it is seen.

use crate::affinity::NodeAffinity;
use crate::resources::{Resources, pod_requests};
use k8s_openapi::api::core::v1::{Pod, Toleration};
use std::sync::Arc;

/// A port that a pod takes on its node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Address; `0.0.0.0` is all.
    pub ip: String,
    /// Port.
    pub port: i32,
}

impl HostPort {
    /// Whether two pods cannot both have these.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        const ANY: &str = "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || self.ip == ANY || other.ip == ANY)
    }
}

/// A pod as plugins see it.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The object.
    pub pod: Arc<Pod>,
    /// Uid, which identifies the pod in cache and queue.
    pub uid: String,
    /// Effective priority.
    pub priority: i32,
    /// What it asks for.
    pub requests: Resources,
    /// What it asks for, with defaults assumed where nothing is said; for scores.
    pub nonzero_requests: Resources,
    /// Ports on the node.
    pub host_ports: Vec<HostPort>,
    /// Node selector and affinity.
    pub affinity: NodeAffinity,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// Images of its containers.
    pub images: Vec<String>,
    /// Names of the gates that keep it from being tried (KEP-3521).
    pub gates: Vec<String>,
}

impl PodInfo {
    /// Compiles a pod.
    pub fn new(pod: Arc<Pod>) -> Self {
        let default = Default::default();
        let spec = pod.spec.as_ref().unwrap_or(&default);
        let init = spec.init_containers.iter().flatten();
        let mut host_ports: Vec<HostPort> = init
            .clone()
            .filter(|c| c.restart_policy.as_deref() == Some("Always"))
            .chain(&spec.containers)
            .flat_map(|c| c.ports.iter().flatten())
            .filter_map(|p| {
                Some(HostPort {
                    protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
                    ip: p.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".into()),
                    port: p.host_port.filter(|port| *port > 0)?,
                })
            })
            .collect();
        host_ports.sort();
        host_ports.dedup();
        PodInfo {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            priority: spec.priority.unwrap_or(0),
            requests: pod_requests(spec, false),
            nonzero_requests: pod_requests(spec, true),
            host_ports,
            affinity: NodeAffinity::new(spec),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            images: init.chain(&spec.containers).filter_map(|c| c.image.clone()).collect(),
            gates: spec.scheduling_gates.iter().flatten().map(|g| g.name.clone()).collect(),
            pod,
        }
    }
    /// `metadata.namespace`.
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }
    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }
    /// `spec.nodeName`, empty while unassigned.
    pub fn node_name(&self) -> &str {
        self.pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
    }
    /// `spec.schedulerName`.
    pub fn scheduler_name(&self) -> &str {
        self.pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref()).unwrap_or("default-scheduler")
    }
}
