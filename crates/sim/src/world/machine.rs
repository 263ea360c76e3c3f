//! A machine with a disk, a clock, and a member of the cluster that runs on it now and then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isopod_etcd::storage::SimStorage;
use isopod_etcd::{Config, OpenError};

use super::member::{Bootstrap, Input, Member, Ticket};
use crate::model::FIRST_REVISION;
use crate::random::Random;

/// How long a step takes on a good disk, in nanoseconds, least and most.
const STEP_NS: (u64, u64) = (20_000, 600_000);
/// How much slower a slow disk is at most.
const SLOW_FACTOR_MAX: u64 = 500;
/// Log after which a checkpoint is made, in bytes: small, so that a run sees many, and snapshots with them.
const CHECKPOINT_LOG_BYTES: u64 = 24 << 10;
/// Entries kept for members that fall behind; small, so that some need a snapshot.
const CATCH_UP_ENTRIES: usize = 40;
/// Size of a log file, in bytes; small for the same reason.
const SEGMENT_BYTES: u64 = 8 << 10;

/// Who waits for the outcome of an input.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waiting {
    /// A client with its request of this number.
    Client { client: usize, number: u64 },
    /// Nobody.
    Nobody,
}

/// The machine.
pub(crate) struct Machine {
    pub(crate) id: u64,
    pub(crate) storage: SimStorage,
    /// None while it is off.
    pub(crate) member: Option<Member>,
    /// Counts starts, over all machines; names what belongs to one run.
    pub(crate) run: u64,
    pub(crate) inbox: Vec<Input>,
    /// Whether a step is under way, or about to begin.
    pub(crate) busy: bool,
    pub(crate) waiting: BTreeMap<Ticket, Waiting>,
    next_ticket: Ticket,
    /// Speed of its clock, in thousandths of the true one.
    rate_permille: u64,
    /// Reading of its clock at the beginning.
    offset: Duration,
    /// Stopped as by a signal until then.
    pub(crate) paused_until: u64,
    /// How much slower its disk is.
    pub(crate) slowness: u64,
    /// Whether what it acknowledges is on the disk.
    pub(crate) fsync: bool,
    /// Where its member comes from when the disk is empty.
    pub(crate) bootstrap: Bootstrap,
    /// Everything up to this revision has been compared with what others had.
    pub(crate) compared: i64,
    /// Whether a bit of its disk was inverted.
    pub(crate) flipped: bool,
    /// Never to be started again: its disk is damaged, or it was removed.
    pub(crate) gone: bool,
}

impl Machine {
    pub(crate) fn new(id: u64, bootstrap: Bootstrap, fsync: bool, skew: u64, random: &mut Random) -> Machine {
        Machine {
            id,
            storage: SimStorage::new(random.number()),
            member: None,
            run: 0,
            inbox: Vec::new(),
            busy: false,
            waiting: BTreeMap::new(),
            next_ticket: 1,
            rate_permille: random.between(1000 - skew, 1000 + skew),
            offset: Duration::from_millis(random.below(1_000_000)),
            paused_until: 0,
            slowness: 1,
            fsync,
            bootstrap,
            compared: FIRST_REVISION,
            flipped: false,
            gone: false,
        }
    }

    /// Settings of the member.
    pub(crate) fn config(&self) -> Config {
        let mut config = Config::new("sim");
        config.name = format!("m{}", self.id);
        config.fsync = self.fsync;
        config.segment_bytes = SEGMENT_BYTES;
        config.checkpoint_log_bytes = CHECKPOINT_LOG_BYTES;
        config.catch_up_entries = CATCH_UP_ENTRIES;
        config
    }

    /// The reading of its clock.
    pub(crate) fn clock(&self, now: u64) -> Duration {
        self.offset + Duration::from_nanos(now / 1000 * self.rate_permille)
    }

    /// How long a time of its clock takes, in nanoseconds.
    pub(crate) fn true_ns(&self, duration: Duration) -> u64 {
        duration.as_nanos() as u64 / self.rate_permille * 1000
    }

    /// Starts the member on whatever the disk holds.
    pub(crate) fn start(&mut self, run: u64, now: u64, random: &mut Random) -> Result<(), OpenError> {
        self.run = run;
        self.inbox.clear();
        self.busy = false;
        self.waiting.clear();
        self.compared = FIRST_REVISION;
        let storage = Arc::new(self.storage.clone());
        let seed = random.number();
        self.member =
            Some(Member::open(storage, self.config(), self.bootstrap.clone(), seed, self.clock(now))?);
        Ok(())
    }

    pub(crate) fn ticket(&mut self, waiting: Waiting) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting.insert(ticket, waiting);
        ticket
    }

    /// How long the disk takes for a step.
    pub(crate) fn step_ns(&self, random: &mut Random) -> u64 {
        random.between(STEP_NS.0, STEP_NS.1) * self.slowness
    }

    pub(crate) fn slow_down(&mut self, random: &mut Random) {
        self.slowness = random.between(2, SLOW_FACTOR_MAX);
    }
}
