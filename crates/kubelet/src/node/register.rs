//! Registration of the node, and its labels after that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeSpec};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::facts;
use crate::kubelet::Kubelet;

const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(7);

/// Labels that the kubelet owns.
fn labels(kubelet: &Kubelet) -> BTreeMap<String, String> {
    let mut out = kubelet.config.node_labels.clone();
    let own = [
        ("kubernetes.io/hostname", kubelet.config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", facts::arch()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", facts::arch()),
    ];
    for (k, v) in own {
        out.insert(k.to_owned(), v.to_owned());
    }
    out
}

/// The node as it registers, with its first status, so that it is Ready as early as it can be.
pub(crate) async fn initial(kubelet: &Kubelet) -> Node {
    let mut node = Node::default();
    node.metadata.name = Some(kubelet.config.node_name.clone());
    node.metadata.labels = Some(labels(kubelet));
    let annotation = ("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned());
    node.metadata.annotations = Some([annotation].into());
    let taints = kubelet.config.register_with_taints.clone();
    node.spec = Some(NodeSpec { taints: (!taints.is_empty()).then_some(taints), ..NodeSpec::default() });
    node.status = Some(super::report::status(kubelet, &Node::default()).await);
    node
}

/// Creates the Node, or brings the labels of the one that is there up to date. Tries until it succeeds.
pub(crate) async fn register(kubelet: &Arc<Kubelet>) {
    let api: Api<Node> = Api::all(kubelet.client.clone());
    let mut pause = RETRY_MIN;
    loop {
        match once(kubelet, &api).await {
            Ok(node) => {
                tracing::info!(node = kubelet.config.node_name, "node registered");
                *kubelet.node.write() = Arc::new(node);
                return;
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "register node");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
}

async fn once(kubelet: &Kubelet, api: &Api<Node>) -> Result<Node, kube::Error> {
    let node = initial(kubelet).await;
    match api.create(&PostParams::default(), &node).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        result => return result,
    }
    let name = &kubelet.config.node_name;
    let have = api.get(name).await?;
    let old = have.metadata.labels.clone().unwrap_or_default();
    let missing: BTreeMap<String, String> =
        labels(kubelet).into_iter().filter(|(k, v)| old.get(k) != Some(v)).collect();
    if missing.is_empty() {
        return Ok(have);
    }
    let patch = json!({"metadata": {"labels": missing}});
    api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await
}
