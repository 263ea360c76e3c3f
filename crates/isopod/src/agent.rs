//! The node in this process: pod network, runtime, kubelet, kube-proxy, DNS.

use crate::config::Config;
use crate::control_plane::ControlPlane;
use crate::data_dir::private_directory;
use crate::image::RUNTIME;
use anyhow::{Context, Result};
use ipnet::IpNet;
use isopod_client::Informers;
use isopod_cri::RuntimeService;
use isopod_network::Network;
use isopod_runtime::Runtime;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Volatile state of the runtime, below the run directory.
const RUNTIME_STATE: &str = "runtime";
/// Free disk, in percent, below which pods are evicted. Upstream's 10 and 15 are tens of gigabytes on a large disk, and
/// make a laptop or a small server that is fuller than that useless as a node.
const DISK_AVAILABLE_PERCENT_MIN: u8 = 5;
/// Leases of pod addresses, below the data directory.
const NETWORK: &str = "network";

/// What a node is told, whether it shares the process with a control plane or not.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) data_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) cluster_cidrs: Vec<IpNet>,
    pub(crate) service_cidrs: Vec<IpNet>,
    pub(crate) tls: isopod_kubelet::Tls,
    pub(crate) bind_address: IpAddr,
    pub(crate) port: u16,
    pub(crate) manifests: Option<PathBuf>,
    pub(crate) cluster_dns: Vec<IpAddr>,
    pub(crate) cluster_domain: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<k8s_openapi::api::core::v1::Taint>,
    pub(crate) max_pods: u32,
}

/// The resolver configuration with the real servers: where systemd-resolved listens on loopback, pods cannot use its
/// stub.
fn resolv_conf() -> PathBuf {
    let real = Path::new("/run/systemd/resolve/resolv.conf");
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    if text.contains("127.0.0.53") && real.exists() { real.to_owned() } else { "/etc/resolv.conf".into() }
}

async fn take_range(network: &Network, ranges: &[String]) {
    let parsed: Result<Vec<IpNet>, _> = ranges.iter().map(|r| r.parse()).collect();
    match parsed {
        Err(error) => warn!(?ranges, %error, "pod range not understood"),
        Ok(parsed) => {
            if let Err(error) = network.set_pod_cidrs(&parsed).await {
                warn!(?ranges, error = error.report(), "pod range not taken");
            }
        }
    }
}

fn kubelet_config(node: &Node) -> Result<isopod_kubelet::Config> {
    let primary = *node.addresses.first().context("a node needs an address")?;
    Ok(isopod_kubelet::Config {
        node_ips: node.addresses.clone(),
        run_dir: node.run_dir.clone(),
        bind_address: node.bind_address,
        port: node.port,
        static_pod_dir: node.manifests.clone(),
        cluster_dns: node.cluster_dns.clone(),
        cluster_domain: node.cluster_domain.clone(),
        resolv_conf: resolv_conf(),
        max_pods: node.max_pods,
        node_labels: node.labels.clone(),
        register_with_taints: node.taints.clone(),
        eviction: isopod_kubelet::Eviction {
            nodefs_available_percent: DISK_AVAILABLE_PERCENT_MIN,
            imagefs_available_percent: DISK_AVAILABLE_PERCENT_MIN,
            ..isopod_kubelet::Eviction::default()
        },
        ..isopod_kubelet::Config::new(&node.name, primary, node.data_dir.clone(), node.tls.clone())
    })
}

/// Starts network, runtime and kubelet.
pub(crate) async fn start_node(
    node: Node,
    client: kube::Client,
    parts: &mut JoinSet<Result<()>>,
    shutdown: &CancellationToken,
) -> Result<Arc<Network>> {
    let network = Network::start(isopod_network::Config {
        state_dir: node.data_dir.join(NETWORK),
        cluster_cidrs: node.cluster_cidrs.clone(),
        service_cidrs: node.service_cidrs.clone(),
        mtu: None,
    })
    .await
    .context("pod network")?;
    private_directory(&node.run_dir)?;
    let runtime = Runtime::open(isopod_runtime::Config {
        root: node.data_dir.join(RUNTIME),
        state: node.run_dir.join(RUNTIME_STATE),
        network: network.clone(),
        shim_exe: std::env::current_exe().context("find this binary")?,
        shim_args: vec!["shim".into()],
        oci_runtime: None,
        insecure_registries: Vec::new(),
        streaming_url: String::new(),
    })
    .await
    .context("container runtime")?;
    release_the_dead(&network, &runtime).await?;
    if let Some(manifests) = &node.manifests {
        private_directory(manifests)?;
    }
    let config = kubelet_config(&node)?;
    let services = Arc::new(runtime);
    let told = network.clone();
    let on_pod_cidr: isopod_kubelet::PodCidrObserver = Arc::new(move |ranges: Vec<String>| {
        let (network, ranges) = (told.clone(), ranges);
        tokio::spawn(async move { take_range(&network, &ranges).await });
    });
    let (kubelet_client, stop) = (client.clone(), shutdown.clone());
    parts.spawn(async move {
        let (runtime, images, dial) = (services.clone(), services.clone(), services);
        isopod_kubelet::run(config, kubelet_client, runtime, images, dial, on_pod_cidr, stop)
            .await
            .context("kubelet")
    });
    Ok(network)
}

/// Addresses of sandboxes that did not outlive the last server are free again.
async fn release_the_dead(network: &Network, runtime: &Runtime) -> Result<()> {
    let request = isopod_cri::v1::ListPodSandboxRequest::default();
    let sandboxes = runtime.list_pod_sandbox(request).await.context("list sandboxes")?.items;
    let live = sandboxes.into_iter().map(|s| s.id).collect();
    network.reconcile(&live).await.context("pod network")
}

/// Keeps routes to the pods of other nodes on the same network.
pub(crate) fn run_routes(
    client: kube::Client,
    node: &str,
    parts: &mut JoinSet<Result<()>>,
    shutdown: &CancellationToken,
) {
    let (node, stop) = (node.to_owned(), shutdown.clone());
    parts.spawn(async move { isopod_network::routes::run(client, node, stop).await.context("routes") });
}

/// Starts the node beside the control plane.
pub(crate) async fn start(
    config: &Config,
    plane: &mut ControlPlane,
    shutdown: &CancellationToken,
) -> Result<()> {
    let node = Node {
        name: config.node_name.clone(),
        addresses: vec![config.node_ip],
        data_dir: config.data_dir.clone(),
        run_dir: config.run_dir.clone(),
        cluster_cidrs: vec![config.cluster_cidr],
        service_cidrs: vec![config.service_cidr],
        tls: isopod_kubelet::Tls {
            serving: plane.kubelet_serving.clone(),
            client_ca_pem: plane.pki.client_ca.certificate_pem().to_owned(),
        },
        bind_address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        port: config.kubelet_port,
        manifests: Some(config.manifests.clone()),
        cluster_dns: vec![config.dns_service_ip()],
        cluster_domain: config.cluster_domain.clone(),
        labels: BTreeMap::new(),
        taints: Vec::new(),
        max_pods: 110,
    };
    let client = plane.kubelet_client(&config.node_name);
    let network = start_node(node, client, &mut plane.parts, shutdown).await?;
    label_control_plane(plane.admin_client(), &config.node_name, &mut plane.parts, shutdown);
    run_routes(plane.client("system:kube-proxy"), &config.node_name, &mut plane.parts, shutdown);
    run_proxy(config, plane.informers.clone(), &mut plane.parts, shutdown);
    // DNS writes its own Service, by rights of its own.
    let dns = Informers::new(plane.client("system:kube-dns"), shutdown.clone());
    run_dns(config, network, dns, &mut plane.parts, shutdown);
    Ok(())
}

/// Gives the node its role. A kubelet may not do that by itself (NodeRestriction).
fn label_control_plane(
    client: kube::Client,
    node: &str,
    parts: &mut JoinSet<Result<()>>,
    shutdown: &CancellationToken,
) {
    let (node, stop) = (node.to_owned(), shutdown.clone());
    let label = serde_json::json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}});
    parts.spawn(async move {
        let api: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(client);
        let there = |n: Option<&k8s_openapi::api::core::v1::Node>| n.is_some();
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            seen = kube::runtime::wait::await_condition(api.clone(), &node, there) => {
                seen.context("wait for the node")?;
            }
        }
        let params = kube::api::PatchParams::default();
        api.patch(&node, &params, &kube::api::Patch::Merge(label)).await.context("label the node")?;
        stop.cancelled().await;
        Ok(())
    });
}

fn run_proxy(
    config: &Config,
    informers: Informers,
    parts: &mut JoinSet<Result<()>>,
    shutdown: &CancellationToken,
) {
    let proxy = isopod_proxy::Config {
        cluster_cidrs: vec![config.cluster_cidr],
        service_cidrs: vec![config.service_cidr],
        ..isopod_proxy::Config::new(&config.node_name)
    };
    let stop = shutdown.clone();
    parts.spawn(async move { isopod_proxy::run_shared(proxy, &informers, stop).await.context("kube-proxy") });
}

/// DNS listens on the pod network's gateway, which exists once the node has its range.
fn run_dns(
    config: &Config,
    network: Arc<Network>,
    informers: Informers,
    parts: &mut JoinSet<Result<()>>,
    shutdown: &CancellationToken,
) {
    let (config, stop) = (config.clone(), shutdown.clone());
    parts.spawn(async move {
        let gateways = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            gateways = network.wait_ready() => gateways,
        };
        let dns = isopod_dns::Config {
            domain: config.cluster_domain.clone(),
            service_ip: Some(config.dns_service_ip()),
            cluster_cidrs: vec![config.cluster_cidr, config.service_cidr],
            resolv_conf: resolv_conf(),
            // The metrics are those of the whole process, which pods have no business with.
            metrics_port: None,
            ..isopod_dns::Config::new(&config.node_name, gateways)
        };
        isopod_dns::run_shared(dns, &informers, stop).await.context("cluster DNS")
    });
}

/// Removes the control groups of this node's pods, and those of the quality classes when no pod is left in them.
fn remove_pod_groups(data_dir: &Path) -> Result<()> {
    let cgroups = isopod_runtime::cgroup::Cgroups::detect().context("control groups")?;
    for entry in std::fs::read_dir(data_dir.join("kubelet/pods")).into_iter().flatten().flatten() {
        let uid = entry.file_name().to_string_lossy().into_owned();
        for class in ["", "/burstable", "/besteffort"] {
            cgroups.remove(&format!("/kubepods{class}/pod{uid}")).context("remove a pod's control group")?;
        }
    }
    if cgroups.pids("/kubepods").is_empty() {
        cgroups.remove("/kubepods").context("remove the pods' control group")?;
    }
    Ok(())
}

/// Ends all containers and takes back what the node made of links, rules and mounts; with `purge` images and leases
/// too. No server may be running.
pub(crate) async fn stop_everything(data_dir: &Path, run_dir: &Path, purge: bool) -> Result<()> {
    let (root, state) = (data_dir.join(RUNTIME), run_dir.join(RUNTIME_STATE));
    if purge {
        isopod_runtime::purge(&root, &state).context("remove containers and images")?;
    } else {
        isopod_runtime::stop_all(&root, &state).context("stop containers")?;
    }
    remove_pod_groups(data_dir)?;
    for directory in [data_dir, run_dir] {
        crate::lifecycle::unmount_below(directory)?;
    }
    isopod_proxy::purge().await.context("remove kube-proxy's rules")?;
    isopod_network::purge(&data_dir.join(NETWORK)).await.context("remove the pod network")?;
    println!("containers, links and rules removed");
    Ok(())
}
