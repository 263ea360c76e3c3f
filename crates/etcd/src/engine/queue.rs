//! Requests of clients, and messages of peers, on their way to the member's thread.

use std::collections::VecDeque;
use std::time::Instant;

use isopod_kv::Error;
use isopod_mvcc::Command;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::member::{Change, Input, Outcome, Ticket};

/// Commands that may wait. A sync takes a millisecond or so and carries all that wait, so that a full queue means a
/// disk that has stalled: more waiting would only hide it from clients.
const PENDING_MAX: usize = 8192;
/// Bytes of commands that may wait; what a stalled disk may cost in memory.
const PENDING_BYTES_MAX: usize = 64 << 20;
/// Commands that are synced together at most: bounds what one sync and the application after it take.
const BATCH_MAX: usize = 1024;
/// Bytes of commands that are synced together at most.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// Messages of peers that may wait: a member that cannot keep up is better off without more of them, and Raft repeats
/// what it needs.
const PEER_INPUTS_MAX: usize = 4096;
/// Bytes of such messages.
const PEER_BYTES_MAX: usize = 64 << 20;

/// What a client wants of the member.
#[derive(Debug)]
pub(crate) enum Request {
    Propose(Command),
    Read,
    KeepAlive(i64),
    TimeToLive(i64),
    Change(Change),
    MoveLeader(u64),
}

impl Request {
    pub(crate) fn into_input(self, ticket: Ticket) -> Input {
        match self {
            Request::Propose(command) => Input::Propose { ticket, command },
            Request::Read => Input::Read { ticket },
            Request::KeepAlive(lease) => Input::KeepAlive { ticket, lease },
            Request::TimeToLive(lease) => Input::TimeToLive { ticket, lease },
            Request::Change(change) => Input::Change { ticket, change },
            Request::MoveLeader(target) => Input::MoveLeader { ticket, target },
        }
    }
}

/// Who waits for an outcome.
pub(crate) type Waiter = oneshot::Sender<Result<Outcome, Error>>;

/// A request and who waits for its outcome.
pub(crate) struct Pending {
    pub(crate) request: Request,
    pub(crate) bytes: usize,
    pub(crate) reply: Waiter,
}

/// The queue; many put in, one takes out.
#[derive(Default)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    pending: VecDeque<Pending>,
    bytes: usize,
    /// From peers, with their size.
    inputs: VecDeque<(Input, usize)>,
    input_bytes: usize,
    stopping: bool,
    /// Somebody wants the thread to look at its deadlines, or its other tasks, anew.
    nudged: bool,
    checkpoints: Vec<oneshot::Sender<Result<(), Error>>>,
}

/// What the thread has to do.
#[derive(Default)]
pub(crate) struct Work {
    pub(crate) pending: Vec<Pending>,
    /// From peers.
    pub(crate) inputs: Vec<Input>,
    /// Requests for a checkpoint.
    pub(crate) checkpoints: Vec<oneshot::Sender<Result<(), Error>>>,
    /// Nothing more will come.
    pub(crate) stop: bool,
}

impl Queue {
    pub(crate) fn push(&self, pending: Pending) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        if inner.stopping {
            return Err(Error::Stopped);
        }
        if inner.pending.len() >= PENDING_MAX || inner.bytes + pending.bytes > PENDING_BYTES_MAX {
            return Err(Error::TooManyRequests);
        }
        inner.bytes += pending.bytes;
        inner.pending.push_back(pending);
        drop(inner);
        self.changed.notify_one();
        Ok(())
    }

    /// Takes something from a peer; false if it is dropped.
    pub(crate) fn push_input(&self, input: Input, bytes: usize) -> bool {
        let mut inner = self.inner.lock();
        let full = inner.inputs.len() >= PEER_INPUTS_MAX || inner.input_bytes + bytes > PEER_BYTES_MAX;
        // A single large one must get through sometime.
        if inner.stopping || (full && !inner.inputs.is_empty()) {
            return false;
        }
        inner.input_bytes += bytes;
        inner.inputs.push_back((input, bytes));
        drop(inner);
        self.changed.notify_one();
        true
    }

    pub(crate) fn request_checkpoint(&self, reply: oneshot::Sender<Result<(), Error>>) {
        self.inner.lock().checkpoints.push(reply);
        self.nudge();
    }

    pub(crate) fn nudge(&self) {
        self.inner.lock().nudged = true;
        self.changed.notify_one();
    }

    /// No more commands are taken; those that wait are still done.
    pub(crate) fn stop(&self) {
        self.inner.lock().stopping = true;
        self.changed.notify_one();
    }

    /// Waits for something to do, until a deadline at most.
    pub(crate) fn take(&self, deadline: Option<Instant>) -> Work {
        let mut inner = self.inner.lock();
        while inner.pending.is_empty() && inner.inputs.is_empty() && !inner.stopping && !inner.nudged {
            match deadline {
                None => self.changed.wait(&mut inner),
                Some(deadline) => {
                    if self.changed.wait_until(&mut inner, deadline).timed_out() {
                        break;
                    }
                }
            }
        }
        inner.nudged = false;
        let mut work = Work { checkpoints: std::mem::take(&mut inner.checkpoints), ..Work::default() };
        work.inputs = inner.inputs.drain(..).map(|(input, _)| input).collect();
        inner.input_bytes = 0;
        let mut bytes = 0;
        while work.pending.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
            let Some(pending) = inner.pending.pop_front() else { break };
            bytes += pending.bytes;
            work.pending.push(pending);
        }
        inner.bytes -= bytes;
        work.stop = inner.stopping && inner.pending.is_empty();
        work
    }

    pub(crate) fn len(&self) -> usize {
        self.inner.lock().pending.len()
    }
}
