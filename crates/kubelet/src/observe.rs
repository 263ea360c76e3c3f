//! What the runtime has of a pod, in the planner's terms.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};

use isopod_cri::{Error, v1};
use isopod_podplan::observed::{Container, ContainerState, Observed, Sandbox};
use jiff::Timestamp;

use crate::kubelet::Kubelet;
use crate::{container_config, labels};

/// Longest termination message.
const MESSAGE_MAX: usize = 4096;
/// Longest message taken from a log, in bytes and lines.
const FROM_LOG: (u64, usize) = (2048, 80);

fn time(nanos: i64) -> Option<Timestamp> {
    (nanos > 0).then(|| Timestamp::from_nanosecond(i128::from(nanos)).ok()).flatten()
}

/// Remembers what cannot change any more: the end of a container.
#[derive(Default)]
pub(crate) struct Observer {
    ended: HashMap<String, Container>,
}

impl Observer {
    /// Asks the runtime for everything that it has of the pod.
    pub(crate) async fn observe(&mut self, kubelet: &Kubelet, uid: &str) -> Result<Observed, Error> {
        let label_selector = labels::selector(uid);
        let filter = v1::PodSandboxFilter {
            label_selector: label_selector.clone(),
            ..v1::PodSandboxFilter::default()
        };
        let sandboxes =
            kubelet.runtime.list_pod_sandbox(v1::ListPodSandboxRequest { filter: Some(filter) }).await?;
        let filter = v1::ContainerFilter { label_selector, ..v1::ContainerFilter::default() };
        let containers =
            kubelet.runtime.list_containers(v1::ListContainersRequest { filter: Some(filter) }).await?;
        let mut out = Observed::default();
        for s in sandboxes.items {
            out.sandboxes.extend(sandbox(kubelet, s).await?);
        }
        for c in containers.containers {
            out.containers.extend(self.container(kubelet, uid, &c).await?);
        }
        self.ended.retain(|id, _| out.containers.iter().any(|c| c.id == *id));
        Ok(out)
    }

    async fn container(
        &mut self,
        kubelet: &Kubelet,
        uid: &str,
        listed: &v1::Container,
    ) -> Result<Option<Container>, Error> {
        if let Some(known) = self.ended.get(&listed.id) {
            return Ok(Some(known.clone()));
        }
        let request = v1::ContainerStatusRequest { container_id: listed.id.clone(), verbose: false };
        let status = match kubelet.runtime.container_status(request).await {
            Ok(answer) => answer.status,
            Err(e) if e.is_not_found() => None,
            Err(e) => return Err(e),
        };
        let Some(status) = status else { return Ok(None) };
        let mut c = convert(&status, &listed.pod_sandbox_id);
        if c.exited() {
            c.message = message(kubelet, uid, &c, &status);
            self.ended.insert(c.id.clone(), c.clone());
        }
        Ok(Some(c))
    }
}

async fn sandbox(kubelet: &Kubelet, s: v1::PodSandbox) -> Result<Option<Sandbox>, Error> {
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: s.id.clone(), verbose: false };
    let status = match kubelet.runtime.pod_sandbox_status(request).await {
        Ok(answer) => answer.status.unwrap_or_default(),
        Err(e) if e.is_not_found() => return Ok(None),
        Err(e) => return Err(e),
    };
    let network = status.network.unwrap_or_default();
    let more = network.additional_ips.into_iter().map(|ip| ip.ip);
    let ips = std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect();
    Ok(Some(Sandbox {
        id: s.id,
        attempt: s.metadata.unwrap_or_default().attempt,
        ready: status.state == v1::PodSandboxState::SandboxReady as i32,
        created_at: time(s.created_at).unwrap_or_default(),
        ips,
    }))
}

fn convert(s: &v1::ContainerStatus, sandbox_id: &str) -> Container {
    let meta = s.metadata.clone().unwrap_or_default();
    let state = match v1::ContainerState::try_from(s.state) {
        Ok(v1::ContainerState::ContainerCreated) => ContainerState::Created,
        Ok(v1::ContainerState::ContainerRunning) => ContainerState::Running,
        Ok(v1::ContainerState::ContainerExited) => ContainerState::Exited,
        _ => ContainerState::Unknown,
    };
    let image = s.image.clone().unwrap_or_default();
    let user = s.user.clone().and_then(|u| u.linux);
    let hash = s.annotations.get(labels::HASH).and_then(|h| u64::from_str_radix(h, 16).ok());
    Container {
        id: s.id.clone(),
        name: meta.name,
        sandbox_id: sandbox_id.to_owned(),
        attempt: meta.attempt,
        state,
        created_at: time(s.created_at).unwrap_or_default(),
        started_at: time(s.started_at),
        finished_at: time(s.finished_at),
        exit_code: s.exit_code,
        reason: s.reason.clone(),
        message: s.message.clone(),
        image: if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image },
        image_id: if s.image_ref.is_empty() { s.image_id.clone() } else { s.image_ref.clone() },
        hash: hash.unwrap_or(0),
        user: user.map(|u| (u.uid, u.gid, u.supplemental_groups)),
        stop_signal: None,
    }
}

/// The termination message: what the container wrote, the end of its log where it asks for that and failed,
/// or what the runtime says.
fn message(kubelet: &Kubelet, uid: &str, c: &Container, status: &v1::ContainerStatus) -> String {
    let file = container_config::message_file(kubelet, uid, &c.name, c.attempt);
    let mut text = clip(read_head(&file));
    let policy = status.annotations.get(labels::MESSAGE_POLICY).map(String::as_str);
    if text.is_empty() && policy == Some("FallbackToLogsOnError") && c.exit_code != 0 {
        let path = std::path::Path::new(&status.log_path);
        text = crate::logs::tail_text(path, FROM_LOG.0, FROM_LOG.1);
    }
    if text.is_empty() { status.message.clone() } else { text }
}

/// The first bytes of a file that a container wrote; it may be anything, so it is not read whole.
fn read_head(path: &std::path::Path) -> Vec<u8> {
    let Ok(mut file) = fs::File::open(path) else { return Vec::new() };
    let mut out = Vec::new();
    let _ = file.seek(SeekFrom::Start(0));
    let _ = file.take(MESSAGE_MAX as u64).read_to_end(&mut out);
    out
}

fn clip(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}
