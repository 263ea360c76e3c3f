//! A container runtime in memory, without events, that fails where it is told to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use async_trait::async_trait;
use isopod_cri::v1::*;
use isopod_cri::{Error, EventStream, ImageService, RuntimeService};

#[derive(Default)]
pub struct State {
    pub sandboxes: BTreeMap<String, (PodSandboxConfig, bool)>,
    pub containers: BTreeMap<String, (String, ContainerConfig, ContainerStatus)>,
    pub images: BTreeMap<String, Image>,
    /// Calls that fail, and how often they still do.
    pub faults: HashMap<&'static str, u32>,
    /// Calls, in order.
    pub calls: Vec<String>,
    serial: u32,
}

impl State {
    fn next(&mut self, what: &str) -> String {
        self.serial += 1;
        format!("{what}{}", self.serial)
    }
}

#[derive(Default)]
pub struct Fake(pub Mutex<State>);

impl Fake {
    /// Notes a call; fails it if it is to.
    fn call(&self, name: &'static str, about: &str) -> Result<std::sync::MutexGuard<'_, State>, Error> {
        let mut state = self.0.lock().unwrap();
        state.calls.push(format!("{name} {about}"));
        if let Some(n) = state.faults.get_mut(name).filter(|n| **n > 0) {
            *n -= 1;
            return Err(Error::internal(format!("{name} is told to fail")));
        }
        Ok(state)
    }

    pub fn fail(&self, name: &'static str, times: u32) {
        self.0.lock().unwrap().faults.insert(name, times);
    }

    pub fn count(&self, call: &str) -> usize {
        self.0.lock().unwrap().calls.iter().filter(|c| c.starts_with(call)).count()
    }

    /// Ends a container as if its process had.
    pub fn exit(&self, name: &str, code: i32) {
        let mut state = self.0.lock().unwrap();
        for (_, config, status) in state.containers.values_mut() {
            if config.metadata.as_ref().unwrap().name == name {
                finish(status, code);
            }
        }
    }
}

fn finish(status: &mut ContainerStatus, code: i32) {
    if status.state == ContainerState::ContainerRunning as i32 {
        status.state = ContainerState::ContainerExited as i32;
        status.exit_code = code;
        status.finished_at = 2_000_000_000;
    }
}

fn selected(labels: &BTreeMap<String, String>, selector: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(k, v)| labels.get(k) == Some(v))
}

fn unsupported<T>() -> Result<T, Error> {
    Err(Error::unimplemented("not in the fake"))
}

#[async_trait]
impl RuntimeService for Fake {
    async fn version(&self, _: VersionRequest) -> Result<VersionResponse, Error> {
        drop(self.call("version", "")?);
        Ok(VersionResponse { runtime_name: "fake".into(), ..VersionResponse::default() })
    }

    async fn run_pod_sandbox(&self, r: RunPodSandboxRequest) -> Result<RunPodSandboxResponse, Error> {
        let config = r.config.unwrap();
        let mut state = self.call("run_pod_sandbox", &config.metadata.as_ref().unwrap().name)?;
        let id = state.next("s");
        state.sandboxes.insert(id.clone(), (config, true));
        Ok(RunPodSandboxResponse { pod_sandbox_id: id })
    }

    async fn stop_pod_sandbox(&self, r: StopPodSandboxRequest) -> Result<StopPodSandboxResponse, Error> {
        let mut state = self.call("stop_pod_sandbox", &r.pod_sandbox_id)?;
        if let Some(s) = state.sandboxes.get_mut(&r.pod_sandbox_id) {
            s.1 = false;
        }
        Ok(StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        r: RemovePodSandboxRequest,
    ) -> Result<RemovePodSandboxResponse, Error> {
        self.call("remove_pod_sandbox", &r.pod_sandbox_id)?.sandboxes.remove(&r.pod_sandbox_id);
        Ok(RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        r: PodSandboxStatusRequest,
    ) -> Result<PodSandboxStatusResponse, Error> {
        let state = self.0.lock().unwrap();
        let (config, ready) =
            state.sandboxes.get(&r.pod_sandbox_id).ok_or_else(|| Error::not_found("no such sandbox"))?;
        let network = PodSandboxNetworkStatus { ip: "10.1.1.1".into(), ..PodSandboxNetworkStatus::default() };
        let status = PodSandboxStatus {
            id: r.pod_sandbox_id.clone(),
            metadata: config.metadata.clone(),
            state: i32::from(!ready),
            created_at: 1_000_000_000,
            network: Some(network),
            ..PodSandboxStatus::default()
        };
        Ok(PodSandboxStatusResponse { status: Some(status), ..PodSandboxStatusResponse::default() })
    }

    async fn list_pod_sandbox(&self, r: ListPodSandboxRequest) -> Result<ListPodSandboxResponse, Error> {
        let selector = r.filter.unwrap_or_default().label_selector;
        let state = self.0.lock().unwrap();
        let items = state.sandboxes.iter().filter(|(_, (c, _))| selected(&c.labels, &selector));
        let items = items.map(|(id, (c, ready))| PodSandbox {
            id: id.clone(),
            metadata: c.metadata.clone(),
            state: i32::from(!ready),
            created_at: 1_000_000_000,
            labels: c.labels.clone(),
            ..PodSandbox::default()
        });
        Ok(ListPodSandboxResponse { items: items.collect() })
    }

    async fn create_container(&self, r: CreateContainerRequest) -> Result<CreateContainerResponse, Error> {
        let config = r.config.unwrap();
        let metadata = config.metadata.clone().unwrap();
        let mut state = self.call("create_container", &metadata.name)?;
        let id = state.next("c");
        let status = ContainerStatus {
            id: id.clone(),
            metadata: Some(metadata),
            created_at: 1_000_000_000,
            annotations: config.annotations.clone(),
            image: config.image.clone(),
            ..ContainerStatus::default()
        };
        state.containers.insert(id.clone(), (r.pod_sandbox_id, config, status));
        Ok(CreateContainerResponse { container_id: id })
    }

    async fn start_container(&self, r: StartContainerRequest) -> Result<StartContainerResponse, Error> {
        let mut state = self.call("start_container", &r.container_id)?;
        let status = &mut state.containers.get_mut(&r.container_id).unwrap().2;
        status.state = ContainerState::ContainerRunning as i32;
        status.started_at = 1_000_000_000;
        Ok(StartContainerResponse {})
    }

    async fn stop_container(&self, r: StopContainerRequest) -> Result<StopContainerResponse, Error> {
        let mut state = self.call("stop_container", &format!("{} {}", r.container_id, r.timeout))?;
        if let Some(c) = state.containers.get_mut(&r.container_id) {
            finish(&mut c.2, 143);
        }
        Ok(StopContainerResponse {})
    }

    async fn remove_container(&self, r: RemoveContainerRequest) -> Result<RemoveContainerResponse, Error> {
        self.call("remove_container", &r.container_id)?.containers.remove(&r.container_id);
        Ok(RemoveContainerResponse {})
    }

    async fn list_containers(&self, r: ListContainersRequest) -> Result<ListContainersResponse, Error> {
        let selector = r.filter.unwrap_or_default().label_selector;
        let state = self.0.lock().unwrap();
        let items = state.containers.iter().filter(|(_, (_, c, _))| selected(&c.labels, &selector));
        let containers = items.map(|(id, (sandbox, c, s))| Container {
            id: id.clone(),
            pod_sandbox_id: sandbox.clone(),
            metadata: c.metadata.clone(),
            state: s.state,
            labels: c.labels.clone(),
            ..Container::default()
        });
        Ok(ListContainersResponse { containers: containers.collect() })
    }

    async fn container_status(&self, r: ContainerStatusRequest) -> Result<ContainerStatusResponse, Error> {
        let state = self.0.lock().unwrap();
        let c = state.containers.get(&r.container_id).ok_or_else(|| Error::not_found("no such container"))?;
        Ok(ContainerStatusResponse { status: Some(c.2.clone()), ..ContainerStatusResponse::default() })
    }

    async fn update_container_resources(
        &self,
        _: UpdateContainerResourcesRequest,
    ) -> Result<UpdateContainerResourcesResponse, Error> {
        unsupported()
    }

    async fn reopen_container_log(
        &self,
        _: ReopenContainerLogRequest,
    ) -> Result<ReopenContainerLogResponse, Error> {
        unsupported()
    }

    async fn exec_sync(&self, _: ExecSyncRequest) -> Result<ExecSyncResponse, Error> {
        Ok(ExecSyncResponse::default())
    }

    async fn exec(&self, _: ExecRequest) -> Result<ExecResponse, Error> {
        unsupported()
    }

    async fn attach(&self, _: AttachRequest) -> Result<AttachResponse, Error> {
        unsupported()
    }

    async fn port_forward(&self, _: PortForwardRequest) -> Result<PortForwardResponse, Error> {
        unsupported()
    }

    async fn container_stats(&self, _: ContainerStatsRequest) -> Result<ContainerStatsResponse, Error> {
        unsupported()
    }

    async fn list_container_stats(
        &self,
        _: ListContainerStatsRequest,
    ) -> Result<ListContainerStatsResponse, Error> {
        unsupported()
    }

    async fn pod_sandbox_stats(&self, _: PodSandboxStatsRequest) -> Result<PodSandboxStatsResponse, Error> {
        unsupported()
    }

    async fn list_pod_sandbox_stats(
        &self,
        _: ListPodSandboxStatsRequest,
    ) -> Result<ListPodSandboxStatsResponse, Error> {
        unsupported()
    }

    async fn update_runtime_config(
        &self,
        _: UpdateRuntimeConfigRequest,
    ) -> Result<UpdateRuntimeConfigResponse, Error> {
        Ok(UpdateRuntimeConfigResponse {})
    }

    async fn status(&self, _: StatusRequest) -> Result<StatusResponse, Error> {
        let on = |name: &str| RuntimeCondition {
            r#type: name.into(),
            status: true,
            ..RuntimeCondition::default()
        };
        let conditions = vec![on("RuntimeReady"), on("NetworkReady")];
        Ok(StatusResponse { status: Some(RuntimeStatus { conditions }), ..StatusResponse::default() })
    }

    async fn runtime_config(&self, _: RuntimeConfigRequest) -> Result<RuntimeConfigResponse, Error> {
        unsupported()
    }

    async fn get_container_events(&self, _: GetEventsRequest) -> Result<EventStream, Error> {
        unsupported()
    }
}

#[async_trait]
impl ImageService for Fake {
    async fn list_images(&self, _: ListImagesRequest) -> Result<ListImagesResponse, Error> {
        Ok(ListImagesResponse { images: self.0.lock().unwrap().images.values().cloned().collect() })
    }

    async fn image_status(&self, r: ImageStatusRequest) -> Result<ImageStatusResponse, Error> {
        let image = self.0.lock().unwrap().images.get(&r.image.unwrap().image).cloned();
        Ok(ImageStatusResponse { image, ..ImageStatusResponse::default() })
    }

    /// Images below `private/` need the user `u`.
    async fn pull_image(&self, r: PullImageRequest) -> Result<PullImageResponse, Error> {
        let name = r.image.unwrap().image;
        let mut state = self.call("pull_image", &name)?;
        if name.contains("/private/") && r.auth.is_none_or(|a| a.username != "u" || a.password != "p") {
            return Err(Error { code: isopod_cri::Code::PermissionDenied, message: "unauthorized".into() });
        }
        let image = Image { id: name.clone(), size: 1, ..Image::default() };
        state.images.insert(name.clone(), image);
        Ok(PullImageResponse { image_ref: name })
    }

    async fn remove_image(&self, _: RemoveImageRequest) -> Result<RemoveImageResponse, Error> {
        unsupported()
    }

    async fn image_fs_info(&self, _: ImageFsInfoRequest) -> Result<ImageFsInfoResponse, Error> {
        Ok(ImageFsInfoResponse::default())
    }
}
