//! What the kubelet remembers of one pod between two plans: back-off, failures, steps under way, probe results.
//!
//! None of it is needed to be right after a restart of the kubelet: a fresh memory only costs a fresh back-off.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::backoff::BackOff;

/// A step that is under way, by what it works on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Volumes, directories and cgroup are being set up.
    Prepare,
    /// A sandbox is being created.
    CreateSandbox,
    /// The sandbox of that id is being stopped.
    StopSandbox(String),
    /// The sandbox of that id is being removed.
    RemoveSandbox(String),
    /// The image of the container of that name is being looked up or pulled.
    Pull(String),
    /// The container of that name is being created and started (and its postStart hook runs).
    Launch(String),
    /// The container of that id is being stopped.
    Stop(String),
    /// The container of that id is being removed.
    Remove(String),
    /// Volumes and cgroup are being torn down.
    Release,
}

/// Details of a step under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnderWay {
    /// Grace of a stop, in seconds, so that a shorter one can overtake it.
    pub grace_seconds: i64,
}

/// What is known of a container's image, for the next start of that container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Image {
    /// Not looked up since the last start.
    #[default]
    Unknown,
    /// On the node, under that reference.
    Present(String),
    /// Could not be had; try again at `retry_at` (never before).
    Failed {
        /// Container waiting reason, such as `ErrImagePull`.
        reason: String,
        /// What the registry or the runtime said.
        message: String,
        /// When to try again.
        retry_at: Timestamp,
        /// When it failed.
        at: Timestamp,
    },
}

/// Why a container could not be started, and when to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchError {
    /// Container waiting reason, such as `CreateContainerConfigError`.
    pub reason: String,
    /// The detail.
    pub message: String,
    /// When to try again.
    pub retry_at: Timestamp,
}

/// What is remembered of one container, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerMemory {
    /// Delay between restarts.
    pub crash: BackOff,
    /// Delay between pulls.
    pub pull: BackOff,
    /// Image of the next start.
    pub image: Image,
    /// The image name that `image` and `pull` speak of; another one makes them void.
    pub image_name: String,
    /// Last failure to start.
    pub error: Option<LaunchError>,
    /// Id of the instance that the kubelet killed in order to replace it, whatever code it ended with.
    pub replace: Option<String>,
    /// End of the back-off that the user was last told of, so that each is told once.
    pub told_until: Option<Timestamp>,
}

/// Probe results of one container instance; `None` before the first result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    /// Startup probe.
    pub startup: Option<bool>,
    /// Liveness probe.
    pub liveness: Option<bool>,
    /// Readiness probe.
    pub readiness: Option<bool>,
}

/// Why the pod must end though nobody deleted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Status reason, such as `Evicted` or `DeadlineExceeded`.
    pub reason: String,
    /// Status message.
    pub message: String,
    /// Grace for its containers, in seconds; the pod's own where none.
    pub grace_seconds: Option<i64>,
    /// Refused before anything was started, so that no container status is invented.
    pub rejected: bool,
}

/// What the kubelet remembers of one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// By container name.
    pub containers: BTreeMap<String, ContainerMemory>,
    /// By container id.
    pub probes: BTreeMap<String, Probed>,
    /// Steps under way.
    pub in_flight: BTreeMap<Op, UnderWay>,
    /// Volumes are mounted and the pod's cgroup exists.
    pub prepared: bool,
    /// When preparing may be tried again after a failure.
    pub prepare_retry_at: Option<Timestamp>,
    /// When a sandbox may be tried again after a failure.
    pub sandbox_retry_at: Option<Timestamp>,
    /// Volumes are unmounted and the cgroup is gone.
    pub released: bool,
    /// Why the pod must end, unless by deletion.
    pub ending: Option<Ending>,
    /// When the end of the pod began.
    pub ending_since: Option<Timestamp>,
    /// When the kubelet first saw the pod: status.startTime.
    pub start_time: Option<Timestamp>,
    /// The API has forgotten the pod: containers and sandboxes may go too.
    pub purge: bool,
    /// A static pod that was taken out of its source, or a pod removed by force: end it as if deleted.
    pub removed: bool,
}

impl Memory {
    /// The memory of a container, made on first use.
    pub fn container(&mut self, name: &str) -> &mut ContainerMemory {
        self.containers.entry(name.to_owned()).or_default()
    }

    /// Whether that step is under way.
    #[must_use]
    pub fn busy(&self, op: &Op) -> bool {
        self.in_flight.contains_key(op)
    }

    /// Notes a step as under way.
    pub fn begin(&mut self, op: Op, grace_seconds: i64) {
        self.in_flight.insert(op, UnderWay { grace_seconds });
    }

    /// Notes the end of a step.
    pub fn end(&mut self, op: &Op) {
        self.in_flight.remove(op);
    }

    /// Probe results of a container instance.
    #[must_use]
    pub fn probed(&self, id: &str) -> Probed {
        self.probes.get(id).copied().unwrap_or_default()
    }
}
