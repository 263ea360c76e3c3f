//! The runtime's state, shared by all calls.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use isopod_cri::PodNetwork;
use isopod_cri::v1::{ContainerConfig, ContainerEventResponse, PodSandboxConfig};
use isopod_streaming::StreamingServer;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::cgroup::Cgroups;
use crate::client::ShimClient;
use crate::error::{Context, Error};
use crate::images::ImageStore;
use crate::record::{ContainerRecord, SandboxRecord, bundles, make_bundles, save};
use crate::spec::Node;
use crate::streams::Processes;
use crate::usage::CpuSample;

/// Events that a subscriber may be behind. One that is further behind lists anew, as it does when it starts.
const EVENTS_MAX: usize = 4096;

/// How the runtime is set up.
#[derive(Clone)]
pub struct Config {
    /// Images, root file systems and records; on a file system that overlayfs takes as upper layer.
    pub root: PathBuf,
    /// Sockets, namespaces and mounts that end with the machine, such as `/run/isopod`.
    pub state: PathBuf,
    /// Gives pods their addresses.
    pub network: Arc<dyn PodNetwork>,
    /// The program to execute as a shim.
    pub shim_exe: PathBuf,
    /// Arguments that make it a shim, before the shim's directory.
    pub shim_args: Vec<String>,
    /// Another OCI runtime to create containers with (a path).
    pub oci_runtime: Option<String>,
    /// Registries (`host:port`) to speak plain HTTP to. Those on this machine need no mention.
    pub insecure_registries: Vec<String>,
    /// What URLs of the streaming server begin with. Only clients outside of this process look at it: see
    /// [`Runtime::serve_streaming`].
    pub streaming_url: String,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("root", &self.root)
            .field("state", &self.state)
            .field("shim_exe", &self.shim_exe)
            .field("oci_runtime", &self.oci_runtime)
            .finish_non_exhaustive()
    }
}

/// The built-in runtime. Clones share everything.
#[derive(Clone)]
pub struct Runtime {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) images: ImageStore,
    pub(crate) cgroups: Cgroups,
    pub(crate) node: Node,
    pub(crate) sandboxes: RwLock<HashMap<String, Arc<Sandbox>>>,
    pub(crate) containers: RwLock<HashMap<String, Arc<Container>>>,
    pub(crate) events: broadcast::Sender<ContainerEventResponse>,
    streaming: std::sync::OnceLock<StreamingServer>,
    /// Ends the tasks that follow shims.
    pub(crate) closing: CancellationToken,
}

/// A sandbox.
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) config: PodSandboxConfig,
    /// Records and files of the sandbox.
    pub(crate) dir: PathBuf,
    /// The shim's directory.
    pub(crate) run_dir: PathBuf,
    pub(crate) record: Mutex<SandboxRecord>,
    pub(crate) shim: ShimClient,
    /// Held by whatever changes the sandbox as a whole.
    pub(crate) changing: tokio::sync::Mutex<()>,
    pub(crate) cpu: Mutex<Option<CpuSample>>,
}

/// A container.
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) config: RwLock<ContainerConfig>,
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) dir: PathBuf,
    /// What the OCI runtime and the shim read, in memory.
    pub(crate) bundle: PathBuf,
    pub(crate) record: Mutex<ContainerRecord>,
    /// Becomes true when the container has ended.
    pub(crate) ended: watch::Sender<bool>,
    /// Held by whatever changes the container as a whole.
    pub(crate) changing: tokio::sync::Mutex<()>,
    pub(crate) cpu: Mutex<Option<CpuSample>>,
    pub(crate) disk: Mutex<Option<crate::usage::DiskSample>>,
}

impl Runtime {
    /// Opens the runtime and takes back what runs. Must be called on a tokio runtime.
    pub async fn open(config: Config) -> Result<Self, Error> {
        for dir in ["sandboxes", "containers"] {
            let dir = config.root.join(dir);
            std::fs::create_dir_all(&dir).what(|| format!("create {}", dir.display()))?;
        }
        for dir in ["s", "netns"] {
            let dir = config.state.join(dir);
            std::fs::create_dir_all(&dir).what(|| format!("create {}", dir.display()))?;
        }
        for dir in [&config.root, &config.state] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            std::fs::set_permissions(dir, mode).what(|| format!("restrict {}", dir.display()))?;
        }
        make_bundles(&config.state)?;
        let cgroups = Cgroups::detect()?;
        let node = Node::detect(&cgroups)?;
        let images = ImageStore::open(&config.root)?;
        let inner = Arc::new(Inner {
            config,
            images,
            cgroups,
            node,
            sandboxes: RwLock::default(),
            containers: RwLock::default(),
            events: broadcast::channel(EVENTS_MAX).0,
            streaming: std::sync::OnceLock::new(),
            closing: CancellationToken::new(),
        });
        let backend = Arc::new(Processes(Arc::downgrade(&inner)));
        let _ = inner.streaming.set(StreamingServer::new(backend, &inner.config.streaming_url));
        inner.recover().await?;
        Ok(Self { inner })
    }

    /// Lets go of everything: containers run on, and nothing is written any more of what happens to them.
    /// Another runtime may then be opened on the same directories. Calls on this one are at the caller's risk.
    pub fn close(&self) {
        self.inner.closing.cancel();
    }

    /// Serves exec, attach and port-forward to kubelets outside of this process: on `listener`, which must be
    /// on loopback and be what `streaming_url` says, until `shutdown` completes.
    pub async fn serve_streaming(
        &self,
        listener: tokio::net::TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        self.inner.streaming()?.serve(listener, shutdown).await;
        Ok(())
    }

    /// Serves CRI on a unix socket, for `crictl` and for kubelets outside of this process.
    pub async fn serve_socket(
        &self,
        path: &std::path::Path,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), isopod_cri::Error> {
        let runtime = Arc::new(self.clone());
        isopod_cri::grpc::serve(path, runtime.clone(), runtime, shutdown).await
    }

    /// The image store.
    pub fn images(&self) -> &ImageStore {
        &self.inner.images
    }
}

impl Inner {
    pub(crate) fn streaming(&self) -> Result<&StreamingServer, Error> {
        self.streaming.get().ok_or_else(|| Error::Precondition("the runtime is starting".to_owned()))
    }

    /// The sandbox of this id or unambiguous prefix of an id.
    pub(crate) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, Error> {
        find(&self.sandboxes.read(), id).ok_or_else(|| Error::NotFound(format!("sandbox {id:?} not found")))
    }

    /// The container of this id or unambiguous prefix of an id.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, Error> {
        find(&self.containers.read(), id)
            .ok_or_else(|| Error::NotFound(format!("container {id:?} not found")))
    }

    /// Containers of a sandbox.
    pub(crate) fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        self.containers.read().values().filter(|container| container.sandbox.id == sandbox).cloned().collect()
    }

    pub(crate) fn bundle_path(&self, id: &str) -> PathBuf {
        bundles(&self.config.state).join(id)
    }

    pub(crate) fn netns_path(&self, id: &str) -> PathBuf {
        self.config.state.join("netns").join(id)
    }
}

fn find<T>(map: &HashMap<String, Arc<T>>, id: &str) -> Option<Arc<T>> {
    if let Some(exact) = map.get(id) {
        return Some(exact.clone());
    }
    if id.len() < 8 {
        return None;
    }
    let mut matches = map.iter().filter(|(known, _)| known.starts_with(id));
    match (matches.next(), matches.next()) {
        (Some((_, only)), None) => Some(only.clone()),
        _ => None,
    }
}

impl Sandbox {
    pub(crate) fn is_ready(&self) -> bool {
        self.record.lock().ready
    }

    /// Changes the record, and keeps it.
    pub(crate) fn update(&self, change: impl FnOnce(&mut SandboxRecord)) -> Result<(), Error> {
        let mut record = self.record.lock();
        change(&mut record);
        save(&self.dir, &*record)
    }
}

impl Container {
    pub(crate) fn is_running(&self) -> bool {
        let record = self.record.lock();
        record.started_at > 0 && record.finished_at == 0
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.record.lock().finished_at > 0
    }

    /// Changes the record, and keeps it. A record that cannot be written is worth no container's life: the
    /// shim still knows.
    pub(crate) fn update(&self, change: impl FnOnce(&mut ContainerRecord)) {
        let mut record = self.record.lock();
        change(&mut record);
        if let Err(e) = save(&self.dir, &*record) {
            tracing::warn!(container = self.id, "keep the record: {e}");
        }
    }
}

/// A new id, as other runtimes make them.
pub(crate) fn new_id() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}

/// The time as CRI says it.
pub(crate) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
