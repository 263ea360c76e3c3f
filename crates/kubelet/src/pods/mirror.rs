//! Mirror pods: what the API shows of static pods.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};

use crate::kubelet::Kubelet;
use crate::pods::name_of;

/// Where a pod came from: `file` or `api`.
pub(crate) const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// What a static pod was made from.
pub(crate) const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Marks a mirror; its value is the static pod's hash.
pub(crate) const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// A mirror without a manifest may be early: the manifests are read at the same time.
const ORPHAN_WAIT: Duration = Duration::from_secs(2);

fn api(kubelet: &Kubelet, pod: &Pod) -> Api<Pod> {
    Api::namespaced(kubelet.client.clone(), pod.metadata.namespace.as_deref().unwrap_or("default"))
}

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a String> {
    pod.metadata.annotations.as_ref()?.get(key)
}

/// Whether the mirror shows this very static pod.
pub(crate) fn fits(pod: &Pod, mirror: &Pod) -> bool {
    mirror.metadata.deletion_timestamp.is_none()
        && annotation(mirror, CONFIG_MIRROR) == annotation(pod, CONFIG_HASH)
}

/// Creates the mirror, replacing one that shows something else.
pub(crate) async fn ensure(kubelet: &Kubelet, pod: &Pod, have: Option<&Pod>) {
    if let Some(old) = have {
        delete(kubelet, old).await;
        return;
    }
    let node = kubelet.node();
    let Some(node_uid) = node.metadata.uid.clone() else {
        // Not registered yet; a mirror must be owned by the node.
        tokio::time::sleep(Duration::from_millis(500)).await;
        return;
    };
    let mut mirror = pod.clone();
    mirror.status = None;
    mirror.metadata.uid = None;
    mirror.metadata.creation_timestamp = None;
    mirror.metadata.resource_version = None;
    let hash = annotation(pod, CONFIG_HASH).cloned().unwrap_or_default();
    mirror.metadata.annotations.get_or_insert_default().insert(CONFIG_MIRROR.into(), hash);
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: kubelet.config.node_name.clone(),
        uid: node_uid,
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    match api(kubelet, pod).create(&PostParams::default(), &mirror).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {
            // An older one of that name is still there; the watch will bring it.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Err(error) => {
            tracing::warn!(pod = name_of(pod), error = &error as &dyn std::error::Error, "create mirror pod");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Deletes a mirror.
pub(crate) async fn delete(kubelet: &Kubelet, mirror: &Pod) {
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: mirror.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    let name = mirror.metadata.name.as_deref().unwrap_or_default();
    match api(kubelet, mirror).delete(name, &params).await {
        Err(error) if !matches!(&error, kube::Error::Api(s) if s.code == 404 || s.code == 409) => {
            tracing::warn!(
                pod = name_of(mirror),
                error = &error as &dyn std::error::Error,
                "delete mirror pod"
            );
            tokio::time::sleep(RETRY).await;
        }
        _ => {}
    }
}

/// Deletes a mirror whose manifest is gone; gives it to its static pod if that has come meanwhile.
pub(crate) async fn delete_orphan(kubelet: &Kubelet, mirror: &Pod) {
    tokio::time::sleep(ORPHAN_WAIT).await;
    let owner = kubelet.pods.list().into_iter().find(|p| p.is_static && name_of(&p.pod()) == name_of(mirror));
    match owner {
        Some(owner) => owner.change(|d| {
            d.mirror.get_or_insert_with(|| std::sync::Arc::new(mirror.clone()));
        }),
        None => delete(kubelet, mirror).await,
    }
}
