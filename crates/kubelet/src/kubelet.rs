//! What all parts of the kubelet share: configuration, services, and the current facts of the node.

use std::sync::Arc;
use std::time::Duration;

use isopod_client::{Clock, EventRecorder, EventType, Informer, SystemClock, object_reference};
use isopod_cri::{ImageService, RuntimeService, StreamingDial};
use isopod_podplan::admit::Pressure;
use isopod_podplan::spec;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Node, ObjectReference, Pod, Secret, Service};
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cgroups::Cgroups;
use crate::config::Config;
use crate::downward::Addresses;
use crate::images::Puller;
use crate::objects::Objects;
use crate::pods::Pods;
use crate::tokens::Tokens;

/// Shared by everything that belongs to one kubelet.
pub(crate) struct Kubelet {
    pub(crate) config: Config,
    pub(crate) client: kube::Client,
    pub(crate) runtime: Arc<dyn RuntimeService>,
    pub(crate) images: Arc<dyn ImageService>,
    pub(crate) streaming: Arc<dyn StreamingDial>,
    pub(crate) recorder: EventRecorder,
    pub(crate) pods: Pods,
    pub(crate) config_maps: Objects<ConfigMap>,
    pub(crate) secrets: Objects<Secret>,
    pub(crate) services: Informer<Service>,
    pub(crate) tokens: Tokens,
    pub(crate) puller: Puller,
    pub(crate) cgroups: Cgroups,
    /// The Node as last written or seen.
    pub(crate) node: RwLock<Arc<Node>>,
    /// The runtime's network can take pods.
    pub(crate) network_ready: watch::Sender<bool>,
    pub(crate) pressure: RwLock<Pressure>,
    /// Name and version of the runtime.
    pub(crate) runtime_version: (String, String),
    pub(crate) shutdown: CancellationToken,
}

impl Kubelet {
    pub(crate) fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    pub(crate) fn node(&self) -> Arc<Node> {
        self.node.read().clone()
    }

    /// The node's own addresses as text.
    pub(crate) fn host_ips(&self) -> Vec<String> {
        self.config.node_ips.iter().map(ToString::to_string).collect()
    }

    /// Addresses of a pod as far as they are known.
    pub(crate) fn addresses(&self, uid: &str) -> Addresses {
        let host_ips = self.host_ips();
        let pod_ips = self.pods.get(uid).map(|p| {
            if spec::host_network(&p.pod()) {
                host_ips.clone()
            } else {
                p.view().observed.active_sandbox().map(|s| s.ips.clone()).unwrap_or_default()
            }
        });
        Addresses { pod_ips: pod_ips.unwrap_or_default(), host_ips }
    }

    /// Publishes an event about a pod, or about one of its containers.
    pub(crate) fn event(
        &self,
        pod: &Pod,
        container: Option<&str>,
        warning: bool,
        reason: &str,
        text: String,
    ) {
        let mut about = self.reference(pod);
        about.field_path = container.map(|name| field_path(pod, name));
        let kind = if warning { EventType::Warning } else { EventType::Normal };
        self.recorder.event(about, kind, reason, text);
    }

    /// Publishes an event about the node.
    pub(crate) fn node_event(&self, warning: bool, reason: &str, text: String) {
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: Some(self.config.node_name.clone()),
            uid: Some(self.config.node_name.clone()),
            ..ObjectReference::default()
        };
        let kind = if warning { EventType::Warning } else { EventType::Normal };
        self.recorder.event(about, kind, reason, text);
    }

    /// The pod as the API knows it: a static pod is its mirror.
    fn reference(&self, pod: &Pod) -> ObjectReference {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let mirror = self.pods.get(uid).and_then(|p| p.mirror());
        object_reference(mirror.as_deref().unwrap_or(pod))
    }

    /// Waits until the runtime's network can take pods, or the time is over.
    pub(crate) async fn wait_for_network(&self, limit: Duration) -> Result<(), String> {
        let mut ready = self.network_ready.subscribe();
        let waited = tokio::time::timeout(limit, ready.wait_for(|r| *r)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            _ => Err("network is not ready: container runtime network not ready".to_owned()),
        }
    }
}

fn field_path(pod: &Pod, container: &str) -> String {
    let list = match spec::find(pod, container).map(|(role, _)| role) {
        Some(spec::Role::Init | spec::Role::Sidecar) => "initContainers",
        Some(spec::Role::Ephemeral) => "ephemeralContainers",
        _ => "containers",
    };
    format!("spec.{list}{{{container}}}")
}
