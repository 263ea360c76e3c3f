//! The Service `kube-system/kube-dns`, and this node's EndpointSlice of it.
//!
//! Both are compared with what the shared caches hold and written only when they differ, at the start, on every
//! change of theirs, and once in a while. A Service with a selector belongs to another DNS server: then nothing is
//! written, and our slice goes.

use crate::config::Config;
use isopod_client::{Informers, ObjectKey};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "isopod-dns";

/// How often all is compared although nothing changed, and pauses after a failure, doubling.
const RESYNC: Duration = Duration::from_secs(60);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Keeps both objects until `shutdown`.
pub(crate) async fn run(
    config: &Config,
    informers: &Informers,
    at: &[SocketAddr],
    shutdown: &CancellationToken,
) {
    let Some(service_ip) = config.service_ip else { return };
    // One slice is of one family; clients know the server by one address.
    let Some(at) = at.iter().find(|at| at.is_ipv4() == service_ip.is_ipv4()) else {
        return tracing::warn!(%service_ip, "DNS listens on no address of the Service's family; not published");
    };
    let changed = std::sync::Arc::new(Notify::new());
    let wake = |relevant: bool, changed: &Notify| {
        if relevant {
            changed.notify_one();
        }
    };
    informers.get::<Service>().on_change({
        let changed = changed.clone();
        move |change| wake(change.key().as_str() == "kube-system/kube-dns", &changed)
    });
    let own = slice_name(&config.node_name, at.ip());
    informers.get::<EndpointSlice>().on_change({
        let (changed, own) = (changed.clone(), format!("{NAMESPACE}/{own}"));
        move |change| wake(change.key().as_str() == own, &changed)
    });
    let mut publisher = Publisher { config, informers, service_ip, at: *at, name: own, node: None };
    let mut pause = RETRY_MIN;
    loop {
        let wait = match publisher.sync().await {
            Ok(()) => {
                pause = RETRY_MIN;
                RESYNC
            }
            Err(error) => {
                if pause >= Duration::from_secs(1) {
                    tracing::warn!(error = &error as &dyn std::error::Error, "publishing the DNS Service");
                }
                pause = (pause * 2).min(RETRY_MAX);
                pause
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            () = changed.notified(), if wait == RESYNC => {}
        }
    }
}

/// Nodes have slices of their own, and a node one for each family.
fn slice_name(node: &str, ip: IpAddr) -> String {
    format!("{NAME}-{node}{}", if ip.is_ipv6() { "-v6" } else { "" })
}

struct Publisher<'a> {
    config: &'a Config,
    informers: &'a Informers,
    service_ip: IpAddr,
    at: SocketAddr,
    name: String,
    /// UID of the node object, once known.
    node: Option<String>,
}

impl Publisher<'_> {
    async fn sync(&mut self) -> Result<(), kube::Error> {
        let client = self.informers.client();
        if self.node.is_none() {
            let node = Api::<Node>::all(client.clone()).get_opt(&self.config.node_name).await?;
            self.node = node.and_then(|node| node.metadata.uid);
        }
        let services = self.informers.get::<Service>().store();
        match services.get(&ObjectKey::new(NAMESPACE, NAME)) {
            None => {
                let api = Api::<Service>::namespaced(client.clone(), NAMESPACE);
                let service = parse(self.service());
                match api.create(&PostParams::default(), &service).await {
                    Err(error) if !is_conflict(&error) => return Err(error),
                    _ => {}
                }
            }
            Some(service) if has_selector(&service) => return self.withdraw(client).await,
            Some(_) => {}
        }
        self.write_slice(client).await
    }

    async fn write_slice(&self, client: Client) -> Result<(), kube::Error> {
        let api = Api::<EndpointSlice>::namespaced(client, NAMESPACE);
        let mut wanted: EndpointSlice = parse(self.slice());
        let present =
            self.informers.get::<EndpointSlice>().store().get(&ObjectKey::new(NAMESPACE, &self.name));
        let result = match present {
            None => api.create(&PostParams::default(), &wanted).await,
            Some(present) if same(&present, &wanted) => return Ok(()),
            Some(present) => {
                wanted.metadata.resource_version = present.metadata.resource_version.clone();
                api.replace(&self.name, &PostParams::default(), &wanted).await
            }
        };
        match result {
            // The cache lags behind what we or another wrote; its change wakes us.
            Err(error) if is_conflict(&error) => Ok(()),
            other => other.map(drop),
        }
    }

    async fn withdraw(&self, client: Client) -> Result<(), kube::Error> {
        let slices = self.informers.get::<EndpointSlice>().store();
        if slices.get(&ObjectKey::new(NAMESPACE, &self.name)).is_none() {
            return Ok(());
        }
        tracing::info!("the Service kube-dns has a selector: another DNS server is used");
        let api = Api::<EndpointSlice>::namespaced(client, NAMESPACE);
        match api.delete(&self.name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(drop),
        }
    }

    fn service(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {
                "k8s-app": "kube-dns",
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
            }},
            "spec": {
                "type": "ClusterIP",
                "clusterIP": self.service_ip.to_string(),
                "clusterIPs": [self.service_ip.to_string()],
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
                    {"name": "metrics", "port": 9153, "protocol": "TCP", "targetPort": 9153},
                ],
            },
        })
    }

    fn slice(&self) -> Value {
        let mut ports = vec![
            json!({"name": "dns", "port": self.at.port(), "protocol": "UDP"}),
            json!({"name": "dns-tcp", "port": self.at.port(), "protocol": "TCP"}),
        ];
        if let Some(port) = self.config.metrics_port {
            ports.push(json!({"name": "metrics", "port": port, "protocol": "TCP"}));
        }
        let mut metadata = json!({"name": self.name, "namespace": NAMESPACE, "labels": {
            crate::convert::SERVICE_NAME: NAME,
            MANAGED_BY: MANAGER,
        }});
        // With its node the slice goes too.
        if let Some(uid) = &self.node {
            metadata["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "Node", "name": self.config.node_name, "uid": uid}]);
        }
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata,
            "addressType": if self.at.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{
                "addresses": [self.at.ip().to_string()],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": self.config.node_name,
                "hints": {"forNodes": [{"name": self.config.node_name}]},
            }],
            "ports": ports,
        })
    }
}

fn parse<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object written here")
}

fn has_selector(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some_and(|selector| !selector.is_empty())
}

/// Whether the parts that we set are as we want them.
fn same(present: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    present.endpoints == wanted.endpoints
        && present.ports == wanted.ports
        && present.address_type == wanted.address_type
        && present.metadata.labels == wanted.metadata.labels
        && (wanted.metadata.owner_references.is_none()
            || present.metadata.owner_references == wanted.metadata.owner_references)
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
