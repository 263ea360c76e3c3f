//! Starting one container: configuration, create, start, postStart hook.

use std::sync::Arc;
use std::time::Duration;

use isopod_cri::v1;
use isopod_podplan::spec::{self, Role};
use k8s_openapi::api::core::v1::Pod;
use tokio_util::sync::CancellationToken;

use crate::container_config::{self, Request};
use crate::kubelet::Kubelet;
use crate::volumes::Mounted;
use crate::{hooks, images, sandbox_config, security};

/// A postStart hook has no limit of its own; this one only keeps a lost one from staying for ever.
const HOOK_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long to wait for the Services whose variables a container gets.
const SERVICES_WAIT: Duration = Duration::from_secs(30);

/// Why a container did not start: its waiting reason and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LaunchFailure {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// What to start.
pub(crate) struct Launch {
    pub(crate) container: String,
    pub(crate) attempt: u32,
    pub(crate) sandbox: String,
    pub(crate) sandbox_attempt: u32,
    pub(crate) image_ref: String,
    pub(crate) volumes: Arc<Mounted>,
    pub(crate) target_id: Option<String>,
    pub(crate) pod_ip: String,
    pub(crate) is_static: bool,
    pub(crate) ending: CancellationToken,
}

/// Starts the container.
pub(crate) async fn launch(kubelet: Arc<Kubelet>, pod: Arc<Pod>, l: Launch) -> Result<(), LaunchFailure> {
    let result = start(&kubelet, &pod, &l).await;
    let id = match result {
        Ok(id) => id,
        Err(f) => {
            kubelet.event(&pod, Some(&l.container), true, "Failed", format!("Error: {}", f.message));
            return Err(f);
        }
    };
    post_start(&kubelet, &pod, &l, &id).await
}

fn failure(reason: &'static str) -> impl Fn(String) -> LaunchFailure {
    move |message| LaunchFailure { reason, message }
}

async fn start(kubelet: &Kubelet, pod: &Pod, l: &Launch) -> Result<String, LaunchFailure> {
    let config_error = failure("CreateContainerConfigError");
    let (role, c) =
        spec::find(pod, &l.container).ok_or_else(|| config_error("container left the spec".into()))?;
    if !l.is_static && tokio::time::timeout(SERVICES_WAIT, kubelet.services.wait_synced()).await.is_err() {
        let text = "services have not yet been read at least once, cannot construct envvars";
        return Err(config_error(text.into()));
    }
    let image = images::look_up(&*kubelet.images, &l.image_ref).await.map_err(&config_error)?;
    let image = image.ok_or_else(|| config_error(format!("image {} vanished", l.image_ref)))?;
    let target_id = match (security::target(pod, role, &l.container), &l.target_id) {
        (Some(name), None) => {
            return Err(config_error(format!("unable to find target container {name:?}")));
        }
        (_, id) => id.clone(),
    };
    let request = Request {
        pod,
        container: &c,
        attempt: l.attempt,
        image: &image,
        image_ref: &l.image_ref,
        volumes: &l.volumes,
        target_id,
    };
    let config = container_config::make(kubelet, &request).await.map_err(&config_error)?;
    let sandbox_config = sandbox_config::make(kubelet, pod, l.sandbox_attempt).map_err(&config_error)?;
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: l.sandbox.clone(),
        config: Some(config),
        sandbox_config: Some(sandbox_config),
    };
    let created = kubelet.runtime.create_container(request).await;
    let id = created.map_err(|e| failure("CreateContainerError")(e.message))?.container_id;
    kubelet.event(pod, Some(&l.container), false, "Created", CREATED.to_owned());
    let request = v1::StartContainerRequest { container_id: id.clone() };
    let started = kubelet.runtime.start_container(request).await;
    started.map_err(|e| failure("RunContainerError")(e.message))?;
    kubelet.event(pod, Some(&l.container), false, "Started", STARTED.to_owned());
    if role == Role::Ephemeral {
        tracing::info!(pod = super::name_of(pod), container = l.container, "ephemeral container started");
    }
    Ok(id)
}

const CREATED: &str = "Container created";
const STARTED: &str = "Container started";

async fn post_start(kubelet: &Kubelet, pod: &Pod, l: &Launch, id: &str) -> Result<(), LaunchFailure> {
    let Some((_, c)) = spec::find(pod, &l.container) else { return Ok(()) };
    let Some(hook) = c.lifecycle.as_ref().and_then(|x| x.post_start.as_ref()) else { return Ok(()) };
    let result = tokio::select! {
        result = hooks::run(kubelet, hook, &c, id, &l.pod_ip, HOOK_MAX) => result,
        () = l.ending.cancelled() => return Ok(()),
    };
    let Err(error) = result else { return Ok(()) };
    kubelet.event(pod, Some(&l.container), true, "FailedPostStartHook", "PostStartHook failed".to_owned());
    let text = "FailedPostStartHook".to_owned();
    kubelet.event(pod, Some(&l.container), false, "Killing", text);
    let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout: spec::grace_seconds(pod) };
    if let Err(error) = kubelet.runtime.stop_container(request).await {
        tracing::warn!(pod = super::name_of(pod), container = l.container, %error, "stop after failed hook");
    }
    Err(LaunchFailure { reason: "PostStartHookError", message: error })
}
