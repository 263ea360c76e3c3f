//! How the steps of a plan are carried out, but for starting containers.
//!
//! A step that fails waits here before it is reported as over, so that the planner, which would plan it again
//! at once, cannot spin.

use std::sync::Arc;
use std::time::{Duration, Instant};

use isopod_cri::v1;
use isopod_podplan::terminate::MIN_GRACE_SECONDS;
use isopod_podplan::{Op, spec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;
use tokio_util::sync::CancellationToken;

use crate::images::{self, PullError, Wanted};
use crate::kubelet::Kubelet;
use crate::pods::launch::LaunchFailure;
use crate::volumes::{self, Mounted, SetupError};
use crate::{hooks, sandbox_config};

/// Pause after a failed stop or removal.
const RETRY: Duration = Duration::from_secs(2);
/// How long a pod waits for the node's network before it is told.
const NETWORK_WAIT: Duration = Duration::from_secs(20);
/// A cgroup may stay busy for a moment after its last process died.
const CGROUP_TRIES: u32 = 40;
const CGROUP_PAUSE: Duration = Duration::from_millis(50);

/// The end of a step.
pub(crate) enum Done {
    /// Volumes are set up, or not.
    Prepared(Result<Mounted, SetupError>),
    /// Volumes of a running pod are up to date, or not.
    Refreshed(Result<Mounted, SetupError>),
    /// A sandbox was created, or not.
    Sandbox(Result<(), String>),
    /// The image of a container is there, or not: container, image name, reference.
    Pulled(String, String, Result<String, PullError>),
    /// A container was started, or not.
    Launched(String, Result<(), LaunchFailure>),
    /// Volumes and cgroup are gone, or not.
    Released(Result<(), String>),
    /// Any other step.
    Other(Op),
    /// The mirror of a static pod was seen to.
    Mirrored,
}

/// Creates the pod's cgroup, log directory and sandbox.
pub(crate) async fn create_sandbox(
    kubelet: Arc<Kubelet>,
    pod: Arc<Pod>,
    attempt: u32,
    ending: CancellationToken,
) -> Result<(), String> {
    if spec::of(&pod).host_users == Some(false) {
        // To run it with the node's users would be less than the pod asks for.
        return Err("user namespaces (hostUsers: false) are not supported on this node".into());
    }
    if !spec::host_network(&pod) {
        tokio::select! {
            waited = kubelet.wait_for_network(NETWORK_WAIT) => waited?,
            () = ending.cancelled() => return Err("the pod is ending".into()),
        }
    }
    let logs = sandbox_config::log_directory(&kubelet, &pod);
    std::fs::create_dir_all(&logs).map_err(|e| format!("create {}: {e}", logs.display()))?;
    kubelet.cgroups.create(&pod).map_err(|e| e.to_string())?;
    let config = Some(sandbox_config::make(&kubelet, &pod, attempt)?);
    let runtime_handler = runtime_handler(&kubelet, &pod).await?;
    let request = v1::RunPodSandboxRequest { config, runtime_handler };
    kubelet.runtime.run_pod_sandbox(request).await.map(|_| ()).map_err(|e| e.message)
}

async fn runtime_handler(kubelet: &Kubelet, pod: &Pod) -> Result<String, String> {
    let Some(name) = spec::of(pod).runtime_class_name.as_deref().filter(|n| !n.is_empty()) else {
        return Ok(String::new());
    };
    let api: kube::Api<RuntimeClass> = kube::Api::all(kubelet.client.clone());
    let class = api.get(name).await.map_err(|e| format!("failed to get RuntimeClass {name:?}: {e}"))?;
    Ok(class.handler)
}

/// Looks up or pulls an image.
pub(crate) async fn pull(kubelet: Arc<Kubelet>, pod: Arc<Pod>, container: String) -> Done {
    let (name, result) = match spec::find(&pod, &container) {
        Some((_, c)) => {
            let result = images::ensure(&kubelet, &pod, Wanted::of(&c)).await;
            (c.image.clone().unwrap_or_default(), result)
        }
        None => {
            let message = "container left the spec".into();
            (String::new(), Err(PullError { reason: "ErrImagePull", message }))
        }
    };
    Done::Pulled(container, name, result)
}

/// Sets up volumes.
pub(crate) async fn set_up(kubelet: &Kubelet, pod: &Pod) -> Result<Mounted, SetupError> {
    volumes::set_up(kubelet, pod).await
}

/// What to stop.
pub(crate) struct Stop {
    pub(crate) id: String,
    pub(crate) container: String,
    pub(crate) grace_seconds: i64,
    pub(crate) message: String,
    pub(crate) pod_ip: String,
    /// A shorter grace overtook a stop under way: the hook has had its turn.
    pub(crate) again: bool,
}

/// Runs the preStop hook and stops the container, both within the grace.
pub(crate) async fn stop(kubelet: Arc<Kubelet>, pod: Arc<Pod>, s: Stop) -> Done {
    if !s.again {
        kubelet.event(&pod, Some(&s.container), false, "Killing", s.message.clone());
    }
    let began = Instant::now();
    let mut left = s.grace_seconds;
    let found = spec::find(&pod, &s.container);
    let hook = found.as_ref().and_then(|(_, c)| c.lifecycle.as_ref()).and_then(|l| l.pre_stop.as_ref());
    if let (Some(hook), Some((_, c)), false, true) = (hook, &found, s.again, s.grace_seconds > 0) {
        let limit = Duration::from_secs(s.grace_seconds.unsigned_abs());
        if let Err(error) = hooks::run(&kubelet, hook, c, &s.id, &s.pod_ip, limit).await {
            tracing::debug!(pod = super::name_of(&pod), container = s.container, error, "preStop hook");
            let text = "PreStopHook failed".to_owned();
            kubelet.event(&pod, Some(&s.container), true, "FailedPreStopHook", text);
        }
        let elapsed = i64::try_from(began.elapsed().as_secs()).unwrap_or(i64::MAX);
        left = (s.grace_seconds - elapsed).max(MIN_GRACE_SECONDS);
    }
    let request = v1::StopContainerRequest { container_id: s.id.clone(), timeout: left };
    if let Err(error) = kubelet.runtime.stop_container(request).await
        && !error.is_not_found()
    {
        tracing::warn!(pod = super::name_of(&pod), container = s.container, %error, "stop container");
        let text = format!("error killing container {:?}: {error}", s.container);
        kubelet.event(&pod, Some(&s.container), true, "FailedKillPod", text);
        tokio::time::sleep(RETRY).await;
    }
    Done::Other(Op::Stop(s.id))
}

/// Stops a sandbox.
pub(crate) async fn stop_sandbox(kubelet: Arc<Kubelet>, pod: Arc<Pod>, id: String) -> Done {
    let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
    if let Err(error) = kubelet.runtime.stop_pod_sandbox(request).await
        && !error.is_not_found()
    {
        tracing::warn!(pod = super::name_of(&pod), %error, "stop sandbox");
        let text = format!("error killing pod: failed to stop sandbox {id:?}: {error}");
        kubelet.event(&pod, None, true, "FailedKillPod", text);
        tokio::time::sleep(RETRY).await;
    }
    Done::Other(Op::StopSandbox(id))
}

/// Removes a sandbox.
pub(crate) async fn remove_sandbox(kubelet: Arc<Kubelet>, id: String) -> Done {
    let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.clone() };
    if let Err(error) = kubelet.runtime.remove_pod_sandbox(request).await
        && !error.is_not_found()
    {
        tracing::warn!(sandbox = id, %error, "remove sandbox");
        tokio::time::sleep(RETRY).await;
    }
    Done::Other(Op::RemoveSandbox(id))
}

/// Removes an ended container and its logs.
pub(crate) async fn remove_container(kubelet: Arc<Kubelet>, id: String) -> Done {
    let status = v1::ContainerStatusRequest { container_id: id.clone(), verbose: false };
    let log = kubelet.runtime.container_status(status).await.ok().and_then(|a| a.status).map(|s| s.log_path);
    let request = v1::RemoveContainerRequest { container_id: id.clone() };
    match kubelet.runtime.remove_container(request).await {
        Err(error) if !error.is_not_found() => {
            tracing::warn!(container = id, %error, "remove container");
            tokio::time::sleep(RETRY).await;
        }
        _ => {
            if let Some(path) = log.filter(|p| !p.is_empty()) {
                crate::logs::rotate::remove_all(std::path::Path::new(&path));
            }
        }
    }
    Done::Other(Op::Remove(id))
}

/// Unmounts volumes and removes the cgroup.
pub(crate) async fn release(kubelet: Arc<Kubelet>, pod: Arc<Pod>) -> Done {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let dir = kubelet.config.pod_dir(&uid);
    let result = tokio::task::spawn_blocking(move || volumes::tear_down(&dir)).await;
    let result = result.unwrap_or_else(|e| Err(e.to_string()));
    if let Err(error) = &result {
        tracing::warn!(pod = super::name_of(&pod), error, "release volumes");
        tokio::time::sleep(RETRY).await;
        return Done::Released(result);
    }
    kubelet.config_maps.release(&uid);
    kubelet.secrets.release(&uid);
    kubelet.tokens.release(&uid);
    for n in 1.. {
        match kubelet.cgroups.remove(&pod) {
            Ok(()) => break,
            Err(_) if n < CGROUP_TRIES => tokio::time::sleep(CGROUP_PAUSE).await,
            Err(error) => {
                // Nothing is lost by an empty cgroup; the next start of the kubelet removes it.
                tracing::warn!(pod = super::name_of(&pod), %error, "remove cgroup");
                break;
            }
        }
    }
    Done::Released(Ok(()))
}
