//! The node's Lease: renewed every ten seconds, which is what tells the control plane that the node lives.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::Api;
use kube::api::PostParams;

use crate::kubelet::Kubelet;

const NAMESPACE: &str = "kube-node-lease";
/// How long the node counts as alive after a renewal.
const DURATION_SECONDS: i32 = 40;
const RETRY: Duration = Duration::from_millis(500);

/// Renews the lease until shutdown.
pub(crate) async fn run(kubelet: Arc<Kubelet>) {
    let api: Api<Lease> = Api::namespaced(kubelet.client.clone(), NAMESPACE);
    let mut held: Option<Lease> = None;
    loop {
        match renew(&kubelet, &api, held.take()).await {
            Ok(lease) => {
                held = Some(lease);
                tokio::time::sleep(kubelet.config.lease_renew).await;
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "renew node lease");
                tokio::time::sleep(RETRY.min(kubelet.config.lease_renew)).await;
            }
        }
    }
}

/// Writes over what is held; reads it first where that is unknown or was changed by another.
async fn renew(kubelet: &Kubelet, api: &Api<Lease>, held: Option<Lease>) -> Result<Lease, kube::Error> {
    let name = &kubelet.config.node_name;
    let params = PostParams::default();
    let mut lease = match held {
        Some(lease) => lease,
        None => match api.get_opt(name).await? {
            Some(lease) => lease,
            None => return api.create(&params, &fill(kubelet, Lease::default())).await,
        },
    };
    lease = fill(kubelet, lease);
    lease.metadata.managed_fields = None;
    api.replace(name, &params, &lease).await
}

fn fill(kubelet: &Kubelet, mut lease: Lease) -> Lease {
    let name = kubelet.config.node_name.clone();
    lease.metadata.name = Some(name.clone());
    lease.metadata.namespace = Some(NAMESPACE.to_owned());
    if let Some(uid) = kubelet.node().metadata.uid.clone() {
        lease.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.clone(),
            uid,
            ..OwnerReference::default()
        }]);
    }
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.holder_identity = Some(name);
    spec.lease_duration_seconds = Some(DURATION_SECONDS);
    spec.renew_time = Some(MicroTime(kubelet.now()));
    lease
}
