//! The two services of CRI as traits.
//!
//! The calls of CRI that stream a list (`StreamContainers` and the like) exist only to get around the size
//! limit of a gRPC message; over gRPC the server answers them from the list calls.

use std::pin::Pin;

use async_trait::async_trait;
use futures::Stream;

use crate::Error;
use crate::v1::*;

/// Changes of containers and sandboxes as they happen.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<ContainerEventResponse, Error>> + Send>>;

/// Sandboxes and containers.
#[async_trait]
pub trait RuntimeService: Send + Sync + 'static {
    /// Name and version of the runtime and of its API.
    async fn version(&self, request: VersionRequest) -> Result<VersionResponse, Error>;

    /// Creates and starts a pod sandbox; it is ready when this returns.
    async fn run_pod_sandbox(&self, request: RunPodSandboxRequest) -> Result<RunPodSandboxResponse, Error>;

    /// Stops every process of the sandbox and gives its network back. Succeeds if it is stopped or gone.
    async fn stop_pod_sandbox(&self, request: StopPodSandboxRequest)
    -> Result<StopPodSandboxResponse, Error>;

    /// Removes the sandbox and its containers, running ones by force. Succeeds if it is gone.
    async fn remove_pod_sandbox(
        &self,
        request: RemovePodSandboxRequest,
    ) -> Result<RemovePodSandboxResponse, Error>;

    /// State of a sandbox; `NotFound` if there is none.
    async fn pod_sandbox_status(
        &self,
        request: PodSandboxStatusRequest,
    ) -> Result<PodSandboxStatusResponse, Error>;

    /// Sandboxes that pass the filter.
    async fn list_pod_sandbox(&self, request: ListPodSandboxRequest)
    -> Result<ListPodSandboxResponse, Error>;

    /// Prepares a container in a sandbox.
    async fn create_container(
        &self,
        request: CreateContainerRequest,
    ) -> Result<CreateContainerResponse, Error>;

    /// Starts a created container.
    async fn start_container(&self, request: StartContainerRequest) -> Result<StartContainerResponse, Error>;

    /// Sends the stop signal, and kills after `timeout` seconds. Succeeds if it is stopped or gone.
    async fn stop_container(&self, request: StopContainerRequest) -> Result<StopContainerResponse, Error>;

    /// Removes a container, a running one by force. Succeeds if it is gone.
    async fn remove_container(
        &self,
        request: RemoveContainerRequest,
    ) -> Result<RemoveContainerResponse, Error>;

    /// Containers that pass the filter.
    async fn list_containers(&self, request: ListContainersRequest) -> Result<ListContainersResponse, Error>;

    /// State of a container; `NotFound` if there is none.
    async fn container_status(
        &self,
        request: ContainerStatusRequest,
    ) -> Result<ContainerStatusResponse, Error>;

    /// Changes cgroup limits of a container.
    async fn update_container_resources(
        &self,
        request: UpdateContainerResourcesRequest,
    ) -> Result<UpdateContainerResourcesResponse, Error>;

    /// Makes the runtime open the log file anew after it was rotated.
    async fn reopen_container_log(
        &self,
        request: ReopenContainerLogRequest,
    ) -> Result<ReopenContainerLogResponse, Error>;

    /// Runs a command in a container and answers its output and exit code.
    async fn exec_sync(&self, request: ExecSyncRequest) -> Result<ExecSyncResponse, Error>;

    /// Prepares a streaming URL to run a command in a container.
    async fn exec(&self, request: ExecRequest) -> Result<ExecResponse, Error>;

    /// Prepares a streaming URL to attach to a running container.
    async fn attach(&self, request: AttachRequest) -> Result<AttachResponse, Error>;

    /// Prepares a streaming URL to forward ports of a sandbox.
    async fn port_forward(&self, request: PortForwardRequest) -> Result<PortForwardResponse, Error>;

    /// Resource usage of a container.
    async fn container_stats(&self, request: ContainerStatsRequest) -> Result<ContainerStatsResponse, Error>;

    /// Resource usage of the containers that pass the filter.
    async fn list_container_stats(
        &self,
        request: ListContainerStatsRequest,
    ) -> Result<ListContainerStatsResponse, Error>;

    /// Resource usage of a sandbox.
    async fn pod_sandbox_stats(
        &self,
        request: PodSandboxStatsRequest,
    ) -> Result<PodSandboxStatsResponse, Error>;

    /// Resource usage of the sandboxes that pass the filter.
    async fn list_pod_sandbox_stats(
        &self,
        request: ListPodSandboxStatsRequest,
    ) -> Result<ListPodSandboxStatsResponse, Error>;

    /// Tells the runtime the pod address range of this node.
    async fn update_runtime_config(
        &self,
        request: UpdateRuntimeConfigRequest,
    ) -> Result<UpdateRuntimeConfigResponse, Error>;

    /// Conditions of the runtime: `RuntimeReady`, `NetworkReady`.
    async fn status(&self, request: StatusRequest) -> Result<StatusResponse, Error>;

    /// Checkpoints a container.
    async fn checkpoint_container(
        &self,
        _request: CheckpointContainerRequest,
    ) -> Result<CheckpointContainerResponse, Error> {
        Err(Error::unimplemented("CheckpointContainer is not implemented by this runtime"))
    }

    /// Descriptors of the metrics that [`list_pod_sandbox_metrics`](Self::list_pod_sandbox_metrics) answers.
    async fn list_metric_descriptors(
        &self,
        _request: ListMetricDescriptorsRequest,
    ) -> Result<ListMetricDescriptorsResponse, Error> {
        Err(Error::unimplemented("ListMetricDescriptors is not implemented by this runtime"))
    }

    /// Metrics of all sandboxes.
    async fn list_pod_sandbox_metrics(
        &self,
        _request: ListPodSandboxMetricsRequest,
    ) -> Result<ListPodSandboxMetricsResponse, Error> {
        Err(Error::unimplemented("ListPodSandboxMetrics is not implemented by this runtime"))
    }

    /// What the runtime needs the kubelet to know: the cgroup driver.
    async fn runtime_config(&self, request: RuntimeConfigRequest) -> Result<RuntimeConfigResponse, Error>;

    /// Tells the runtime of changed resources of the pod.
    async fn update_pod_sandbox_resources(
        &self,
        _request: UpdatePodSandboxResourcesRequest,
    ) -> Result<UpdatePodSandboxResourcesResponse, Error> {
        Err(Error::unimplemented("UpdatePodSandboxResources is not implemented by this runtime"))
    }

    /// Changes of containers and sandboxes from now on. The stream ends when the receiver is too slow or
    /// the runtime goes away; the receiver then lists anew and subscribes again.
    async fn get_container_events(&self, request: GetEventsRequest) -> Result<EventStream, Error>;
}

/// Images.
#[async_trait]
pub trait ImageService: Send + Sync + 'static {
    /// Images that pass the filter.
    async fn list_images(&self, request: ListImagesRequest) -> Result<ListImagesResponse, Error>;

    /// The image, or none if it is not present.
    async fn image_status(&self, request: ImageStatusRequest) -> Result<ImageStatusResponse, Error>;

    /// Pulls an image and answers its reference.
    async fn pull_image(&self, request: PullImageRequest) -> Result<PullImageResponse, Error>;

    /// Removes an image. Succeeds if it is gone.
    async fn remove_image(&self, request: RemoveImageRequest) -> Result<RemoveImageResponse, Error>;

    /// Usage of the file systems that hold images and containers.
    async fn image_fs_info(&self, request: ImageFsInfoRequest) -> Result<ImageFsInfoResponse, Error>;
}
