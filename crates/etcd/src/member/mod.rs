//! A member of the group, without threads, clock or network: log, Raft, state.
//!
//! ```text
//! inputs ──> Raft ──> log (one sync for all that a step brought) ──> committed entries ──> state ──> outputs
//! ```
//! [`Member::step`] takes what happened and what time it is, and gives what is to be sent and answered. With the same
//! storage, seed and inputs it does the same again, which is what the simulator lives on; the thread in
//! `engine/driver.rs` gives it a real clock and real peers.
//!
//! - Nothing is acknowledged before a majority has it on disk. A member's own vote and entries are on its disk before
//!   any message that depends on them is given out; a leader's appends may go out while it writes its own.
//! - Entries are applied in the order of the log, on every member alike; readers and watchers see them only then.
//! - The member that took a request answers it when it applies the entry, so a client's own write is in the state of
//!   the member that it talks to.
//! - A request whose fate is not known in time ends with a timeout: it is never proposed twice.
//! - A disk without space stalls the member: it says nothing more until it can write, and others go on without it. The
//!   only member of a group writes before it tells Raft, and so can refuse instead.

mod apply;
mod check;
mod client;
#[cfg(test)]
mod group_test;
mod lease;
mod log;
mod membership;
mod open;
mod proposal;
mod read;
mod ready;
mod snapshot;
#[cfg(test)]
mod version_1_test;
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use isopod_kv::{Code, Error};
use isopod_mvcc::{Command, Reply, State};
use raft::{RawNode, StateRole};

pub use self::membership::{Change, cluster_id, member_id};
pub(crate) use self::membership::{Membership, StoredMembership};
pub use self::open::Bootstrap;
pub(crate) use self::proposal::Proposal;
pub use self::snapshot::{OutgoingSnapshot, ReceivedSnapshot, SnapshotReceiver};
pub use self::wire::PeerMessage;

use self::client::{Pending, Question};
use self::log::Log;
use self::read::Reads;
use self::ready::Unwritten;
use crate::checkpoint::{self, Written};
use crate::engine::{Compactor, Shared};
use crate::storage::Storage;
use crate::wal::Wal;

/// A member as listed.
pub type MemberInfo = isopod_kv::Member;

/// Names an input in the output that answers it. Chosen by the caller, unique for one [`Member`].
pub type Ticket = u64;

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The heartbeat interval has passed once more.
    Tick,
    /// A command is to pass through the log.
    Propose {
        /// Comes back with the outcome.
        ticket: Ticket,
        /// What to do.
        command: Command,
    },
    /// The state is to be read as it is now or later: done once it contains everything acknowledged before.
    Read {
        /// Comes back with the outcome.
        ticket: Ticket,
    },
    /// A lease is to be renewed.
    KeepAlive {
        /// Comes back with the outcome.
        ticket: Ticket,
        /// The lease's ID.
        lease: i64,
    },
    /// The time left of a lease is wanted.
    TimeToLive {
        /// Comes back with the outcome.
        ticket: Ticket,
        /// The lease's ID.
        lease: i64,
    },
    /// The membership is to change.
    Change {
        /// Comes back with the outcome.
        ticket: Ticket,
        /// How.
        change: Change,
    },
    /// Another member is to lead.
    MoveLeader {
        /// Comes back with the outcome.
        ticket: Ticket,
        /// The member that is to lead.
        target: u64,
    },
    /// A peer said something.
    Message(PeerMessage),
    /// Something sent to a peer was probably lost.
    Unreachable {
        /// The peer.
        peer: u64,
    },
    /// A peer's snapshot has arrived whole.
    Snapshot(Box<ReceivedSnapshot>),
    /// What became of a snapshot that was given out.
    SnapshotSent {
        /// The receiver.
        to: u64,
        /// Whether it has all of it.
        delivered: bool,
    },
}

/// What is to be done, or has happened.
#[derive(Debug)]
pub enum Output {
    /// Send this to a peer; it may get lost.
    Send {
        /// The receiver.
        to: u64,
        /// What to send.
        message: PeerMessage,
    },
    /// Send this to a peer, and say with [`Input::SnapshotSent`] what became of it.
    Snapshot(OutgoingSnapshot),
    /// An input with a ticket is done. After [`Error::Timeout`] and its kin it is not known whether it took effect.
    Done {
        /// The input's.
        ticket: Ticket,
        /// The outcome.
        result: Result<Outcome, Error>,
    },
    /// Another member leads, or none.
    Leader {
        /// Its ID; 0 for none.
        leader: u64,
        /// The term.
        term: u64,
    },
    /// The membership has changed.
    Membership,
    /// This member has been removed from the group, and is to end.
    Removed,
}

/// The outcome of what went well.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Of a command.
    Applied(Reply),
    /// Of a read: the state may be read now.
    Read,
    /// Of a renewal: the time to live, in seconds.
    KeptAlive {
        /// As granted, in seconds.
        ttl_s: i64,
    },
    /// Of the question for a lease.
    Remaining {
        /// As granted, in seconds.
        granted_s: i64,
        /// What is left, in seconds.
        remaining_s: i64,
    },
    /// Of a change of membership: the members now.
    Members(Vec<MemberInfo>),
    /// Of a move of the leadership.
    Moved,
}

/// A member. See the module's documentation.
pub struct Member {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) shared: Arc<Shared>,
    raft: RawNode<Log>,
    wal: Wal,
    id: u64,
    /// Entries up to here are in the log on disk though Raft has not said so yet.
    written: u64,
    /// What Raft wants written and the disk has no space for.
    unwritten: Option<Unwritten>,
    /// A snapshot that Raft is being told of.
    incoming: Option<ReceivedSnapshot>,
    /// Why the member does nothing more, if so.
    failed: Option<String>,
    seed: u64,
    now: Duration,
    ticks: u64,
    /// Elections begun; varies the timeout.
    campaigns: u64,
    next_sequence: u64,
    /// Own proposals on their way, by sequence, and those of them that no leader has been given yet.
    pending: BTreeMap<u64, Pending>,
    unsent: VecDeque<u64>,
    /// Refused by whoever was taken for the leader; tried again at the next tick.
    refused: Vec<u64>,
    /// Questions to the leader, by sequence.
    questions: BTreeMap<u64, Question>,
    reads: Reads,
    /// A move of the leadership under way: whose, to whom, until when.
    moving: Option<(Ticket, u64, Duration)>,
    /// When each peer was last heard, in ticks.
    heard: BTreeMap<u64, u64>,
    compactor: Compactor,
    /// The leader and the term that were last told.
    told: (u64, u64),
    /// Since when the leader is what it is.
    leader_since: Duration,
    /// Since which tick this member is removed.
    removed: Option<u64>,
    last_checkpoint: Written,
}

impl Member {
    /// Takes what happened, makes durable what must be, applies what is committed. Outputs come in order; those that
    /// depend on nothing of this step's come before the disk is waited for.
    ///
    /// `now` is the time since any fixed moment; it does not go back.
    pub fn step(&mut self, now: Duration, inputs: Vec<Input>, out: &mut dyn FnMut(Output)) {
        self.now = self.now.max(now);
        self.retry_unwritten(out);
        for input in inputs {
            self.take(input, out);
        }
        if self.is_out() {
            return self.refuse_all(out);
        }
        self.campaign_if_alone();
        self.ready(out);
        self.propose_due();
        self.flush(out);
        self.ready(out);
        // What waited for a reconfiguration, or for this member's own election, can go on now.
        if !self.unsent.is_empty() || self.reads.is_waiting() {
            self.flush(out);
            self.ready(out);
        }
        self.tell_leader(out);
        self.set_election_timeout();
        self.publish();
    }

    fn take(&mut self, input: Input, out: &mut dyn FnMut(Output)) {
        match input {
            Input::Tick => self.tick(out),
            Input::Message(message) => self.receive(message, out),
            Input::Snapshot(snapshot) => self.receive_snapshot(*snapshot, out),
            Input::Unreachable { peer } if !self.is_out() => self.raft.report_unreachable(peer),
            Input::SnapshotSent { to, delivered } if !self.is_out() => {
                let status = match delivered {
                    true => raft::SnapshotStatus::Finish,
                    false => raft::SnapshotStatus::Failure,
                };
                self.raft.report_snapshot(to, status);
            }
            Input::Unreachable { .. } | Input::SnapshotSent { .. } => {}
            Input::Propose { ticket, command } => self.accept_command(ticket, command, out),
            Input::Change { ticket, change } => self.accept_change(ticket, change, out),
            Input::Read { ticket } => self.accept_read(ticket, out),
            Input::KeepAlive { ticket, lease } => self.ask(Question::keep_alive(ticket, lease), out),
            Input::TimeToLive { ticket, lease } => self.ask(Question::time_to_live(ticket, lease), out),
            Input::MoveLeader { ticket, target } => self.move_leader(ticket, target, out),
        }
    }

    /// The member's ID.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The group's ID.
    pub fn cluster_id(&self) -> u64 {
        self.shared.cluster_id
    }

    /// The term.
    pub fn term(&self) -> u64 {
        self.raft.raft.term
    }

    /// Who leads, as far as known; 0 for nobody.
    pub fn leader(&self) -> u64 {
        self.raft.raft.leader_id
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    /// Index of the last entry that is known to be committed.
    pub fn commit_index(&self) -> u64 {
        self.raft.raft.raft_log.committed
    }

    /// The members, as applied.
    pub fn members(&self) -> Vec<MemberInfo> {
        self.shared.membership.read().list()
    }

    /// The state, for reading. Keep the answer no longer than needed.
    pub fn state(&self) -> impl Deref<Target = State> + '_ {
        self.shared.state.read()
    }

    /// Whether [`Input::Tick`] is wanted. The only member of a group sleeps.
    pub fn needs_ticks(&self) -> bool {
        self.failed.is_none()
            && (!self.is_alone() || self.unwritten.is_some() || !self.questions.is_empty())
            && !self.is_gone()
    }

    /// When a step is wanted though nothing happened: a lease or a compaction falls due.
    pub fn deadline(&self) -> Option<Duration> {
        if self.is_out() || !self.is_leader() {
            return None;
        }
        let (revision, compacted) = {
            let state = self.shared.state.read();
            (state.revision(), state.compacted_revision())
        };
        let leases = self.shared.with_lessor(|lessor| lessor.next_deadline());
        let compaction = self.compactor.deadline(revision, compacted);
        leases.into_iter().chain(compaction).min()
    }

    /// Why the member does nothing more, if so; only opening it again helps.
    pub fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Whether the disk has no space for what is to be written.
    pub fn is_stalled(&self) -> bool {
        self.unwritten.is_some()
    }

    /// Whether enough was logged since the last checkpoint for the next one.
    pub fn needs_checkpoint(&self) -> bool {
        let minimum = self.shared.config.checkpoint_log_bytes;
        self.wal.bytes() > minimum.max(self.last_checkpoint.bytes / 2) && self.wal.failure().is_none()
    }

    /// Writes a checkpoint of the state as it is now, and drops the log before it.
    ///
    /// # Errors
    /// The disk's. Nothing is lost then.
    pub fn checkpoint(&mut self) -> std::io::Result<()> {
        match checkpoint::write(&self.storage, &self.shared, &AtomicBool::new(false))? {
            Some(written) => self.checkpointed(written),
            None => Ok(()),
        }
    }

    /// Whether anything was applied since the last checkpoint.
    pub(crate) fn is_ahead_of_checkpoint(&self) -> bool {
        self.shared.state.read().applied_index() > self.last_checkpoint.index
    }

    /// Drops what a checkpoint has made unnecessary.
    pub(crate) fn checkpointed(&mut self, written: Written) -> std::io::Result<()> {
        if written.index <= self.last_checkpoint.index {
            return Ok(());
        }
        self.last_checkpoint = written;
        checkpoint::remove_older(&self.storage, written.index)?;
        self.wal.forget_up_to(written.index)?;
        self.publish();
        Ok(())
    }

    /// Takes in a snapshot that a peer sends.
    pub fn snapshot_receiver(&self) -> SnapshotReceiver {
        SnapshotReceiver::new(self.storage.clone(), self.shared.clone())
    }

    /// Frees a little of what compactions have left. True if there is more.
    pub(crate) fn scrub(&self, budget: usize) -> bool {
        self.shared.state.write().scrub(budget)
    }

    pub(crate) fn needs_scrub(&self) -> bool {
        self.shared.state.read().needs_scrub()
    }

    fn is_alone(&self) -> bool {
        self.shared.membership.read().is_alone(self.id)
    }

    /// Whether the member has been removed, and has had time to pass that on.
    pub fn is_gone(&self) -> bool {
        self.removed.is_some_and(|since| self.ticks >= since + self.election_ticks())
    }

    /// Whether the member takes no part any more.
    fn is_out(&self) -> bool {
        self.failed.is_some() || self.is_gone()
    }

    fn fail(&mut self, reason: String) {
        tracing::error!(reason, "this member takes no part any more until a restart");
        self.shared.set_log_failed();
        self.failed = Some(reason);
    }

    fn election_ticks(&self) -> u64 {
        self.raft.raft.election_timeout() as u64
    }

    /// How long a request may take, as in etcd: time for a leader to be elected anew, twice.
    fn request_deadline(&self) -> Duration {
        self.now + Duration::from_secs(5) + 2 * self.shared.config.election_timeout
    }

    fn next_sequence(&mut self) -> u64 {
        self.next_sequence = self.next_sequence.wrapping_add(1);
        self.next_sequence
    }

    fn tick(&mut self, out: &mut dyn FnMut(Output)) {
        self.ticks += 1;
        if self.is_out() || self.unwritten.is_some() {
            return;
        }
        let was_leader = self.is_leader();
        if self.raft.tick() && !was_leader {
            self.campaigns += 1;
        }
        self.set_election_timeout();
        self.unsent.extend(std::mem::take(&mut self.refused));
        self.expire(out);
    }

    /// Raft draws its election timeout from the thread's randomness whenever it begins to wait; what counts is this
    /// one, which depends on the seed.
    fn set_election_timeout(&mut self) {
        let ticks = self.raft.raft.election_timeout();
        let random = mix(self.seed ^ mix(self.raft.raft.term ^ (self.campaigns << 32)));
        self.raft.raft.set_randomized_election_timeout(ticks + (random % ticks as u64) as usize);
    }

    fn campaign_if_alone(&mut self) {
        if !self.is_leader() && self.is_alone() && self.unwritten.is_none() {
            // Refused only while there is something to apply.
            let _ = self.raft.campaign();
        }
    }

    fn tell_leader(&mut self, out: &mut dyn FnMut(Output)) {
        let now = (self.leader(), self.term());
        if now == self.told {
            return;
        }
        if now.0 != self.told.0 {
            self.leader_since = self.now;
            self.ask_again();
            if now.0 != 0 {
                self.hurry_pending();
            }
        }
        let (led, leads) = (self.shared.is_leader(), self.is_leader());
        self.told = now;
        self.shared.set_leader(now.0, now.1);
        if leads && !led {
            self.begin_to_lead();
        } else if !leads && led {
            self.shared.clear_leases();
        }
        self.reads.start_over();
        out(Output::Leader { leader: now.0, term: now.1 });
        self.finish_move(out);
    }

    /// What others see of the log.
    fn publish(&self) {
        self.shared.set_disk_bytes(self.wal.bytes() + self.last_checkpoint.bytes);
        self.shared.set_raft_index(self.commit_index());
    }
}

/// The error of a member that takes no part any more.
fn out_of_order(reason: &str) -> Error {
    Error::other(Code::Unavailable, format!("etcdserver: {reason}"))
}

/// splitmix64: spreads a number over all bits.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member")
            .field("id", &self.id)
            .field("term", &self.term())
            .field("leader", &self.leader())
            .field("commit", &self.commit_index())
            .finish_non_exhaustive()
    }
}
