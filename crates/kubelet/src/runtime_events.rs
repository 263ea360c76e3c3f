//! Changes in the runtime, told to the workers: by the event stream, or by comparing lists where the runtime
//! has no events.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use isopod_cri::{Code, Error, v1};

use crate::kubelet::Kubelet;
use crate::labels;
use crate::pods::orphans;

const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How often lists are compared, as upstream does it.
const RELIST: Duration = Duration::from_secs(1);

/// Follows the runtime until shutdown.
pub(crate) async fn follow(kubelet: Arc<Kubelet>) {
    let mut pause = RETRY_MIN;
    loop {
        match kubelet.runtime.get_container_events(v1::GetEventsRequest {}).await {
            Ok(mut events) => {
                pause = RETRY_MIN;
                // What happened between two streams is not told by either.
                for p in kubelet.pods.list() {
                    p.change(|d| d.stale = true);
                }
                while let Some(Ok(event)) = events.next().await {
                    dispatch(&kubelet, &event);
                }
            }
            Err(error) if error.code == Code::Unimplemented => return relist(&kubelet).await,
            Err(error) => tracing::warn!(%error, "runtime events"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

fn dispatch(kubelet: &Arc<Kubelet>, event: &v1::ContainerEventResponse) {
    let status = event.pod_sandbox_status.as_ref();
    let Some(uid) = status.and_then(|s| s.metadata.as_ref()).map(|m| m.uid.as_str()) else {
        // A runtime that does not say whose container it was: look at all.
        for p in kubelet.pods.list() {
            p.change(|d| d.stale = true);
        }
        return;
    };
    match kubelet.pods.get(uid) {
        Some(p) => p.change(|d| d.stale = true),
        None if event.container_event_type == v1::ContainerEventType::ContainerStartedEvent as i32 => {
            let (kubelet, uid) = (kubelet.clone(), uid.to_owned());
            tokio::spawn(async move { orphans::clean_pod(&kubelet, &uid).await });
        }
        None => {}
    }
}

/// State by id, and the pod that it belongs to.
type States = HashMap<String, (i32, String)>;

async fn relist(kubelet: &Arc<Kubelet>) {
    let mut old = States::new();
    let mut timer = tokio::time::interval(RELIST);
    loop {
        timer.tick().await;
        let new = match states(kubelet).await {
            Ok(new) => new,
            Err(error) => {
                tracing::warn!(%error, "list containers");
                continue;
            }
        };
        let changed = new
            .iter()
            .filter(|(id, v)| old.get(*id) != Some(v))
            .chain(old.iter().filter(|(id, _)| !new.contains_key(*id)));
        for (_, (_, uid)) in changed {
            if let Some(p) = kubelet.pods.get(uid) {
                p.change(|d| d.stale = true);
            }
        }
        old = new;
    }
}

async fn states(kubelet: &Kubelet) -> Result<States, Error> {
    let uid =
        |l: &std::collections::BTreeMap<String, String>| l.get(labels::POD_UID).cloned().unwrap_or_default();
    let containers = kubelet.runtime.list_containers(v1::ListContainersRequest { filter: None }).await?;
    let sandboxes = kubelet.runtime.list_pod_sandbox(v1::ListPodSandboxRequest { filter: None }).await?;
    let containers = containers.containers.into_iter().map(|c| {
        let owner = uid(&c.labels);
        (c.id, (c.state, owner))
    });
    let sandboxes = sandboxes.items.into_iter().map(|s| {
        let owner = uid(&s.labels);
        (s.id, (s.state, owner))
    });
    Ok(containers.chain(sandboxes).collect())
}
