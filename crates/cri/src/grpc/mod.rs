//! CRI over gRPC on unix sockets, both ways.
//!
//! The calls are listed once here; client and server are made from the list.

/// Calls `$then!` with every unary call of the service: method, wire name, request, response.
macro_rules! runtime_calls {
    ($then:ident) => {
        $then! {
            version, "Version", VersionRequest, VersionResponse;
            run_pod_sandbox, "RunPodSandbox", RunPodSandboxRequest, RunPodSandboxResponse;
            stop_pod_sandbox, "StopPodSandbox", StopPodSandboxRequest, StopPodSandboxResponse;
            remove_pod_sandbox, "RemovePodSandbox", RemovePodSandboxRequest, RemovePodSandboxResponse;
            pod_sandbox_status, "PodSandboxStatus", PodSandboxStatusRequest, PodSandboxStatusResponse;
            list_pod_sandbox, "ListPodSandbox", ListPodSandboxRequest, ListPodSandboxResponse;
            create_container, "CreateContainer", CreateContainerRequest, CreateContainerResponse;
            start_container, "StartContainer", StartContainerRequest, StartContainerResponse;
            stop_container, "StopContainer", StopContainerRequest, StopContainerResponse;
            remove_container, "RemoveContainer", RemoveContainerRequest, RemoveContainerResponse;
            list_containers, "ListContainers", ListContainersRequest, ListContainersResponse;
            container_status, "ContainerStatus", ContainerStatusRequest, ContainerStatusResponse;
            update_container_resources, "UpdateContainerResources", UpdateContainerResourcesRequest, UpdateContainerResourcesResponse;
            reopen_container_log, "ReopenContainerLog", ReopenContainerLogRequest, ReopenContainerLogResponse;
            exec_sync, "ExecSync", ExecSyncRequest, ExecSyncResponse;
            exec, "Exec", ExecRequest, ExecResponse;
            attach, "Attach", AttachRequest, AttachResponse;
            port_forward, "PortForward", PortForwardRequest, PortForwardResponse;
            container_stats, "ContainerStats", ContainerStatsRequest, ContainerStatsResponse;
            list_container_stats, "ListContainerStats", ListContainerStatsRequest, ListContainerStatsResponse;
            pod_sandbox_stats, "PodSandboxStats", PodSandboxStatsRequest, PodSandboxStatsResponse;
            list_pod_sandbox_stats, "ListPodSandboxStats", ListPodSandboxStatsRequest, ListPodSandboxStatsResponse;
            update_runtime_config, "UpdateRuntimeConfig", UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse;
            status, "Status", StatusRequest, StatusResponse;
            checkpoint_container, "CheckpointContainer", CheckpointContainerRequest, CheckpointContainerResponse;
            list_metric_descriptors, "ListMetricDescriptors", ListMetricDescriptorsRequest, ListMetricDescriptorsResponse;
            list_pod_sandbox_metrics, "ListPodSandboxMetrics", ListPodSandboxMetricsRequest, ListPodSandboxMetricsResponse;
            runtime_config, "RuntimeConfig", RuntimeConfigRequest, RuntimeConfigResponse;
            update_pod_sandbox_resources, "UpdatePodSandboxResources", UpdatePodSandboxResourcesRequest, UpdatePodSandboxResourcesResponse;
        }
    };
}

/// Calls `$then!` with every unary call of the service: method, wire name, request, response.
macro_rules! image_calls {
    ($then:ident) => {
        $then! {
            list_images, "ListImages", ListImagesRequest, ListImagesResponse;
            image_status, "ImageStatus", ImageStatusRequest, ImageStatusResponse;
            pull_image, "PullImage", PullImageRequest, PullImageResponse;
            remove_image, "RemoveImage", RemoveImageRequest, RemoveImageResponse;
            image_fs_info, "ImageFsInfo", ImageFsInfoRequest, ImageFsInfoResponse;
        }
    };
}

mod client;
mod server;

pub use client::{Client, connect};
pub use server::{serve, serve_listener};

/// Largest message either side accepts, as upstream's kubelet sets it.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

const RUNTIME_SERVICE: &str = "runtime.v1.RuntimeService";
const IMAGE_SERVICE: &str = "runtime.v1.ImageService";
