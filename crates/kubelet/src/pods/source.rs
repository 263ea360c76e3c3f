//! Pods from the API server: those bound to this node.

use std::sync::Arc;

use isopod_client::{Change, Informer};
use k8s_openapi::api::core::v1::Pod;

use crate::kubelet::Kubelet;
use crate::pods::{is_mirror, name_of};

/// Gives every pod of the informer to its worker from now on.
pub(crate) fn follow(kubelet: &Arc<Kubelet>, pods: &Informer<Pod>) {
    let kubelet = kubelet.clone();
    pods.on_change(move |change| {
        let pod = change.object();
        if is_mirror(pod) {
            mirror(&kubelet, pod, matches!(change, Change::Deleted(_)));
            return;
        }
        match change {
            Change::Added(pod) => kubelet.pods.apply(&kubelet, pod.clone(), false),
            Change::Updated { old, new } => {
                // The name may have passed to another pod between two looks.
                if old.metadata.uid != new.metadata.uid {
                    kubelet.pods.remove(old.metadata.uid.as_deref().unwrap_or_default(), Some(old.clone()));
                }
                kubelet.pods.apply(&kubelet, new.clone(), false);
            }
            Change::Deleted(pod) => {
                let uid = pod.metadata.uid.as_deref().unwrap_or_default();
                kubelet.pods.remove(uid, Some(pod.clone()));
            }
        }
    });
}

/// A mirror only shows a static pod: it tells the worker where to write the status.
fn mirror(kubelet: &Arc<Kubelet>, pod: &Arc<Pod>, deleted: bool) {
    let owner = kubelet.pods.list().into_iter().find(|p| p.is_static && name_of(&p.pod()) == name_of(pod));
    match owner {
        Some(owner) => owner.change(|d| {
            let same = d.mirror.as_ref().is_some_and(|m| m.metadata.uid == pod.metadata.uid);
            if !deleted {
                d.mirror = Some(pod.clone());
            } else if same {
                d.mirror = None;
            }
        }),
        None if !deleted => {
            // Its manifest is gone, perhaps since before this start.
            let (kubelet, pod) = (kubelet.clone(), pod.clone());
            tokio::spawn(async move { super::mirror::delete_orphan(&kubelet, &pod).await });
        }
        None => {}
    }
}
