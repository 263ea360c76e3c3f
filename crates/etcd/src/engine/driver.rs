//! The writer's thread.
//!
//! It takes whatever waits, makes it durable with one sync, applies it, answers. While it syncs, the next commands
//! gather: the more writers there are, the more share a sync. It also proposes what falls due by itself (expired
//! leases, checkpoints of leases, compactions) and has checkpoints written by a second thread. With nothing to do and
//! nothing due it sleeps without a timer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use isopod_kv::{Code, CompactionRequest, Error, LeaseCheckpointRequest, LeaseRevokeRequest};
use isopod_mvcc::{Command, Op};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::compactor::Compactor;
use super::core::{Core, append_error};
use super::queue::Pending;
use crate::checkpoint::{self, Written};
use crate::wal::AppendError;

/// Compacted changes freed between two batches: how long writers wait for it.
const SCRUB_STEP: usize = 2000;
/// Leases revoked in one batch; each may delete many keys.
const EXPIRED_PER_BATCH: usize = 256;
/// After what time something that failed for lack of space is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The thread's state.
pub(crate) struct Driver {
    core: Core,
    compactor: Compactor,
    checkpoint: Option<Running>,
    /// Requests for a checkpoint that the running one came too early for.
    waiting: Vec<oneshot::Sender<Result<(), Error>>>,
    no_checkpoint_before: Duration,
    stop_checkpoint: Arc<AtomicBool>,
}

/// A checkpoint being written.
struct Running {
    thread: JoinHandle<()>,
    /// Filled before the driver is nudged: the thread itself ends a moment later.
    outcome: Arc<Mutex<Option<std::io::Result<Option<Written>>>>>,
    requests: Vec<oneshot::Sender<Result<(), Error>>>,
}

impl Driver {
    pub(crate) fn new(core: Core) -> Driver {
        let compactor = Compactor::new(core.shared.config.auto_compaction);
        core.publish_size();
        Driver {
            core,
            compactor,
            checkpoint: None,
            waiting: Vec::new(),
            no_checkpoint_before: Duration::ZERO,
            stop_checkpoint: Arc::default(),
        }
    }

    /// Runs until the queue is stopped and empty.
    pub(crate) fn run(mut self) {
        loop {
            let scrubbing = self.core.needs_scrub();
            let now = self.core.shared.now();
            let deadline = if scrubbing { Some(now) } else { self.deadline() };
            let deadline = deadline.map(|deadline| self.core.shared.instant(deadline));
            let work = self.core.shared.queue.take(deadline);
            self.waiting.extend(work.checkpoints);
            self.commit(work.pending);
            if scrubbing && !self.core.scrub(SCRUB_STEP) {
                self.core.shared.scrubbed.notify_waiters();
            }
            self.finish_checkpoint(false);
            if work.stop {
                break;
            }
            self.begin_checkpoint();
            self.publish();
        }
        self.stop_checkpoint.store(true, Ordering::Relaxed);
        self.finish_checkpoint(true);
    }

    /// When something falls due.
    fn deadline(&self) -> Option<Duration> {
        let (revision, compacted) = {
            let state = self.core.shared.state.read();
            (state.revision(), state.compacted_revision())
        };
        let leases = self.core.shared.with_lessor(|lessor, _| lessor.next_deadline());
        let compaction = self.compactor.deadline(revision, compacted);
        let due = match (leases, compaction) {
            (Some(leases), Some(compaction)) => Some(leases.min(compaction)),
            (leases, compaction) => leases.or(compaction),
        };
        // Whatever is refused is not tried again at once.
        due.map(
            |due| {
                if self.core.shared.is_log_failed() { due.max(self.core.shared.now() + RETRY) } else { due }
            },
        )
    }

    /// Commands that the store gives itself.
    fn due(&mut self) -> Vec<Command> {
        let (expired, checkpoints) = self.core.shared.with_lessor(|lessor, now| {
            (lessor.expired(now, EXPIRED_PER_BATCH, RETRY), lessor.checkpoints(now))
        });
        let mut commands: Vec<Command> =
            expired.into_iter().map(|id| Op::LeaseRevoke(LeaseRevokeRequest { id }).into()).collect();
        if !checkpoints.is_empty() {
            commands.push(Op::LeaseCheckpoint(LeaseCheckpointRequest { checkpoints }).into());
        }
        let (revision, compacted) = {
            let state = self.core.shared.state.read();
            (state.revision(), state.compacted_revision())
        };
        if let Some(revision) = self.compactor.due(self.core.shared.now(), revision, compacted) {
            commands.push(Op::Compact(CompactionRequest { revision, physical: false }).into());
        }
        commands
    }

    fn commit(&mut self, pending: Vec<Pending>) {
        let own = self.due();
        if pending.is_empty() && own.is_empty() {
            return;
        }
        let (commands, replies): (Vec<_>, Vec<_>) =
            pending.into_iter().map(|pending| (pending.command, pending.reply)).unzip();
        let commands: Vec<Command> = commands.into_iter().chain(own).collect();
        match self.core.commit(commands) {
            Ok(outcomes) => {
                self.core.shared.set_disk_full(false);
                crate::metrics::COMMITTED.inc_by(outcomes.len() as u64);
                crate::metrics::APPLIED.inc_by(outcomes.len() as u64);
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    // Whoever gave up waiting does not hear of it.
                    let _ = reply.send(outcome.reply);
                }
            }
            Err(error) => {
                self.refused(&error);
                let error = append_error(&error);
                crate::metrics::FAILED.inc_by(replies.len() as u64);
                for reply in replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }

    fn refused(&self, error: &AppendError) {
        match error {
            AppendError::Full => self.core.shared.set_disk_full(true),
            AppendError::Failed(_) => {
                if !self.core.shared.is_log_failed() {
                    tracing::error!(%error, "writes are refused until a restart, reads go on");
                }
                self.core.shared.set_log_failed();
            }
        }
    }

    fn begin_checkpoint(&mut self) {
        let wanted = !self.waiting.is_empty();
        let due = self.core.needs_checkpoint(self.core.shared.config.checkpoint_log_bytes)
            && self.core.shared.now() >= self.no_checkpoint_before;
        if self.checkpoint.is_some() || !(wanted || due) {
            return;
        }
        let requests = std::mem::take(&mut self.waiting);
        if !self.core.is_ahead_of_checkpoint() {
            requests.into_iter().for_each(|request| drop(request.send(Ok(()))));
            return;
        }
        let (storage, shared) = (self.core.storage.clone(), self.core.shared.clone());
        let stop = self.stop_checkpoint.clone();
        let outcome = Arc::new(Mutex::new(None));
        let slot = outcome.clone();
        let write = move || {
            let identity = (shared.cluster_id, shared.member_id);
            let written = checkpoint::write(&storage, &shared.state, identity, &stop);
            *slot.lock() = Some(written);
            shared.queue.nudge();
        };
        match std::thread::Builder::new().name("etcd-checkpoint".to_owned()).spawn(write) {
            Ok(thread) => self.checkpoint = Some(Running { thread, outcome, requests }),
            Err(error) => self.checkpoint_failed(&error, requests),
        }
    }

    fn finish_checkpoint(&mut self, wait: bool) {
        let Some(running) = self
            .checkpoint
            .take_if(|running| wait || running.outcome.lock().is_some() || running.thread.is_finished())
        else {
            return;
        };
        let joined = running.thread.join();
        let written = match joined.ok().and_then(|()| running.outcome.lock().take()) {
            Some(Ok(Some(written))) => self.core.checkpointed(written),
            Some(Ok(None)) => {
                return running.requests.into_iter().for_each(|r| drop(r.send(Err(Error::Stopped))));
            }
            Some(Err(error)) => Err(error),
            None => Err(std::io::Error::other("the checkpoint's thread panicked")),
        };
        match written {
            Ok(()) => running.requests.into_iter().for_each(|request| drop(request.send(Ok(())))),
            Err(error) => self.checkpoint_failed(&error, running.requests),
        }
    }

    fn checkpoint_failed(
        &mut self,
        error: &std::io::Error,
        requests: Vec<oneshot::Sender<Result<(), Error>>>,
    ) {
        tracing::error!(%error, "cannot write a checkpoint, the log is kept");
        self.no_checkpoint_before = self.core.shared.now() + RETRY;
        let error = Error::other(Code::Internal, format!("etcdserver: cannot write a checkpoint: {error}"));
        requests.into_iter().for_each(|request| drop(request.send(Err(error.clone()))));
    }

    fn publish(&self) {
        self.core.publish_size();
        let state = self.core.shared.state.read();
        crate::metrics::DB_SIZE_IN_USE.set(state.size_bytes() as i64);
        crate::metrics::KEYS.set(state.key_count() as i64);
        crate::metrics::REVISION.set(state.revision());
        crate::metrics::PENDING.set(self.core.shared.queue.len() as i64);
    }
}
