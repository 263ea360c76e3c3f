//! The seam between the runtime and the pod network: what CNI's ADD and DEL are to other runtimes.

use std::net::IpAddr;

use async_trait::async_trait;

use crate::Error;
use crate::v1::Protocol;

/// A port of the node that is to reach a port of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port inside the pod.
    pub container_port: u16,
    /// The port on the node.
    pub host_port: u16,
    /// The address of the node to listen on; `None` means all.
    pub host_ip: Option<IpAddr>,
}

/// Which pod to attach to the network, or to detach from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNetworkRequest {
    /// Path of the network namespace. It exists on attach; on detach it may be gone already.
    pub netns_path: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
    /// Id of the sandbox, unique over all time; the key of what the network stores.
    pub sandbox_id: String,
    /// Ports of the node that lead to the pod.
    pub host_ports: Vec<HostPort>,
    /// Annotations of the pod (bandwidth limits and the like).
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// Gives pods their addresses.
#[async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Connects the namespace and answers the pod's addresses, the primary one first. Brings loopback up.
    async fn attach(&self, request: PodNetworkRequest) -> Result<Vec<IpAddr>, Error>;

    /// Undoes [`attach`](Self::attach). Succeeds if there is nothing to undo.
    async fn detach(&self, request: PodNetworkRequest) -> Result<(), Error>;

    /// Whether pods can be attached now; the reason otherwise. Becomes the condition `NetworkReady`.
    async fn ready(&self) -> Result<(), Error> {
        Ok(())
    }

    /// The runtime learnt from the kubelet which address ranges this node's pods take theirs from.
    async fn set_pod_cidr(&self, _pod_cidr: &str) -> Result<(), Error> {
        Ok(())
    }
}

/// A network that gives pods no address: for tests, and for nodes that run only host-network pods.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPodNetwork;

#[async_trait]
impl PodNetwork for NoPodNetwork {
    async fn attach(&self, _request: PodNetworkRequest) -> Result<Vec<IpAddr>, Error> {
        Ok(Vec::new())
    }

    async fn detach(&self, _request: PodNetworkRequest) -> Result<(), Error> {
        Ok(())
    }
}
