//! What lies on the node of pods that nobody knows any more: containers, sandboxes, directories, cgroups.
//!
//! Looked for once after the pods of the API are known, and whenever the runtime reports a pod without worker.

use std::collections::BTreeSet;

use isopod_cri::v1;

use crate::kubelet::Kubelet;
use crate::{labels, volumes};

/// Ends and removes everything without an owner.
pub(crate) async fn clean(kubelet: &Kubelet) {
    if let Err(error) = runtime(kubelet, None).await {
        tracing::warn!(%error, "remove orphaned sandboxes");
    }
    directories(kubelet);
}

/// Ends and removes what the runtime has of one pod, if that has no owner.
pub(crate) async fn clean_pod(kubelet: &Kubelet, uid: &str) {
    if kubelet.pods.get(uid).is_some() {
        return;
    }
    if let Err(error) = runtime(kubelet, Some(uid)).await {
        tracing::warn!(uid, %error, "remove orphaned sandbox");
    }
}

async fn runtime(kubelet: &Kubelet, uid: Option<&str>) -> Result<(), isopod_cri::Error> {
    let label_selector = uid.map(labels::selector).unwrap_or_default();
    let filter = v1::PodSandboxFilter { label_selector, ..v1::PodSandboxFilter::default() };
    let list = kubelet.runtime.list_pod_sandbox(v1::ListPodSandboxRequest { filter: Some(filter) }).await?;
    for s in list.items {
        let owner = s.labels.get(labels::POD_UID).map_or("", String::as_str);
        // Sandboxes that are not a kubelet's (crictl's, say) are let be.
        if owner.is_empty() || kubelet.pods.get(owner).is_some() {
            continue;
        }
        tracing::info!(uid = owner, sandbox = s.id, "removing an orphaned sandbox");
        let id = s.id;
        kubelet.runtime.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
        kubelet.runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id }).await?;
    }
    Ok(())
}

fn directories(kubelet: &Kubelet) {
    let pods = kubelet.config.data_dir.join("pods");
    let mut gone = BTreeSet::new();
    for e in std::fs::read_dir(&pods).into_iter().flatten().filter_map(Result::ok) {
        let uid = e.file_name().to_string_lossy().into_owned();
        if kubelet.pods.get(&uid).is_none() {
            match volumes::remove_pod_dir(&e.path()) {
                Ok(()) => drop(gone.insert(uid)),
                Err(error) => tracing::warn!(uid, error, "remove orphaned pod directory"),
            }
        }
    }
    // Log directories end with the uid.
    for e in std::fs::read_dir(&kubelet.config.pod_log_dir).into_iter().flatten().filter_map(Result::ok) {
        let name = e.file_name().to_string_lossy().into_owned();
        let uid = name.rsplit('_').next().unwrap_or_default();
        if kubelet.pods.get(uid).is_none()
            && let Err(error) = std::fs::remove_dir_all(e.path())
        {
            tracing::warn!(uid, %error, "remove orphaned log directory");
        }
    }
    kubelet.cgroups.remove_orphans(|uid| kubelet.pods.get(uid).is_some());
}
