//! The CRI runtime service.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use isopod_cri::v1::*;
use isopod_cri::{Error, EventStream, RuntimeService};
use isopod_streaming::{Command, Session};
use tokio_stream::wrappers::BroadcastStream;

use crate::runtime::{Inner, Runtime, now};

/// Whether all of `wanted` is among `labels`.
fn has_labels(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

impl Inner {
    /// What a streaming request asks for, checked; `streams` are stdin, stdout, stderr.
    fn command(&self, container: &str, tty: bool, streams: [bool; 3]) -> Result<Command, Error> {
        let container = self.container(container)?;
        if !container.is_running() {
            return Err(Error::failed_precondition(format!("container {} is not running", container.id)));
        }
        let [stdin, stdout, stderr] = streams;
        if !stdin && !stdout && !stderr {
            return Err(Error::invalid_argument("one of stdin, stdout, or stderr must be set"));
        }
        if tty && stderr {
            return Err(Error::invalid_argument("tty and stderr cannot both be true"));
        }
        Ok(Command { container: container.id.clone(), args: Vec::new(), tty, stdin, stdout, stderr })
    }

    fn filtered_containers(
        &self,
        id: &str,
        sandbox: &str,
        labels: &BTreeMap<String, String>,
    ) -> Vec<Arc<crate::runtime::Container>> {
        let mut found: Vec<_> = self
            .containers
            .read()
            .values()
            .filter(|c| c.id.starts_with(id) && c.sandbox.id.starts_with(sandbox))
            .filter(|c| has_labels(&c.config.read().labels, labels))
            .cloned()
            .collect();
        found.sort_by(|a, b| a.id.cmp(&b.id));
        found
    }

    fn filtered_sandboxes(
        &self,
        id: &str,
        labels: &BTreeMap<String, String>,
    ) -> Vec<Arc<crate::runtime::Sandbox>> {
        let mut found: Vec<_> = self
            .sandboxes
            .read()
            .values()
            .filter(|s| s.id.starts_with(id) && has_labels(&s.config.labels, labels))
            .cloned()
            .collect();
        found.sort_by(|a, b| a.id.cmp(&b.id));
        found
    }
}

#[async_trait]
impl RuntimeService for Runtime {
    async fn version(&self, _request: VersionRequest) -> Result<VersionResponse, Error> {
        Ok(VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "isopod".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    async fn run_pod_sandbox(&self, request: RunPodSandboxRequest) -> Result<RunPodSandboxResponse, Error> {
        let config = request.config.ok_or_else(|| Error::invalid_argument("no sandbox config"))?;
        let pod_sandbox_id = self.inner.run_sandbox(config, request.runtime_handler).await?;
        Ok(RunPodSandboxResponse { pod_sandbox_id })
    }

    async fn stop_pod_sandbox(
        &self,
        request: StopPodSandboxRequest,
    ) -> Result<StopPodSandboxResponse, Error> {
        self.inner.stop_sandbox(&request.pod_sandbox_id).await?;
        Ok(StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: RemovePodSandboxRequest,
    ) -> Result<RemovePodSandboxResponse, Error> {
        self.inner.remove_sandbox(&request.pod_sandbox_id).await?;
        Ok(RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: PodSandboxStatusRequest,
    ) -> Result<PodSandboxStatusResponse, Error> {
        let sandbox = self.inner.sandbox(&request.pod_sandbox_id)?;
        let mut info = BTreeMap::new();
        if request.verbose {
            let record = sandbox.record.lock().clone();
            info.insert("info".to_owned(), serde_json::to_string(&record).map_err(Error::internal)?);
        }
        let containers_statuses =
            self.inner.containers_of(&sandbox.id).iter().map(|container| container.status()).collect();
        Ok(PodSandboxStatusResponse {
            status: Some(sandbox.status()),
            info,
            containers_statuses,
            timestamp: now(),
        })
    }

    async fn list_pod_sandbox(
        &self,
        request: ListPodSandboxRequest,
    ) -> Result<ListPodSandboxResponse, Error> {
        let filter = request.filter.unwrap_or_default();
        let mut items: Vec<_> = self
            .inner
            .filtered_sandboxes(&filter.id, &filter.label_selector)
            .iter()
            .map(|sandbox| sandbox.item())
            .collect();
        if let Some(wanted) = filter.state {
            items.retain(|item| item.state == wanted.state);
        }
        Ok(ListPodSandboxResponse { items })
    }

    async fn create_container(
        &self,
        request: CreateContainerRequest,
    ) -> Result<CreateContainerResponse, Error> {
        let config = request.config.ok_or_else(|| Error::invalid_argument("no container config"))?;
        let container_id = self.inner.create_container(&request.pod_sandbox_id, config).await?;
        Ok(CreateContainerResponse { container_id })
    }

    async fn start_container(&self, request: StartContainerRequest) -> Result<StartContainerResponse, Error> {
        let container = self.inner.container(&request.container_id)?;
        self.inner.start_container(&container).await?;
        Ok(StartContainerResponse {})
    }

    async fn stop_container(&self, request: StopContainerRequest) -> Result<StopContainerResponse, Error> {
        match self.inner.container(&request.container_id) {
            Ok(container) => self.inner.stop_container(&container, request.timeout).await?,
            Err(crate::Error::NotFound(_)) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: RemoveContainerRequest,
    ) -> Result<RemoveContainerResponse, Error> {
        match self.inner.container(&request.container_id) {
            Ok(container) => self.inner.remove_container(&container).await?,
            Err(crate::Error::NotFound(_)) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(RemoveContainerResponse {})
    }

    async fn list_containers(&self, request: ListContainersRequest) -> Result<ListContainersResponse, Error> {
        let filter = request.filter.unwrap_or_default();
        let mut containers: Vec<_> = self
            .inner
            .filtered_containers(&filter.id, &filter.pod_sandbox_id, &filter.label_selector)
            .iter()
            .map(|container| container.item())
            .collect();
        if let Some(wanted) = filter.state {
            containers.retain(|container| container.state == wanted.state);
        }
        Ok(ListContainersResponse { containers })
    }

    async fn container_status(
        &self,
        request: ContainerStatusRequest,
    ) -> Result<ContainerStatusResponse, Error> {
        let container = self.inner.container(&request.container_id)?;
        let mut info = BTreeMap::new();
        if request.verbose {
            let record = container.record.lock().clone();
            info.insert("info".to_owned(), serde_json::to_string(&record).map_err(Error::internal)?);
        }
        Ok(ContainerStatusResponse { status: Some(container.status()), info })
    }

    async fn update_container_resources(
        &self,
        request: UpdateContainerResourcesRequest,
    ) -> Result<UpdateContainerResourcesResponse, Error> {
        let container = self.inner.container(&request.container_id)?;
        self.inner.update_container(&container, request.linux.unwrap_or_default()).await?;
        Ok(UpdateContainerResourcesResponse {})
    }

    async fn reopen_container_log(
        &self,
        request: ReopenContainerLogRequest,
    ) -> Result<ReopenContainerLogResponse, Error> {
        let container = self.inner.container(&request.container_id)?;
        if !container.is_running() {
            return Err(Error::failed_precondition(format!("container {} is not running", container.id)));
        }
        container.sandbox.shim.reopen_log(&container.id).await?;
        Ok(ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: ExecSyncRequest) -> Result<ExecSyncResponse, Error> {
        let container = self.inner.container(&request.container_id)?;
        Ok(self.inner.exec_sync(&container, request.cmd, request.timeout).await?)
    }

    async fn exec(&self, request: ExecRequest) -> Result<ExecResponse, Error> {
        if request.cmd.is_empty() {
            return Err(Error::invalid_argument("no command specified"));
        }
        let command = self.inner.command(
            &request.container_id,
            request.tty,
            [request.stdin, request.stdout, request.stderr],
        )?;
        let session = Session::Exec(Command { args: request.cmd, ..command });
        Ok(ExecResponse { url: self.inner.session_url(session)? })
    }

    async fn attach(&self, request: AttachRequest) -> Result<AttachResponse, Error> {
        let command = self.inner.command(
            &request.container_id,
            request.tty,
            [request.stdin, request.stdout, request.stderr],
        )?;
        Ok(AttachResponse { url: self.inner.session_url(Session::Attach(command))? })
    }

    async fn port_forward(&self, request: PortForwardRequest) -> Result<PortForwardResponse, Error> {
        let sandbox = self.inner.sandbox(&request.pod_sandbox_id)?;
        if !sandbox.is_ready() {
            return Err(Error::failed_precondition(format!("sandbox {} is not running", sandbox.id)));
        }
        let mut ports = Vec::new();
        for port in request.port {
            ports.push(u16::try_from(port).map_err(|_| Error::invalid_argument(format!("port {port}")))?);
        }
        let session = Session::PortForward { sandbox: sandbox.id.clone(), ports };
        Ok(PortForwardResponse { url: self.inner.session_url(session)? })
    }

    async fn container_stats(&self, request: ContainerStatsRequest) -> Result<ContainerStatsResponse, Error> {
        let container = self.inner.container(&request.container_id)?;
        Ok(ContainerStatsResponse { stats: Some(self.inner.container_stats(&container).await) })
    }

    async fn list_container_stats(
        &self,
        request: ListContainerStatsRequest,
    ) -> Result<ListContainerStatsResponse, Error> {
        let filter = request.filter.unwrap_or_default();
        let mut stats = Vec::new();
        for container in
            self.inner.filtered_containers(&filter.id, &filter.pod_sandbox_id, &filter.label_selector)
        {
            if container.is_running() {
                stats.push(self.inner.container_stats(&container).await);
            }
        }
        Ok(ListContainerStatsResponse { stats })
    }

    async fn pod_sandbox_stats(
        &self,
        request: PodSandboxStatsRequest,
    ) -> Result<PodSandboxStatsResponse, Error> {
        let sandbox = self.inner.sandbox(&request.pod_sandbox_id)?;
        Ok(PodSandboxStatsResponse { stats: Some(self.inner.sandbox_stats(&sandbox).await?) })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: ListPodSandboxStatsRequest,
    ) -> Result<ListPodSandboxStatsResponse, Error> {
        let filter = request.filter.unwrap_or_default();
        let mut stats = Vec::new();
        for sandbox in self.inner.filtered_sandboxes(&filter.id, &filter.label_selector) {
            if sandbox.is_ready() {
                stats.push(self.inner.sandbox_stats(&sandbox).await?);
            }
        }
        Ok(ListPodSandboxStatsResponse { stats })
    }

    async fn update_runtime_config(
        &self,
        request: UpdateRuntimeConfigRequest,
    ) -> Result<UpdateRuntimeConfigResponse, Error> {
        let network = request.runtime_config.and_then(|config| config.network_config);
        if let Some(network) = network.filter(|network| !network.pod_cidr.is_empty()) {
            self.inner.config.network.set_pod_cidr(&network.pod_cidr).await?;
        }
        Ok(UpdateRuntimeConfigResponse {})
    }

    async fn status(&self, _request: StatusRequest) -> Result<StatusResponse, Error> {
        let condition = |name: &str, outcome: Result<(), Error>| RuntimeCondition {
            r#type: name.to_owned(),
            status: outcome.is_ok(),
            reason: if outcome.is_ok() { String::new() } else { format!("{name}Failed") },
            message: outcome.err().map(|e| e.message).unwrap_or_default(),
        };
        let network = self.inner.config.network.ready().await;
        Ok(StatusResponse {
            status: Some(RuntimeStatus {
                conditions: vec![condition("RuntimeReady", Ok(())), condition("NetworkReady", network)],
            }),
            info: BTreeMap::new(),
            runtime_handlers: vec![RuntimeHandler {
                name: String::new(),
                features: Some(RuntimeHandlerFeatures {
                    recursive_read_only_mounts: true,
                    user_namespaces: false,
                }),
            }],
            features: Some(RuntimeFeatures {
                supplemental_groups_policy: true,
                ..RuntimeFeatures::default()
            }),
        })
    }

    async fn runtime_config(&self, _request: RuntimeConfigRequest) -> Result<RuntimeConfigResponse, Error> {
        Ok(RuntimeConfigResponse {
            linux: Some(LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs as i32 }),
        })
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: UpdatePodSandboxResourcesRequest,
    ) -> Result<UpdatePodSandboxResourcesResponse, Error> {
        // The kubelet sets the pod's control group itself; there is nothing of the pod's here to size.
        self.inner.sandbox(&request.pod_sandbox_id)?;
        Ok(UpdatePodSandboxResourcesResponse {})
    }

    async fn get_container_events(&self, _request: GetEventsRequest) -> Result<EventStream, Error> {
        let events = BroadcastStream::new(self.inner.events.subscribe());
        Ok(events
            .map(|event| {
                event.map_err(|_| Error::resource_exhausted("the subscriber is too slow; list anew"))
            })
            .boxed())
    }
}
