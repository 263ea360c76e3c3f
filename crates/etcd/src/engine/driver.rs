//! The member's thread.
//!
//! It takes whatever waits and gives it to the member in one step, which makes it durable with one sync, applies it and
//! answers. While it syncs, the next requests gather: the more there are, the more share a sync. It gives the member its
//! time, peers their messages, and has checkpoints written by a second thread. A member that is alone in its group and
//! has nothing to do sleeps without a timer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use isopod_kv::{Code, Error};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Shared;
use super::queue::{Waiter, Work};
use crate::checkpoint::{self, Written};
use crate::member::{Input, Member, Output, Ticket};

/// Compacted changes freed between two batches: how long writers wait for it.
const SCRUB_STEP: usize = 2000;
/// After what time something that failed for lack of space is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The thread's state.
pub(crate) struct Driver {
    member: Member,
    shared: Arc<Shared>,
    waiters: HashMap<Ticket, Waiter>,
    next_ticket: Ticket,
    /// When the next tick is due, while ticks are wanted.
    next_tick: Option<Duration>,
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
    pub(crate) fn new(member: Member) -> Driver {
        let shared = member.shared.clone();
        Driver {
            member,
            shared,
            waiters: HashMap::new(),
            next_ticket: 0,
            next_tick: None,
            checkpoint: None,
            waiting: Vec::new(),
            no_checkpoint_before: Duration::ZERO,
            stop_checkpoint: Arc::default(),
        }
    }

    /// Runs until the queue is stopped and empty.
    pub(crate) fn run(mut self) {
        self.tell_metrics();
        loop {
            let scrubbing = self.member.needs_scrub();
            let deadline = if scrubbing { Some(self.shared.now()) } else { self.deadline() };
            let deadline = deadline.map(|deadline| self.shared.instant(deadline));
            let mut work = self.shared.queue.take(deadline);
            self.waiting.append(&mut work.checkpoints);
            let stop = work.stop;
            self.step(work);
            if self.member.is_gone() {
                self.shared.removed.cancel();
            }
            if scrubbing && !self.member.scrub(SCRUB_STEP) {
                self.shared.scrubbed.notify_waiters();
            }
            self.finish_checkpoint(false);
            if stop {
                break;
            }
            self.begin_checkpoint();
            self.publish();
        }
        self.stop_checkpoint.store(true, Ordering::Relaxed);
        self.finish_checkpoint(true);
    }

    /// When something falls due.
    fn deadline(&mut self) -> Option<Duration> {
        let now = self.shared.now();
        self.next_tick = match (self.member.needs_ticks(), self.next_tick) {
            (false, _) => None,
            (true, Some(tick)) => Some(tick),
            (true, None) => Some(now + self.shared.config.heartbeat_interval),
        };
        // What was due and could not be written is not tried again at once.
        let due = self
            .member
            .deadline()
            .map(|due| if self.member.is_stalled() { due.max(now + RETRY) } else { due });
        due.into_iter().chain(self.next_tick).min()
    }

    fn step(&mut self, work: Work) {
        let now = self.shared.now();
        let mut inputs = work.inputs;
        if let Some(tick) = self.next_tick.filter(|tick| *tick <= now) {
            inputs.push(Input::Tick);
            // A process that was stopped for a while has missed what it has missed.
            let interval = self.shared.config.heartbeat_interval;
            self.next_tick = Some(if tick + interval > now { tick + interval } else { now + interval });
        }
        for pending in work.pending {
            self.next_ticket += 1;
            self.waiters.insert(self.next_ticket, pending.reply);
            inputs.push(pending.request.into_input(self.next_ticket));
        }
        let (shared, waiters) = (&self.shared, &mut self.waiters);
        let mut lost = Vec::new();
        self.member.step(now, inputs, &mut |output| handle(shared, waiters, &mut lost, output));
        for peer in lost {
            shared.queue.push_input(Input::Unreachable { peer }, 0);
        }
    }

    fn begin_checkpoint(&mut self) {
        let wanted = !self.waiting.is_empty();
        let due = self.member.needs_checkpoint() && self.shared.now() >= self.no_checkpoint_before;
        if self.checkpoint.is_some() || !(wanted || due) {
            return;
        }
        let requests = std::mem::take(&mut self.waiting);
        if !self.member.is_ahead_of_checkpoint() {
            requests.into_iter().for_each(|request| drop(request.send(Ok(()))));
            return;
        }
        let (storage, shared) = (self.member.storage.clone(), self.shared.clone());
        let stop = self.stop_checkpoint.clone();
        let outcome = Arc::new(Mutex::new(None));
        let slot = outcome.clone();
        let write = move || {
            let written = checkpoint::write(&storage, &shared, &stop);
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
            Some(Ok(Some(written))) => self.member.checkpointed(written),
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
        self.no_checkpoint_before = self.shared.now() + RETRY;
        let error = Error::other(Code::Internal, format!("etcdserver: cannot write a checkpoint: {error}"));
        requests.into_iter().for_each(|request| drop(request.send(Err(error.clone()))));
    }

    fn publish(&self) {
        let state = self.shared.state.read();
        crate::metrics::DB_SIZE_IN_USE.set(state.size_bytes() as i64);
        crate::metrics::KEYS.set(state.key_count() as i64);
        crate::metrics::REVISION.set(state.revision());
        crate::metrics::PENDING.set((self.shared.queue.len() + self.waiters.len()) as i64);
    }

    fn tell_metrics(&self) {
        crate::metrics::HAS_LEADER.set(i64::from(self.member.leader() != 0));
        crate::metrics::IS_LEADER.set(i64::from(self.member.is_leader()));
        crate::metrics::LEADER_CHANGES.inc_by(u64::from(self.member.leader() != 0));
    }
}

fn handle(shared: &Shared, waiters: &mut HashMap<Ticket, Waiter>, lost: &mut Vec<u64>, output: Output) {
    match output {
        Output::Done { ticket, result } => {
            if let Some(waiter) = waiters.remove(&ticket) {
                // Whoever gave up waiting does not hear of it.
                let _ = waiter.send(result);
            }
        }
        Output::Send { to, message } => {
            let sent = shared.transport.get().is_some_and(|transport| transport.send(to, message));
            if !sent && !lost.contains(&to) {
                lost.push(to);
            }
        }
        Output::Snapshot(snapshot) => match shared.transport.get() {
            Some(transport) => transport.send_snapshot(snapshot),
            None => {
                shared.queue.push_input(Input::SnapshotSent { to: snapshot.to(), delivered: false }, 0);
            }
        },
        Output::Leader { leader, term } => {
            tracing::info!(leader = format!("{leader:x}"), term, "the leader changes");
            crate::metrics::HAS_LEADER.set(i64::from(leader != 0));
            crate::metrics::IS_LEADER.set(i64::from(leader == shared.member_id));
            if leader != 0 {
                crate::metrics::LEADER_CHANGES.inc();
            }
        }
        Output::Membership => {
            if let Some(transport) = shared.transport.get() {
                transport.set_members(shared.membership.read().list());
            }
        }
        Output::Removed => {
            tracing::warn!("this member has been removed from its group");
        }
    }
}
