//! Records as CRI shows them, changes of them, and the events that tell of the changes.

use std::sync::Arc;

use isopod_cri::v1::*;

use crate::client::blocking;
use crate::record::ContainerRecord;
use crate::runtime::{Container, Inner, Sandbox, now};
use crate::shim::protocol::{Exit, Reply};

impl Sandbox {
    pub(crate) fn status(&self) -> PodSandboxStatus {
        let record = self.record.lock();
        let state =
            if record.ready { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready };
        let mut ips = record.ips.iter();
        PodSandboxStatus {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: state as i32,
            created_at: record.created_at,
            network: Some(PodSandboxNetworkStatus {
                ip: ips.next().cloned().unwrap_or_default(),
                additional_ips: ips.map(|ip| PodIp { ip: ip.clone() }).collect(),
            }),
            linux: Some(LinuxPodSandboxStatus {
                namespaces: Some(Namespace { options: Some(crate::sandboxes::modes(&self.config)) }),
            }),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: record.runtime_handler.clone(),
        }
    }

    pub(crate) fn item(&self) -> PodSandbox {
        let status = self.status();
        PodSandbox {
            id: status.id,
            metadata: status.metadata,
            state: status.state,
            created_at: status.created_at,
            labels: status.labels,
            annotations: status.annotations,
            runtime_handler: status.runtime_handler,
        }
    }
}

impl Container {
    pub(crate) fn state(&self) -> ContainerState {
        let record = self.record.lock();
        match (record.started_at, record.finished_at) {
            (_, finished) if finished > 0 => ContainerState::ContainerExited,
            (0, _) => ContainerState::ContainerCreated,
            _ => ContainerState::ContainerRunning,
        }
    }

    pub(crate) fn status(&self) -> ContainerStatus {
        let state = self.state();
        let config = self.config.read();
        let record = self.record.lock();
        let resources = config.linux.as_ref().and_then(|linux| linux.resources.clone());
        ContainerStatus {
            id: self.id.clone(),
            metadata: config.metadata.clone(),
            state: state as i32,
            created_at: record.created_at,
            started_at: record.started_at,
            finished_at: record.finished_at,
            exit_code: record.exit_code,
            image: shown_image(&config, &record),
            image_ref: record.image_ref.clone(),
            reason: record.reason.clone(),
            message: record.message.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            log_path: record.log_path.clone(),
            resources: Some(ContainerResources { linux: resources, windows: None }),
            image_id: record.image_id.clone(),
            user: Some(ContainerUser {
                linux: Some(LinuxContainerUser {
                    uid: i64::from(record.uid),
                    gid: i64::from(record.gid),
                    supplemental_groups: record.groups.iter().map(|gid| i64::from(*gid)).collect(),
                }),
            }),
            stop_signal: config.stop_signal,
        }
    }

    pub(crate) fn item(&self) -> isopod_cri::v1::Container {
        let state = self.state();
        let config = self.config.read();
        let record = self.record.lock();
        isopod_cri::v1::Container {
            id: self.id.clone(),
            pod_sandbox_id: self.sandbox.id.clone(),
            metadata: config.metadata.clone(),
            image: config.image.clone(),
            image_ref: record.image_ref.clone(),
            state: state as i32,
            created_at: record.created_at,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            image_id: record.image_id.clone(),
        }
    }
}

/// The kubelet asks for a container by the id of its image; users know the name.
fn shown_image(config: &ContainerConfig, record: &ContainerRecord) -> Option<ImageSpec> {
    let mut spec = config.image.clone()?;
    if !record.image_name.is_empty() {
        spec.image.clone_from(&record.image_name);
    }
    Some(spec)
}

impl Inner {
    /// Tells subscribers that something of a sandbox changed.
    pub(crate) fn publish(&self, sandbox: &Sandbox, id: &str, kind: ContainerEventType) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let containers_statuses =
            self.containers_of(&sandbox.id).iter().map(|container| container.status()).collect();
        // Nobody listening any more is no failure.
        let _ = self.events.send(ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind as i32,
            created_at: now(),
            pod_sandbox_status: Some(sandbox.status()),
            containers_statuses,
        });
    }

    /// A container runs; known from the answer to a start, or from its shim, whichever comes first.
    pub(crate) fn started(&self, container: &Container, pid: i32, at: i64) {
        let mut first = false;
        container.update(|record| {
            if record.started_at == 0 {
                first = true;
                // Of a container that ended at once the shim says its end first, and both by the same clock.
                record.started_at = if record.finished_at > 0 { at.min(record.finished_at) } else { at };
                record.pid = pid;
            }
        });
        if first {
            self.publish(&container.sandbox, &container.id, ContainerEventType::ContainerStartedEvent);
        }
    }

    /// A container ended.
    pub(crate) fn exited(&self, container: &Arc<Container>, exit: &Exit, message: &str) {
        let mut first = false;
        container.update(|record| {
            if record.finished_at == 0 {
                first = true;
                record.finished_at = exit.at_nanos.max(record.started_at);
                record.exit_code = exit.code;
                message.clone_into(&mut record.message);
                record.reason = match (exit.oom_killed, exit.code) {
                    (true, _) => "OOMKilled",
                    (false, 0) => "Completed",
                    (false, _) => "Error",
                }
                .to_owned();
            }
        });
        if first {
            container.ended.send_replace(true);
            self.clean_up_later(container);
            self.publish(&container.sandbox, &container.id, ContainerEventType::ContainerStoppedEvent);
        }
    }

    /// Removes the control group of a container that ended.
    pub(crate) fn clean_up_later(&self, container: &Arc<Container>) {
        let (cgroups, group) = (self.cgroups.clone(), container.record.lock().cgroup.clone());
        let id = container.id.clone();
        tokio::spawn(async move {
            if let Err(e) = blocking(move || cgroups.remove(&group)).await {
                tracing::warn!(container = id, "clean up: {e}");
            }
        });
    }

    /// Follows a sandbox's shim until it is gone.
    pub(crate) fn watch(self: &Arc<Self>, sandbox: Arc<Sandbox>) {
        let inner = self.clone();
        tokio::spawn(async move {
            let followed = async {
                let mut replies = match sandbox.shim.watch().await {
                    Ok(replies) => replies,
                    Err(e) => return e,
                };
                loop {
                    match replies.next().await {
                        Ok(reply) => inner.apply(reply),
                        Err(e) => return e,
                    }
                }
            };
            let error = tokio::select! {
                error = followed => error,
                () = inner.closing.cancelled() => return,
            };
            if sandbox.is_ready() {
                inner.shim_died(&sandbox, &error.to_string()).await;
            }
        });
    }

    /// Takes over what a shim says of a container.
    pub(crate) fn apply(&self, reply: Reply) {
        let Reply::State(state) = reply else { return };
        let Ok(container) = self.container(&state.id) else { return };
        self.started(&container, state.pid, state.started_at_nanos);
        if let Some(exit) = &state.exit {
            self.exited(&container, exit, "");
        }
    }

    /// Without its shim a pod is lost: nobody collects its output or its exit codes.
    pub(crate) async fn shim_died(self: &Arc<Self>, sandbox: &Arc<Sandbox>, why: &str) {
        let _changing = sandbox.changing.lock().await;
        if !sandbox.is_ready() {
            return;
        }
        tracing::error!(sandbox = sandbox.id, "the shim died, the pod's containers are killed: {why}");
        for container in self.containers_of(&sandbox.id) {
            if container.has_ended() {
                continue;
            }
            self.cgroups.kill(&container.record.lock().cgroup);
            if container.is_running() {
                let exit = Exit { code: 137, at_nanos: now(), oom_killed: false };
                self.exited(&container, &exit, "the shim of the pod died");
            }
        }
        if let Err(e) = self.tear_down(sandbox).await {
            tracing::error!(sandbox = sandbox.id, "clean up after the shim: {e}");
        }
        let _ = sandbox.update(|record| record.ready = false);
        self.publish(sandbox, &sandbox.id, ContainerEventType::ContainerStoppedEvent);
    }
}
