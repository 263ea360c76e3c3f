//! What is going to happen, in order of time; what is due at the same moment comes in the order of its making.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use bytes::Bytes;

use super::member::{Output, PeerMessage};
use crate::history::{Delivery, Outcome};

/// Something due.
pub(crate) enum Happening {
    /// A member's clock ticks.
    Tick { member: u64, run: u64 },
    /// A member looks into its inbox.
    Work { member: u64, run: u64 },
    /// A member's disk is done with a step, whose outputs may leave now.
    Finished { member: u64, run: u64, outputs: Vec<Output> },
    /// A message arrives.
    Message { to: u64, message: PeerMessage },
    /// A snapshot arrives.
    Snapshot { from: u64, to: u64, message: PeerMessage, chunks: Vec<Bytes> },
    /// A client begins its next request.
    Next { client: usize },
    /// A request arrives at a member.
    Request { client: usize, number: u64, member: u64 },
    /// An answer arrives at a client.
    Response { client: usize, number: u64, outcome: Outcome },
    /// A client stops waiting.
    Timeout { client: usize, number: u64 },
    /// A watcher connects.
    Attach { watcher: usize, generation: u64 },
    /// A response arrives at a watcher.
    Delivery { watcher: usize, generation: u64, delivery: Delivery },
    /// A machine is switched on.
    Start { member: u64, run: u64 },
    /// The next fault.
    Fault,
    /// All machines lose power.
    PowerCut,
    /// The next step of a change of membership.
    Change,
    /// A member that was removed is switched off, whether it knows or not.
    Retire { member: u64 },
}

impl Happening {
    /// What goes into the trace.
    pub(crate) fn fingerprint(&self) -> [u64; 3] {
        match self {
            Happening::Tick { member, run } => [1, *member, *run],
            Happening::Work { member, run } => [2, *member, *run],
            Happening::Finished { member, outputs, .. } => [3, *member, outputs.len() as u64],
            Happening::Message { to, message } => [4, *to, message.from()],
            Happening::Snapshot { from, to, chunks, .. } => {
                [5, from << 8 | to, chunks.iter().map(|chunk| chunk.len() as u64).sum()]
            }
            Happening::Next { client } => [6, *client as u64, 0],
            Happening::Request { client, number, member } => [7, (*client as u64) << 32 | member, *number],
            Happening::Response { client, outcome, .. } => {
                let revision = match outcome {
                    Outcome::Answered(answer) => answer.revision().unwrap_or_default() as u64,
                    Outcome::Refused(_) => u64::MAX,
                    Outcome::Unknown => u64::MAX - 1,
                };
                [8, *client as u64, revision]
            }
            Happening::Timeout { client, number } => [9, *client as u64, *number],
            Happening::Attach { watcher, generation } => [10, *watcher as u64, *generation],
            Happening::Delivery { watcher, delivery, .. } => [11, *watcher as u64, delivery.revision as u64],
            Happening::Start { member, run } => [12, *member, *run],
            Happening::Fault => [13, 0, 0],
            Happening::Change => [14, 0, 0],
            Happening::PowerCut => [15, 0, 0],
            Happening::Retire { member } => [16, *member, 0],
        }
    }
}

struct Entry {
    at: u64,
    sequence: u64,
    happening: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// The queue.
#[derive(Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, at: u64, happening: Happening) {
        self.sequence += 1;
        self.heap.push(Reverse(Entry { at, sequence: self.sequence, happening }));
    }

    /// What happens next, unless that is after `end`. What is left keeps its place among what happens at the same
    /// moment.
    pub(crate) fn pop_until(&mut self, end: u64) -> Option<(u64, Happening)> {
        self.heap.peek().filter(|Reverse(entry)| entry.at <= end)?;
        self.heap.pop().map(|Reverse(entry)| (entry.at, entry.happening))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_at_one_moment_keeps_its_order_over_an_end() {
        let mut queue = Queue::default();
        for client in 0..3 {
            queue.push(10, Happening::Next { client });
        }
        assert!(queue.pop_until(9).is_none());
        for client in 0..3 {
            let next = queue.pop_until(10);
            assert!(matches!(next, Some((10, Happening::Next { client: next })) if next == client));
        }
        assert!(queue.pop_until(u64::MAX).is_none());
    }
}
