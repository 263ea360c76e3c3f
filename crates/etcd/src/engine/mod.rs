//! The engine: a member's store, in this process.

mod auth;
mod backup;
mod caller;
mod compactor;
#[cfg(test)]
mod crash_test;
mod driver;
mod hub;
mod lease;
mod maintain;
mod queue;
mod read;
mod shared;
mod store;
mod transport;
mod watch;
mod write;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use isopod_mvcc::Reply;
use parking_lot::Mutex;

pub(crate) use caller::{as_caller, current as current_caller};
pub(crate) use compactor::Compactor;
pub(crate) use hub::{Signal, Step, Watcher};
pub(crate) use maintain::VERSION;
pub(crate) use shared::Shared;
pub(crate) use transport::Transport;
pub(crate) use watch::compacted;

use crate::config::Config;
use crate::error::OpenError;
use crate::member::{Bootstrap, Member, SnapshotReceiver};
use crate::storage::{DiskStorage, Storage};

/// A store on a data directory. It implements [`isopod_kv::Store`]; nothing is encoded or copied between it and a
/// caller in the same process.
///
/// Dropping it stops it; [`Engine::stop`] does so without blocking.
pub struct Engine {
    shared: Arc<Shared>,
    storage: Arc<dyn Storage>,
    driver: Mutex<Option<JoinHandle<()>>>,
}

/// Opens the store in `config.data_dir`, making it, as the only member of its group, if there is none.
///
/// # Errors
/// The directory is in use, unreadable, damaged, or of a newer version. Nothing in it is changed then.
pub fn open(config: Config) -> Result<Arc<Engine>, OpenError> {
    open_member(config, alone())
}

/// As [`open`], as the member of a group that `bootstrap` describes if there is no store yet. Other members are
/// reached once [`crate::serve_peers`] runs.
///
/// # Errors
/// As [`open`].
pub fn open_member(config: Config, bootstrap: Bootstrap) -> Result<Arc<Engine>, OpenError> {
    config.validate()?;
    let dir = config.data_dir.display().to_string();
    let storage = DiskStorage::open(&config.data_dir).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked { dir },
        _ => OpenError::io("open data directory", dir)(error),
    })?;
    start(Arc::new(storage), config, bootstrap)
}

/// As [`open`], in any storage; the data directory of the configuration is not looked at.
///
/// # Errors
/// As [`open`].
pub fn open_in(storage: Arc<dyn Storage>, config: Config) -> Result<Arc<Engine>, OpenError> {
    start(storage, config, alone())
}

/// Whether a data directory holds a member already.
///
/// # Errors
/// The directory cannot be read.
pub fn is_member(data_dir: &std::path::Path) -> io::Result<bool> {
    match std::fs::read_dir(data_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(entries) => {
            for entry in entries {
                if entry?.file_name().to_string_lossy().starts_with("wal-") {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}

fn alone() -> Bootstrap {
    Bootstrap::Alone { cluster_id: new_id(), member_id: new_id() }
}

fn start(storage: Arc<dyn Storage>, config: Config, bootstrap: Bootstrap) -> Result<Arc<Engine>, OpenError> {
    let path = storage.path("");
    let mut member = Member::open(storage, config, bootstrap, rand::random(), Duration::ZERO)?;
    let (shared, storage) = (member.shared.clone(), member.storage.clone());
    // The only member of a group leads from the start; nobody is there yet to be told of anything.
    member.step(shared.now(), Vec::new(), &mut |_| {});
    let driver = driver::Driver::new(member);
    let thread = std::thread::Builder::new()
        .name("etcd-log".to_owned())
        .spawn(move || driver.run())
        .map_err(OpenError::io("start a thread for", path))?;
    Ok(Arc::new(Engine { shared, storage, driver: Mutex::new(Some(thread)) }))
}

/// A random ID; 0 stands for none everywhere.
pub(crate) fn new_id() -> u64 {
    rand::random::<u64>().max(1)
}

/// The reply to a command that can only be of one kind.
pub(crate) fn expect_reply<T>(reply: Reply, take: impl FnOnce(Reply) -> Option<T>) -> T {
    take(reply).expect("a command is answered with the reply of its kind")
}

impl Engine {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Takes in a snapshot that a peer sends.
    pub(crate) fn snapshot_receiver(&self) -> SnapshotReceiver {
        SnapshotReceiver::new(self.storage.clone(), self.shared.clone())
    }

    /// Gives the member a way to its peers; later ones than the first are not used.
    pub(crate) fn set_transport(&self, transport: impl Transport + 'static) {
        let _ = self.shared.transport.set(Box::new(transport));
    }

    /// Settings in force.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// ID of the cluster, chosen when the data directory was made.
    pub fn cluster_id(&self) -> u64 {
        self.shared.cluster_id
    }

    /// ID of this member.
    pub fn member_id(&self) -> u64 {
        self.shared.member_id
    }

    /// The current revision.
    pub fn revision(&self) -> i64 {
        self.shared.state.read().revision()
    }

    /// The leader's ID; 0 if there is none.
    pub fn leader(&self) -> u64 {
        self.shared.leader()
    }

    /// Waits until there has been no leader for three election timeouts, as etcd does before it tells watchers.
    pub(crate) async fn leader_lost(&self) {
        loop {
            // Made before the look, so that nothing said in between is missed.
            let changed = self.shared.leader_changed.notified();
            if self.shared.leader() != 0 {
                changed.await;
                continue;
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(3 * self.shared.config.election_timeout) => {
                    if self.shared.leader() == 0 {
                        return;
                    }
                }
            }
        }
    }

    /// Ends when this member has been removed from its group.
    pub fn removed(&self) -> &tokio_util::sync::CancellationToken {
        &self.shared.removed
    }

    /// Whether writes are being taken: there is a leader, and neither has the log failed nor is the disk full.
    pub fn is_healthy(&self) -> bool {
        self.shared.leader() != 0
            && !self.shared.is_log_failed()
            && !self.shared.is_disk_full()
            && !self.shared.stopped.is_cancelled()
    }

    /// Finishes what was accepted, ends all watches and closes the files. Further requests fail.
    pub async fn stop(&self) {
        self.begin_stop();
        let thread = self.driver.lock().take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            log_panic(matches!(joined, Ok(Ok(()))));
        }
    }

    fn begin_stop(&self) {
        self.shared.queue.stop();
        self.shared.stopped.cancel();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.begin_stop();
        if let Some(thread) = self.driver.lock().take() {
            log_panic(thread.join().is_ok());
        }
    }
}

fn log_panic(ended_well: bool) {
    if !ended_well {
        tracing::error!("the log's thread panicked");
    }
}
