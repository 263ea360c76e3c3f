//! Putting the kubelet together.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;

use isopod_client::{Change, EventRecorder, Informers, Scope};
use isopod_cri::{ImageService, RuntimeService, StreamingDial, v1};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use parking_lot::RwLock;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cgroups::Cgroups;
use crate::config::Config;
use crate::images::Puller;
use crate::kubelet::Kubelet;
use crate::objects::{Objects, OnChange};
use crate::pods::{Pods, orphans, source, static_pods};
use crate::tokens::Tokens;
use crate::{Error, eviction, image_gc, logs, metrics, node, runtime_events, server};

/// Told of the node's pod address ranges, as soon as they are known and when they change.
pub type PodCidrObserver = Arc<dyn Fn(Vec<String>) + Send + Sync>;

/// How long to wait for the runtime to answer at start before it is tried again.
const RUNTIME_RETRY: Duration = Duration::from_millis(200);
/// How often the count of running pods is taken.
const COUNT: Duration = Duration::from_secs(30);

/// Runs the kubelet until `shutdown`. Containers go on running after that.
///
/// # Errors
/// What keeps it from starting; later failures are retried.
pub async fn run(
    mut config: Config,
    client: kube::Client,
    runtime: Arc<dyn RuntimeService>,
    images: Arc<dyn ImageService>,
    streaming: Arc<dyn StreamingDial>,
    on_pod_cidr: PodCidrObserver,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    config.validate()?;
    let address = SocketAddr::new(config.bind_address, config.port);
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    config.port = listener.local_addr().map_or(config.port, |a| a.port());
    make_directories(&config)?;
    let cgroups = Cgroups::detect(&config.cgroup_root, config.pod_pids_limit);
    cgroups.set_up().map_err(Error::Cgroups)?;
    let stop = shutdown.child_token();
    let Some(runtime_version) = runtime_version(&*runtime, &stop).await else { return Ok(()) };
    let informers = Informers::new(client.clone(), stop.clone());
    let kubelet = Arc::new_cyclic(|weak: &std::sync::Weak<Kubelet>| {
        let on_change = on_change(weak.clone());
        Kubelet {
            recorder: EventRecorder::new(client.clone(), "kubelet", &config.node_name),
            pods: Pods::new(),
            config_maps: Objects::new(client.clone(), on_change.clone()),
            secrets: Objects::new(client.clone(), on_change),
            services: informers.get::<Service>(),
            tokens: Tokens::new(client.clone()),
            puller: Puller::new(config.parallel_image_pulls),
            cgroups,
            node: RwLock::default(),
            network_ready: watch::channel(false).0,
            pressure: RwLock::default(),
            runtime_version,
            shutdown: stop,
            streaming,
            images,
            runtime,
            client,
            config,
        }
    });
    tracing::info!(
        node = kubelet.config.node_name,
        port = kubelet.config.port,
        runtime = kubelet.runtime_version.0,
        cgroup_v2 = kubelet.cgroups.is_v2(),
        "kubelet starts"
    );
    // Static pods are admitted before the API server has the node.
    let first = node::register::initial(&kubelet).await;
    *kubelet.node.write() = Arc::new(first);
    let mut tasks = JoinSet::new();
    let server = tokio::spawn(server::run(kubelet.clone(), listener));
    background(&kubelet, &informers, on_pod_cidr, &mut tasks);
    shutdown.cancelled().await;
    tasks.shutdown().await;
    match server.await {
        Ok(result) => result,
        Err(_) => Ok(()),
    }
}

/// A changed object wakes the pods that refer to it.
fn on_change(kubelet: std::sync::Weak<Kubelet>) -> OnChange {
    Arc::new(move |uid| {
        if let Some(p) = kubelet.upgrade().and_then(|k| k.pods.get(uid)) {
            p.change(|d| d.refresh = true);
        }
    })
}

fn make_directories(config: &Config) -> Result<(), Error> {
    for (path, mode) in [(&config.data_dir, 0o700), (&config.pod_log_dir, 0o755), (&config.run_dir, 0o755)] {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(path)
            .map_err(|source| Error::Directory { path: path.clone(), source })?;
    }
    Ok(())
}

/// Name and version of the runtime, once it answers; `None` on shutdown.
async fn runtime_version(
    runtime: &dyn RuntimeService,
    shutdown: &CancellationToken,
) -> Option<(String, String)> {
    loop {
        match runtime.version(v1::VersionRequest { version: "0.1.0".into() }).await {
            Ok(v) => return Some((v.runtime_name, v.runtime_version)),
            Err(error) => tracing::warn!(%error, "container runtime does not answer yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(RUNTIME_RETRY) => {}
            () = shutdown.cancelled() => return None,
        }
    }
}

fn background(
    kubelet: &Arc<Kubelet>,
    informers: &Informers,
    on_pod_cidr: PodCidrObserver,
    tasks: &mut JoinSet<()>,
) {
    let node_changed = Arc::new(Notify::new());
    follow_node(kubelet, informers, on_pod_cidr, node_changed.clone(), tasks);
    tasks.spawn(runtime_events::follow(kubelet.clone()));
    tasks.spawn(node::lease::run(kubelet.clone()));
    let (k, changed) = (kubelet.clone(), node_changed.clone());
    let pods = informers.scoped::<Pod>(Scope::fields(&format!("spec.nodeName={}", kubelet.config.node_name)));
    tasks.spawn(async move {
        // Registered first: admission and mirrors need the node.
        node::register::register(&k).await;
        k.node_event(false, "Starting", "Starting kubelet.".to_owned());
        source::follow(&k, &pods);
        let status = node::report::run(k.clone(), changed);
        let clean = async {
            pods.wait_synced().await;
            orphans::clean(&k).await;
        };
        tokio::join!(status, clean);
    });
    if let Some(dir) = kubelet.config.static_pod_dir.clone() {
        tasks.spawn(static_pods::follow(kubelet.clone(), dir));
    }
    tasks.spawn(eviction::run(kubelet.clone(), node_changed));
    tasks.spawn(image_gc::run(kubelet.clone()));
    tasks.spawn(logs::rotate::run(kubelet.clone()));
    let k = kubelet.clone();
    tasks.spawn(async move {
        loop {
            let running = k.pods.list().iter().filter(|p| crate::pods::runs(p)).count();
            metrics::RUNNING_PODS.set(i64::try_from(running).unwrap_or(i64::MAX));
            tokio::time::sleep(COUNT).await;
        }
    });
}

/// Keeps the node at hand, and tells the network and the runtime of its address ranges.
fn follow_node(
    kubelet: &Arc<Kubelet>,
    informers: &Informers,
    on_pod_cidr: PodCidrObserver,
    node_changed: Arc<Notify>,
    tasks: &mut JoinSet<()>,
) {
    let name = &kubelet.config.node_name;
    let nodes = informers.scoped::<Node>(Scope::fields(&format!("metadata.name={name}")));
    let (tell, mut told) = watch::channel(Vec::<String>::new());
    let k = kubelet.clone();
    nodes.on_change(move |change| {
        let (Change::Added(node) | Change::Updated { new: node, .. }) = change else { return };
        *k.node.write() = node.clone();
        let spec = node.spec.as_ref();
        let mut ranges = spec.and_then(|s| s.pod_cidrs.clone()).unwrap_or_default();
        if ranges.is_empty() {
            ranges.extend(spec.and_then(|s| s.pod_cidr.clone()).filter(|c| !c.is_empty()));
        }
        tell.send_if_modified(|old| {
            let changed = !ranges.is_empty() && *old != ranges;
            if changed {
                old.clone_from(&ranges);
            }
            changed
        });
    });
    let k = kubelet.clone();
    tasks.spawn(async move {
        // The informer lives as long as this task.
        let _nodes = nodes;
        while told.changed().await.is_ok() {
            let ranges = told.borrow_and_update().clone();
            on_pod_cidr(ranges.clone());
            let network_config = Some(v1::NetworkConfig { pod_cidr: ranges.join(",") });
            let runtime_config = Some(v1::RuntimeConfig { network_config });
            let request = v1::UpdateRuntimeConfigRequest { runtime_config };
            if let Err(error) = k.runtime.update_runtime_config(request).await {
                tracing::warn!(%error, "tell the runtime the pod address range");
            }
            node_changed.notify_one();
        }
    });
}
