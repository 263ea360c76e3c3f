//! The write path without threads: log, then state, then watchers.
//!
//! Nothing reaches the state before it is durable, so whatever a reader or a watcher sees survives a crash. That
//! also means that a command is only applied in the order of the log, which is what makes the state the same
//! wherever the log is applied.

use std::io;
use std::sync::Arc;

use isopod_mvcc::{Applied, Command, Op, Reply};
use prost::Message;

use super::shared::Shared;
use crate::checkpoint::{self, Written};
use crate::config::Config;
use crate::error::OpenError;
use crate::storage::Storage;
use crate::wal::{AppendError, Meta, Wal, WalOptions, read_all};

/// Entries applied under one hold of the state's lock: how long a batch keeps readers out.
const APPLY_STEP: usize = 64;
/// The term of a group of one, which holds no elections.
const FIRST_TERM: u64 = 1;

/// The writer's side of the store. There is one, and it belongs to one thread.
pub(crate) struct Core {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) shared: Arc<Shared>,
    wal: Wal,
    term: u64,
    last_checkpoint: Written,
}

impl Core {
    /// Opens the store in a storage, or makes an empty one there.
    pub(crate) fn open(
        storage: Arc<dyn Storage>,
        config: &Config,
        new_id: (u64, u64),
    ) -> Result<Core, OpenError> {
        let options = WalOptions { segment_bytes: config.segment_bytes, fsync: config.fsync };
        let loaded = checkpoint::load(&storage)?;
        let checkpointed = loaded.as_ref().map_or(0, |loaded| loaded.state.applied_index());
        let bytes = loaded.as_ref().map_or(0, |loaded| loaded.bytes);
        let identity = loaded.as_ref().map(|loaded| (loaded.cluster_id, loaded.member_id));
        let mut state = loaded.map(|loaded| loaded.state).unwrap_or_default();
        let scan = read_all(&storage, &mut |entry| {
            if entry.index <= state.applied_index() {
                return if entry.index <= checkpointed {
                    Ok(())
                } else {
                    Err("an entry is repeated".to_owned())
                };
            }
            if entry.index != state.applied_index() + 1 {
                return Err(format!("entries between the checkpoint and {} are missing", entry.index));
            }
            let command = decode(entry.data)?;
            state.apply(entry.index, entry.term, command);
            while state.scrub(usize::MAX) {}
            Ok(())
        })?;
        let path = storage.path("");
        let wal = match scan {
            Some(scan) => {
                let found = (scan.meta.cluster_id, scan.meta.member_id);
                if identity.is_some_and(|identity| identity != found) {
                    return Err(OpenError::corrupt(
                        path,
                        0,
                        "log and checkpoint belong to different members",
                    ));
                }
                if scan.last_index < checkpointed {
                    return Err(OpenError::corrupt(path, 0, "the log ends before the checkpoint"));
                }
                Wal::resume(storage.clone(), options, scan)
            }
            None if checkpointed > 0 => {
                return Err(OpenError::corrupt(path, 0, "there is a checkpoint but no log"));
            }
            None => {
                let (cluster_id, member_id) = new_id;
                let meta = Meta { cluster_id, member_id, first_index: 1, term: FIRST_TERM };
                Wal::create(storage.clone(), options, meta)
            }
        };
        let wal = wal.map_err(OpenError::io("open the log in", path))?;
        let term = state.applied_term().max(FIRST_TERM);
        let identity = wal.identity();
        let shared = Arc::new(Shared::new(state, identity, term, config.clone()));
        shared.start_leases();
        Ok(Core { storage, shared, wal, term, last_checkpoint: Written { index: checkpointed, bytes } })
    }

    /// Makes commands durable and applies them; their outcomes.
    ///
    /// # Errors
    /// No command has taken effect.
    pub(crate) fn commit(&mut self, commands: Vec<Command>) -> Result<Vec<Applied>, AppendError> {
        let started = std::time::Instant::now();
        self.wal.append(self.term, &commands.iter().collect::<Vec<_>>())?;
        crate::metrics::WAL_FSYNC.observe(started.elapsed().as_secs_f64());
        let mut index = self.wal.last_index() - commands.len() as u64;
        let mut outcomes = Vec::with_capacity(commands.len());
        let mut commands = commands.into_iter().peekable();
        while commands.peek().is_some() {
            let mut wake = Vec::new();
            let mut state = self.shared.state.write();
            for command in commands.by_ref().take(APPLY_STEP) {
                index += 1;
                let revoked = match &command.op {
                    Some(Op::LeaseRevoke(request)) => Some(request.id),
                    _ => None,
                };
                let applied = state.apply(index, self.term, command);
                self.shared.follow_lease(&applied.reply, revoked);
                self.shared.follow_token(&applied.reply);
                if let Some(revision) = applied.changed {
                    // Marked while readers are kept out: who sees the revision also sees the mark.
                    self.shared.hub.mark(&state, revision, &mut wake);
                }
                outcomes.push(applied);
            }
            drop(state);
            wake.into_iter().for_each(|signal| signal.wake());
        }
        Ok(outcomes)
    }

    /// Frees a little of what compactions have left. True if there is more.
    pub(crate) fn scrub(&self, budget: usize) -> bool {
        self.shared.state.write().scrub(budget)
    }

    pub(crate) fn needs_scrub(&self) -> bool {
        self.shared.state.read().needs_scrub()
    }

    /// Whether enough was logged since the last checkpoint for the next one.
    pub(crate) fn needs_checkpoint(&self, minimum: u64) -> bool {
        self.wal.bytes() > minimum.max(self.last_checkpoint.bytes / 2) && self.wal.failure().is_none()
    }

    /// Whether anything was logged since the last checkpoint.
    pub(crate) fn is_ahead_of_checkpoint(&self) -> bool {
        self.wal.last_index() > self.last_checkpoint.index
    }

    /// Drops what a checkpoint has made unnecessary.
    pub(crate) fn checkpointed(&mut self, written: Written) -> io::Result<()> {
        self.last_checkpoint = written;
        checkpoint::remove_older(&self.storage, written.index)?;
        self.wal.forget_up_to(written.index)?;
        self.publish_size();
        Ok(())
    }

    /// Tells readers how large the files are.
    pub(crate) fn publish_size(&self) {
        self.shared.set_disk_bytes(self.wal.bytes() + self.last_checkpoint.bytes);
    }
}

fn decode(data: &[u8]) -> Result<Command, String> {
    // From a slice: keys and values are copied, and the file's buffer can go.
    let command = Command::decode(data).map_err(|error| format!("the command does not decode: {error}"))?;
    // An unknown operation decodes to none. A member that skipped it would differ from the others from here on.
    if command.op.is_none() && !data.is_empty() {
        return Err("the command is unknown to this version".to_owned());
    }
    Ok(command)
}

/// The error that a writer is told.
pub(crate) fn append_error(error: &AppendError) -> isopod_kv::Error {
    match error {
        AppendError::Full => isopod_kv::Error::NoSpace,
        AppendError::Failed(_) => {
            isopod_kv::Error::other(isopod_kv::Code::Unavailable, format!("etcdserver: {error}"))
        }
    }
}

/// The reply to a command that can only be of one kind.
pub(crate) fn expect_reply<T>(reply: Reply, take: impl FnOnce(Reply) -> Option<T>) -> T {
    take(reply).expect("a command is answered with the reply of its kind")
}
