//! Commands on their way to the writer's thread.

use std::collections::VecDeque;
use std::time::Instant;

use isopod_kv::Error;
use isopod_mvcc::{Command, Reply};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

/// Commands that may wait. A sync takes a millisecond or so and carries all that wait, so that a full queue means a
/// disk that has stalled: more waiting would only hide it from clients.
const PENDING_MAX: usize = 8192;
/// Bytes of commands that may wait; what a stalled disk may cost in memory.
const PENDING_BYTES_MAX: usize = 64 << 20;
/// Commands that are synced together at most: bounds what one sync and the application after it take.
const BATCH_MAX: usize = 1024;
/// Bytes of commands that are synced together at most.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// A command and who waits for its outcome.
pub(crate) struct Pending {
    pub(crate) command: Command,
    pub(crate) bytes: usize,
    pub(crate) reply: oneshot::Sender<Result<Reply, Error>>,
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
    stopping: bool,
    /// Somebody wants the thread to look at its deadlines, or its other tasks, anew.
    nudged: bool,
    checkpoints: Vec<oneshot::Sender<Result<(), Error>>>,
}

/// What the thread has to do.
#[derive(Default)]
pub(crate) struct Work {
    pub(crate) pending: Vec<Pending>,
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
        while inner.pending.is_empty() && !inner.stopping && !inner.nudged {
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
