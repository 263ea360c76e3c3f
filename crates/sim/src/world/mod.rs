//! A cluster in a world of its own: one seed, one exact run.
//!
//! Members run their real code on simulated disks, clocks and networks. Nothing here looks at the machine it runs on:
//! time is a number that jumps from one happening to the next, chance comes from the seed, and every collection has
//! an order. So a run that fails can be watched as often as one likes.

mod change;
mod client;
mod faults;
mod load;
mod machine;
mod network;
mod queue;
mod settle;
mod watcher;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use isopod_kv::{Event, keys};
use isopod_mvcc::{Filters, KeyRange};

use crate::check::Violation;
use crate::check::agreement::{Agreement, Disagreement};
use crate::history::{History, Outcome};
use crate::model::FIRST_REVISION;
use crate::random::Random;
use client::Client;
use isopod_etcd::member;
use machine::{Machine, Waiting};
use member::{Bootstrap, Input, MemberInfo, Output, Ticket};
use network::Network;
use queue::{Happening, Queue};
use watcher::Watcher;

const CLUSTER_ID: u64 = 0xc1;
/// How much quicker or slower than the true one a member's clock may be, in thousandths.
const SKEW_PERMILLE: u64 = 40;
/// Happenings remembered for a failure's report.
const REMEMBERED: usize = 40;

/// A fault put into the cluster on purpose, which the checkers have to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Members answer before what they promise is on the disk: the log is not synced.
    NoSync,
    /// Disks say that they have synced, and have not, for a while before a power cut.
    LyingDisks,
    /// Members answer linearizable reads from what they have.
    StaleReads,
    /// Watches leave out an event now and then.
    SkippedEvents,
    /// A voter comes back with an empty disk, and so without its vote and its log.
    LostVote,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// Members in the beginning.
    pub members: usize,
    /// Clients.
    pub clients: usize,
    /// Watchers.
    pub watchers: usize,
    /// How long faults and load go on.
    pub duration: Duration,
    /// What is wrong on purpose.
    pub sabotage: Option<Sabotage>,
    /// Whether members are judged only by what clients saw and by what the leader says in the end, as real ones are;
    /// without, they are also compared with each other at every step.
    pub only_clients: bool,
}

impl Options {
    /// The usual run.
    pub fn new(seed: u64, members: usize) -> Options {
        let duration = Duration::from_secs(15);
        Options { seed, members, clients: 5, watchers: 4, duration, sabotage: None, only_clients: false }
    }

    fn fsync(&self) -> bool {
        self.sabotage != Some(Sabotage::NoSync)
    }
}

/// What happened in a run, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Faults tried.
    pub faults: u64,
    /// Machines switched off.
    pub stops: u64,
    /// Bits inverted on disks.
    pub flips: u64,
    /// Members that refused a damaged disk.
    pub refusals: u64,
    /// Members replaced.
    pub replacements: u64,
    /// Times that somebody became leader.
    pub leaders: u64,
    /// Requests answered.
    pub answered: u64,
    /// Requests refused.
    pub refused: u64,
    /// Requests whose outcome stayed unknown.
    pub unknown: u64,
    /// Events that watchers were given.
    pub events: u64,
    /// Snapshots that members sent each other.
    pub snapshots: u64,
    /// Revisions made.
    pub revisions: u64,
}

impl Stats {
    /// Adds another run's.
    pub fn add(&mut self, other: &Stats) {
        self.faults += other.faults;
        self.stops += other.stops;
        self.flips += other.flips;
        self.refusals += other.refusals;
        self.replacements += other.replacements;
        self.leaders += other.leaders;
        self.answered += other.answered;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.events += other.events;
        self.snapshots += other.snapshots;
        self.revisions += other.revisions;
    }
}

/// A run's result.
#[derive(Clone, Debug)]
pub struct Report {
    /// Guarantees that were broken.
    pub violations: Vec<Violation>,
    /// A checksum of all that happened: equal for equal runs.
    pub trace: u64,
    /// Numbers.
    pub stats: Stats,
    /// The last things that happened, for a failure's report.
    pub last: Vec<String>,
}

/// How many members a seed's cluster has: three or five, and one now and then.
pub fn members_of_seed(seed: u64) -> usize {
    match seed % 10 {
        9 => 1,
        even if even % 2 == 0 => 3,
        _ => 5,
    }
}

/// Runs a cluster until its end, and judges it.
pub fn run(options: &Options) -> Report {
    let mut world = World::new(options.clone());
    world.live();
    world.settle();
    world.judge()
}

/// The world.
pub(crate) struct World {
    options: Options,
    random: Random,
    /// Nanoseconds since the beginning.
    now: u64,
    queue: Queue,
    machines: BTreeMap<u64, Machine>,
    /// ID of the next new member.
    next_id: u64,
    runs: u64,
    network: Network,
    clients: Vec<Client>,
    watchers: Vec<Watcher>,
    change: Option<change::Replacement>,
    /// Members to be replaced after the present replacement.
    broken: Vec<u64>,
    /// Set once faults are over.
    settling: bool,
    /// When they were over.
    settled_from: u64,
    agreement: Agreement,
    /// Every event there was, by revision from 2 on, from whoever had it first.
    events: Vec<Vec<Event>>,
    history: History,
    violations: Vec<Violation>,
    trace: u64,
    last: VecDeque<(u64, [u64; 3])>,
    stats: Stats,
    /// The newest leader's term seen, for statistics.
    newest_term: u64,
}

impl World {
    fn new(options: Options) -> World {
        let mut random = Random::new(options.seed);
        let ids: Vec<u64> = (1..=options.members as u64).collect();
        let members: Vec<MemberInfo> = ids.iter().map(|id| change::info(*id, false)).collect();
        let machines = ids.iter().map(|id| {
            let bootstrap = match &members[..] {
                [_] => Bootstrap::Alone { cluster_id: CLUSTER_ID, member_id: *id },
                _ => Bootstrap::New { cluster_id: CLUSTER_ID, member_id: *id, members: members.clone() },
            };
            (*id, Machine::new(*id, bootstrap, options.fsync(), SKEW_PERMILLE, &mut random))
        });
        let machines = machines.collect();
        World {
            random,
            now: 0,
            queue: Queue::default(),
            machines,
            next_id: ids.len() as u64 + 1,
            runs: 0,
            network: Network::default(),
            clients: Vec::new(),
            watchers: Vec::new(),
            change: None,
            broken: Vec::new(),
            settling: false,
            settled_from: 0,
            agreement: Agreement::default(),
            events: Vec::new(),
            // Clocks are off in both directions, and a tick is as exact as time gets for a member.
            history: History { skew_permille: 2 * SKEW_PERMILLE, ..History::default() },
            violations: Vec::new(),
            trace: 0,
            last: VecDeque::new(),
            stats: Stats::default(),
            newest_term: 0,
            options,
        }
    }

    /// Load and faults.
    fn live(&mut self) {
        let ids: Vec<u64> = self.machines.keys().copied().collect();
        for id in ids {
            self.start(id);
        }
        self.begin_load();
        self.queue.push(2_000_000_000, Happening::Fault);
        self.run_until(self.options.duration.as_nanos() as u64, |_| false);
    }

    /// Lets things happen up to a moment, or until something holds.
    fn run_until(&mut self, end: u64, mut done: impl FnMut(&World) -> bool) -> bool {
        while self.violations.is_empty() {
            if done(self) {
                return true;
            }
            let Some((at, happening)) = self.queue.pop_until(end) else { return false };
            self.now = at;
            self.remember(&happening);
            self.happen(happening);
        }
        false
    }

    fn remember(&mut self, happening: &Happening) {
        let fingerprint = happening.fingerprint();
        for number in [self.now].iter().chain(&fingerprint) {
            self.trace = (self.trace ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
        if self.last.len() == REMEMBERED {
            self.last.pop_front();
        }
        self.last.push_back((self.now, fingerprint));
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Tick { member, run } => self.tick(member, run),
            Happening::Work { member, run } => self.work(member, run),
            Happening::Finished { member, run, outputs } => self.finished(member, run, outputs),
            Happening::Message { to, message } => self.input(to, Input::Message(message)),
            Happening::Snapshot { from, to, message, chunks } => self.snapshot(from, to, message, &chunks),
            Happening::Next { client } => self.next_request(client),
            Happening::Request { client, number, member } => self.request(client, number, member),
            Happening::Response { client, number, outcome } => self.response(client, number, outcome),
            Happening::Timeout { client, number } => self.response(client, number, Outcome::Unknown),
            Happening::Attach { watcher, generation } => self.attach(watcher, generation),
            Happening::Delivery { watcher, generation, delivery } => {
                self.deliver(watcher, generation, delivery)
            }
            Happening::Start { member, run } => {
                if self.machines[&member].run == run {
                    self.start(member);
                }
            }
            Happening::Fault => self.fault(),
            Happening::PowerCut => self.power_cut(),
            Happening::Retire { member } => self.retire(member),
            Happening::Change => self.step_change(),
        }
    }

    fn machine(&mut self, id: u64) -> &mut Machine {
        self.machines.get_mut(&id).expect("a known machine")
    }

    fn running(&self) -> Vec<u64> {
        self.machines.values().filter(|machine| machine.member.is_some()).map(|machine| machine.id).collect()
    }

    fn any_running(&mut self) -> Option<u64> {
        let running = self.running();
        self.random.pick(&running)
    }

    /// The leader of the newest term, as only an observer of the whole can know.
    fn leader(&self) -> Option<u64> {
        let leading = self.machines.values().filter_map(|machine| {
            let member = machine.member.as_ref()?;
            member.is_leader().then(|| (member.term(), machine.id))
        });
        leading.max().map(|(_, id)| id)
    }

    fn members_of(&self, id: u64) -> Vec<MemberInfo> {
        self.machines[&id].member.as_ref().map(|member| member.members()).unwrap_or_default()
    }

    /// Puts something into a running member's inbox.
    fn input(&mut self, id: u64, input: Input) {
        let Some(machine) = self.machines.get_mut(&id).filter(|machine| machine.member.is_some()) else {
            return;
        };
        machine.inbox.push(input);
        self.wake(id);
    }

    /// Asks a member for something, which names its outcome by a ticket.
    fn give(&mut self, id: u64, waiting: Waiting, input: impl FnOnce(Ticket) -> Input) {
        let machine = self.machine(id);
        if machine.member.is_none() {
            return;
        }
        let ticket = machine.ticket(waiting);
        self.input(id, input(ticket));
    }

    /// Has a member look into its inbox, unless it is about to.
    fn wake(&mut self, id: u64) {
        let now = self.now;
        let machine = self.machine(id);
        if machine.member.is_none() || machine.busy {
            return;
        }
        machine.busy = true;
        let (at, run) = (now.max(machine.paused_until), machine.run);
        self.queue.push(at, Happening::Work { member: id, run });
    }

    fn tick(&mut self, id: u64, run: u64) {
        let machine = &self.machines[&id];
        if machine.run != run || machine.member.is_none() {
            return;
        }
        let next = self.tick_ns(id) + self.now.max(machine.paused_until);
        self.queue.push(next, Happening::Tick { member: id, run });
        if self.now >= machine.paused_until {
            self.input(id, Input::Tick);
        }
        self.poll_watchers(id);
    }

    fn work(&mut self, id: u64, run: u64) {
        let now = self.now;
        let machine = self.machines.get_mut(&id).expect("a known machine");
        if machine.run != run {
            return;
        }
        if machine.paused_until > now {
            let at = machine.paused_until;
            self.queue.push(at, Happening::Work { member: id, run });
            return;
        }
        let clock = machine.clock(now);
        let Some(member) = &mut machine.member else { return };
        let inputs = std::mem::take(&mut machine.inbox);
        let mut outputs = Vec::new();
        member.step(clock, inputs, &mut |output| outputs.push(output));
        if member.needs_checkpoint() {
            // A checkpoint that fails leaves the log as it was; if the disk is broken, the log will say so.
            let _ = member.checkpoint();
        }
        let at = now + machine.step_ns(&mut self.random);
        self.queue.push(at, Happening::Finished { member: id, run, outputs });
        self.observe(id);
    }

    fn finished(&mut self, id: u64, run: u64, outputs: Vec<Output>) {
        let machine = self.machine(id);
        let crashed = machine.run != run || machine.member.is_none();
        if !crashed {
            machine.busy = false;
        }
        for output in outputs {
            // Of what a machine had to say when it died, some had left already.
            if !crashed || self.random.permille(500) {
                self.output(id, output, crashed);
            }
        }
        let machine = self.machine(id);
        let Some(member) = machine.member.as_ref().filter(|_| !crashed) else { return };
        if member.failure().is_some() {
            // As the real one, the process ends; whether the machine dies with it is chance.
            let power = self.random.permille(700);
            return self.stop(id, power, true);
        }
        if !machine.inbox.is_empty() {
            self.wake(id);
        }
        self.poll_watchers(id);
    }

    fn output(&mut self, from: u64, output: Output, crashed: bool) {
        match output {
            Output::Send { to, message } => {
                let mut delays = self.network.delays(from, to, &mut self.random);
                if delays.len() > 1 && !network::may_repeat(&message) {
                    delays.truncate(1);
                }
                for delay in delays {
                    let message = message.clone();
                    self.queue.push(self.now + delay, Happening::Message { to, message });
                }
            }
            Output::Snapshot(mut outgoing) => {
                let (to, message) = (outgoing.to(), outgoing.message().clone());
                let chunks: Vec<bytes::Bytes> = std::iter::from_fn(|| outgoing.next_chunk()).collect();
                self.stats.snapshots += 1;
                let delay = self.network.delays(from, to, &mut self.random).first().copied();
                match delay.filter(|_| outgoing.is_whole()) {
                    Some(delay) => {
                        let at = self.now + 10 * delay;
                        self.queue.push(at, Happening::Snapshot { from, to, message, chunks });
                    }
                    None => self.input(from, Input::SnapshotSent { to, delivered: false }),
                }
            }
            Output::Done { ticket, result } if !crashed => {
                if let Some(Waiting::Client { client, number }) = self.machine(from).waiting.remove(&ticket) {
                    self.done(from, client, number, result);
                }
            }
            Output::Removed if !crashed => {
                let after = self.random.below(change::RETIRE_NS_MAX);
                self.queue.push(self.now + after, Happening::Retire { member: from });
            }
            _ => {}
        }
    }

    fn snapshot(&mut self, from: u64, to: u64, message: member::PeerMessage, chunks: &[bytes::Bytes]) {
        let received = self.machines.get(&to).and_then(|machine| {
            let mut receiver = machine.member.as_ref()?.snapshot_receiver();
            for chunk in chunks {
                receiver.push(chunk).ok()?;
            }
            receiver.finish(message).ok()
        });
        let delivered = received.is_some();
        if let Some(received) = received {
            self.input(to, Input::Snapshot(Box::new(received)));
        }
        self.input(from, Input::SnapshotSent { to, delivered });
    }

    /// The range of all keys.
    fn everything() -> KeyRange {
        KeyRange { key: bytes::Bytes::from_static(&[0]), range_end: keys::FROM_KEY.into() }
    }

    /// Compares what a member has with what others had.
    fn observe(&mut self, id: u64) {
        let machine = self.machines.get_mut(&id).expect("a known machine");
        let Some(member) = &machine.member else { return };
        if member.is_leader() {
            let term = member.term();
            if term > self.newest_term {
                self.newest_term = term;
                self.stats.leaders += 1;
            }
            if let Err(found) = self.agreement.leads(id, term)
                && !self.options.only_clients
            {
                self.violations.push(found.into());
            }
        }
        if self.options.only_clients {
            return;
        }
        let state = member.state();
        let (index, term, revision) = (state.applied_index(), state.applied_term(), state.revision());
        if let Err(found) = self.agreement.applied(id, index, term, revision) {
            self.violations.push(found.into());
        }
        if revision <= machine.compared {
            return;
        }
        // What is older was compacted, and compared in others before.
        let from = (machine.compared + 1).max(state.compacted_revision() + 1);
        let batch = state.events(&World::everything(), Filters::default(), from, usize::MAX, usize::MAX);
        machine.compared = revision;
        for of_revision in batch.unwrap_or_default().events.chunk_by(|a, b| revision_of(a) == revision_of(b))
        {
            let revision = revision_of(&of_revision[0]);
            let slot = (revision - FIRST_REVISION - 1) as usize;
            match self.events.get(slot) {
                Some(known) if known[..] == *of_revision => {}
                None if slot == self.events.len() => self.events.push(of_revision.to_vec()),
                _ => {
                    self.violations.push(Disagreement::Events { revision, member: id }.into());
                    return;
                }
            }
        }
    }
}

fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}
