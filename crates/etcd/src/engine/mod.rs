//! The engine: a member's store, in this process.

mod auth;
mod caller;
mod compactor;
mod core;
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
mod watch;
mod write;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

pub(crate) use self::core::Core;
pub(crate) use caller::{as_caller, current as current_caller};
pub(crate) use hub::{Signal, Step, Watcher};
pub(crate) use maintain::VERSION;
pub(crate) use shared::Shared;
pub(crate) use watch::compacted;

use crate::config::Config;
use crate::error::OpenError;
use crate::storage::{DiskStorage, Storage};

/// A store on a data directory. It implements [`isopod_kv::Store`]; nothing is encoded or copied between it and a
/// caller in the same process.
///
/// Dropping it stops it; [`Engine::stop`] does so without blocking.
pub struct Engine {
    shared: Arc<Shared>,
    driver: Mutex<Option<JoinHandle<()>>>,
}

/// Opens the store in `config.data_dir`, making it if there is none.
///
/// # Errors
/// The directory is in use, unreadable, damaged, or of a newer version. Nothing in it is changed then.
pub fn open(config: Config) -> Result<Arc<Engine>, OpenError> {
    config.validate()?;
    let dir = config.data_dir.display().to_string();
    let storage = DiskStorage::open(&config.data_dir).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked { dir },
        _ => OpenError::io("open data directory", dir)(error),
    })?;
    open_in(Arc::new(storage), config)
}

/// As [`open`], in any storage; the data directory of the configuration is not looked at.
///
/// # Errors
/// As [`open`].
pub fn open_in(storage: Arc<dyn Storage>, config: Config) -> Result<Arc<Engine>, OpenError> {
    let core = Core::open(storage, &config, (new_id(), new_id()))?;
    let shared = core.shared.clone();
    let path = core.storage.path("");
    let driver = driver::Driver::new(core);
    let thread = std::thread::Builder::new()
        .name("etcd-log".to_owned())
        .spawn(move || driver.run())
        .map_err(OpenError::io("start a thread for", path))?;
    Ok(Arc::new(Engine { shared, driver: Mutex::new(Some(thread)) }))
}

/// A random ID; 0 stands for none everywhere.
fn new_id() -> u64 {
    rand::random::<u64>().max(1)
}

impl Engine {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
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

    /// Whether writes are being taken: neither has the log failed nor is the disk full.
    pub fn is_healthy(&self) -> bool {
        !self.shared.is_log_failed() && !self.shared.is_disk_full() && !self.shared.stopped.is_cancelled()
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
