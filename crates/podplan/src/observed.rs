//! What the container runtime reports of one pod, in the planner's words.
//!
//! Invariant: `sandboxes` and `containers` hold this pod's only; helpers pick by attempt, never by position,
//! since a runtime may list in any order.

use jiff::Timestamp;

/// A pod sandbox as the runtime reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's identifier.
    pub id: String,
    /// How many sandboxes of this pod came before.
    pub attempt: u32,
    /// The runtime says SANDBOX_READY.
    pub ready: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// Addresses of the pod, the primary first; empty for host-network pods.
    pub ips: Vec<String>,
}

/// State of a container in CRI's terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContainerState {
    /// Created and not started.
    Created,
    /// Its process runs.
    Running,
    /// Its process ended.
    Exited,
    /// The runtime cannot say.
    #[default]
    Unknown,
}

/// A container as the runtime reports it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Container {
    /// The runtime's identifier, without scheme.
    pub id: String,
    /// Name in the pod spec.
    pub name: String,
    /// The sandbox that it lives in.
    pub sandbox_id: String,
    /// How many containers of this name came before; the restart count.
    pub attempt: u32,
    /// Its state.
    pub state: ContainerState,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was started, if it was.
    pub started_at: Option<Timestamp>,
    /// When it ended, if it did.
    pub finished_at: Option<Timestamp>,
    /// Exit code once ended.
    pub exit_code: i32,
    /// The runtime's word for the end (`Completed`, `Error`, `OOMKilled`).
    pub reason: String,
    /// The runtime's or the container's termination message.
    pub message: String,
    /// Image as the user named it.
    pub image: String,
    /// Image as resolved: a digest reference or an image id.
    pub image_id: String,
    /// [`crate::hash::container`] of the spec that it was made from; zero when not recorded.
    pub hash: u64,
    /// Numeric identity of its first process, when the runtime tells it: uid, gid, supplemental groups.
    pub user: Option<(i64, i64, Vec<i64>)>,
    /// Signal name that stops it, when the runtime tells it.
    pub stop_signal: Option<String>,
}

impl Container {
    /// Ended, so that it will never run again.
    #[must_use]
    pub fn exited(&self) -> bool {
        self.state == ContainerState::Exited
    }

    /// Its process runs.
    #[must_use]
    pub fn running(&self) -> bool {
        self.state == ContainerState::Running
    }

    /// Ended with code zero.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.exited() && self.exit_code == 0
    }
}

/// Everything that the runtime has of one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Sandboxes, in any order.
    pub sandboxes: Vec<Sandbox>,
    /// Containers of all those sandboxes, in any order.
    pub containers: Vec<Container>,
}

impl Observed {
    /// The newest sandbox, whatever its state.
    #[must_use]
    pub fn latest_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.iter().max_by_key(|s| (s.attempt, s.created_at))
    }

    /// The newest sandbox, if it is usable.
    #[must_use]
    pub fn active_sandbox(&self) -> Option<&Sandbox> {
        self.latest_sandbox().filter(|s| s.ready)
    }

    /// The newest container of that name.
    #[must_use]
    pub fn latest<'a>(&'a self, name: &str) -> Option<&'a Container> {
        self.named(name).max_by_key(|c| (c.attempt, c.created_at))
    }

    /// The newest container of that name inside that sandbox.
    #[must_use]
    pub fn latest_in<'a>(&'a self, sandbox: &str, name: &str) -> Option<&'a Container> {
        self.named(name).filter(|c| c.sandbox_id == sandbox).max_by_key(|c| (c.attempt, c.created_at))
    }

    /// The newest ended container of that name that is older than `than`.
    #[must_use]
    pub fn previous<'a>(&'a self, than: &Container) -> Option<&'a Container> {
        self.named(&than.name)
            .filter(|c| c.exited() && c.attempt < than.attempt)
            .max_by_key(|c| (c.attempt, c.created_at))
    }

    /// A container by the runtime's identifier.
    #[must_use]
    pub fn by_id(&self, id: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.id == id)
    }

    /// Containers whose process may still run: a container in an unknown state counts, since treating it as
    /// ended could let two of them run at once.
    pub fn alive(&self) -> impl Iterator<Item = &Container> {
        self.containers
            .iter()
            .filter(|c| matches!(c.state, ContainerState::Running | ContainerState::Unknown))
    }

    fn named<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a Container> + use<'a, 'n> {
        self.containers.iter().filter(move |c| c.name == name)
    }
}
