//! The write path on a simulated disk that crashes at any operation.
//!
//! A shadow state applies every command whose commit was answered. After each crash the recovered state must equal
//! the shadow, possibly with more of the batch that was under way: nothing acknowledged is lost, nothing refused
//! comes back, nothing is invented.

use std::sync::Arc;
use std::time::Duration;

use isopod_kv::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
    TxnRequest,
};
use isopod_mvcc::{Command, Op, State};

use crate::config::Config;
use crate::error::OpenError;
use crate::member::{Bootstrap, Input, Member, Output};
use crate::storage::{Fault, SimStorage, Storage};

/// Seeds run by the test; each is several crashes.
const SEEDS: u64 = 100;
const CRASHES: usize = 6;
const STEPS: usize = 25;

struct World {
    storage: SimStorage,
    /// All commands that are in the log, as far as known.
    log: Vec<Command>,
    /// How many of them were answered.
    acknowledged: usize,
    leases: i64,
    /// Openings so far: each has a seed of its own.
    openings: u64,
    config: Config,
}

fn shadow(log: &[Command]) -> State {
    let mut state = State::default();
    for (index, command) in log.iter().enumerate() {
        state.apply(index as u64 + 1, 1, command.clone());
    }
    state
}

/// A member, and how many commands of the test's it has applied: its log also holds the empty entries with which it
/// began each term.
struct Core {
    member: Member,
    applied: usize,
}

enum Committed {
    Yes,
    Full,
    Failed,
}

impl Core {
    fn commit(&mut self, batch: Vec<Command>) -> Committed {
        let count = batch.len();
        let inputs =
            (0u64..).zip(batch).map(|(ticket, command)| Input::Propose { ticket, command }).collect();
        let (mut full, mut failed) = (0, 0);
        self.member.step(Duration::ZERO, inputs, &mut |output| {
            if let Output::Done { result: Err(error), .. } = output {
                match error {
                    isopod_kv::Error::NoSpace => full += 1,
                    error if error.is_unavailable() => failed += 1,
                    // Applied and refused: an outcome like any other.
                    _ => {}
                }
            }
        });
        match (full, failed) {
            (0, 0) => {
                self.applied += count;
                Committed::Yes
            }
            (full, 0) => {
                assert_eq!(full, count, "a batch is refused whole");
                Committed::Full
            }
            _ => Committed::Failed,
        }
    }
}

impl World {
    fn new(seed: u64) -> World {
        let config = Config { segment_bytes: 16 << 10, ..Config::new("sim") };
        World {
            storage: SimStorage::new(seed),
            log: Vec::new(),
            acknowledged: 0,
            leases: 0,
            openings: 0,
            config,
        }
    }

    fn try_open(&mut self, seed: u64) -> Result<Member, OpenError> {
        self.openings += 1;
        let storage: Arc<dyn Storage> = Arc::new(self.storage.clone());
        let bootstrap = Bootstrap::Alone { cluster_id: 7, member_id: 8 };
        let seed = (seed << 16) | self.openings;
        let mut member = Member::open(storage, self.config.clone(), bootstrap, seed, Duration::ZERO)?;
        member.step(Duration::ZERO, Vec::new(), &mut |_| {});
        Ok(member)
    }

    fn open(&mut self, seed: u64) -> Core {
        let member = self.try_open(seed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(member.is_leader(), "seed {seed}: a group of one leads itself");
        let applied = self.check(&member, seed);
        Core { member, applied }
    }

    /// Finds how much of the log the member has, and that it has exactly that.
    fn check(&mut self, member: &Member, seed: u64) -> usize {
        let state = member.state();
        let same = |log: &[Command]| {
            let shadow = shadow(log);
            state.revision() == shadow.revision()
                && state.compacted_revision() == shadow.compacted_revision()
                && state.hash(0) == shadow.hash(0)
                && state.key_count() == shadow.key_count()
                && state.leases().eq(shadow.leases())
        };
        let found = (self.acknowledged..=self.log.len()).find(|count| same(&self.log[..*count]));
        let found = found.unwrap_or_else(|| {
            panic!("seed {seed}: something of {} acknowledged commands is lost", self.acknowledged)
        });
        self.log.truncate(found);
        self.acknowledged = found;
        found
    }

    fn random(&self, below: usize) -> usize {
        self.storage.random(below)
    }

    fn command(&mut self, state: &State) -> Command {
        let key = format!("/k/{}", self.random(20));
        let value = vec![self.random(256) as u8; self.random(3000)];
        let lease = if self.leases > 0 && self.random(3) == 0 {
            1 + self.random(self.leases as usize) as i64
        } else {
            0
        };
        let op = match self.random(12) {
            0 => Op::DeleteRange(DeleteRangeRequest::key(key)),
            1 => Op::DeleteRange(DeleteRangeRequest::prefix("/k/1")),
            2 => {
                let revision = state.revision() - self.random(10) as i64;
                Op::Compact(CompactionRequest { revision, physical: false })
            }
            3 => {
                self.leases += 1;
                Op::LeaseGrant(LeaseGrantRequest { id: self.leases, ttl: 100 })
            }
            4 if self.leases > 0 => {
                let id = 1 + self.random(self.leases as usize) as i64;
                Op::LeaseRevoke(LeaseRevokeRequest { id })
            }
            5 => Op::Txn(TxnRequest::new(
                vec![Compare::mod_revision_is(key.clone(), 0)],
                vec![PutRequest::new(key, value).into()],
                vec![DeleteRangeRequest::key(key_of(self)).into()],
            )),
            _ => Op::Put(PutRequest { lease, ..PutRequest::new(key, value) }),
        };
        op.into()
    }

    /// Commits a batch; false if the log takes nothing more.
    fn commit(&mut self, core: &mut Core, seed: u64) -> bool {
        let mut batch = Vec::new();
        for _ in 0..1 + self.random(4) {
            let state = core.member.state();
            batch.push(self.command(&state));
        }
        self.log.extend(batch.iter().cloned());
        match core.commit(batch) {
            Committed::Yes => self.acknowledged = self.log.len(),
            Committed::Full => self.log.truncate(self.acknowledged),
            Committed::Failed => return false,
        }
        assert_eq!(core.applied, self.acknowledged, "seed {seed}");
        true
    }

    fn step(&mut self, core: &mut Core, seed: u64) -> bool {
        match self.random(12) {
            0 => {
                // The log is kept when it fails.
                let _ = core.member.checkpoint();
                true
            }
            1 => {
                let left = self.random(4000);
                self.storage.set_fault(Some(Fault::Full { left }));
                let going = self.commit(core, seed);
                self.storage.set_fault(None);
                going
            }
            2 => {
                core.member.scrub(self.random(50));
                true
            }
            _ => self.commit(core, seed),
        }
    }
}

fn key_of(world: &World) -> String {
    format!("/k/{}", world.random(20))
}

fn run(seed: u64, fsync: bool) {
    let mut world = World::new(seed);
    world.config.fsync = fsync;
    for _ in 0..CRASHES {
        let mut core = world.open(seed);
        let steps = world.random(STEPS);
        for step in 0..STEPS {
            if step == steps {
                let fault = match world.random(4) {
                    0 => Fault::SyncFails,
                    _ => Fault::Dies { after: world.random(12) },
                };
                world.storage.set_fault(Some(fault));
            }
            if !world.step(&mut core, seed) {
                break;
            }
        }
        drop(core);
        world.storage.crash();
    }
    world.open(seed);
}

#[test]
fn nothing_acknowledged_is_lost_whenever_the_machine_dies() {
    for seed in 0..SEEDS {
        run(seed, true);
    }
}

/// The checker itself: a store that answers before it syncs must be caught.
#[test]
#[should_panic(expected = "seed")]
fn a_store_that_does_not_sync_is_caught() {
    for seed in 0..SEEDS {
        run(seed, false);
    }
}

/// Death while the store is opened, which writes too.
#[test]
fn a_crash_during_recovery_loses_nothing() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        let mut core = world.open(seed);
        for _ in 0..10 {
            assert!(world.commit(&mut core, seed));
        }
        world.storage.set_fault(Some(Fault::SyncFails));
        world.commit(&mut core, seed);
        drop(core);
        world.storage.crash();
        for after in 0..4 {
            world.storage.set_fault(Some(Fault::Dies { after }));
            drop(world.try_open(seed));
            world.storage.crash();
        }
        world.open(seed);
    }
}

#[test]
fn a_flipped_bit_is_found_named_and_left_alone() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        let mut core = world.open(seed);
        for step in 0..20 {
            assert!(world.commit(&mut core, seed));
            if step == 10 && seed % 2 == 0 {
                core.member.checkpoint().unwrap();
            }
        }
        drop(core);
        let names: Vec<String> = world.storage.list().unwrap();
        let name = &names[world.random(names.len())];
        let content = world.storage.content(name).unwrap();
        let length = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let at = world.storage.flip_bit(name, length).unwrap();
        let damaged = world.storage.content(name);
        match world.try_open(seed) {
            Err(OpenError::Corrupt { file, offset, .. }) => {
                assert_eq!(file, format!("sim/{name}"), "seed {seed}");
                assert!(offset as usize <= at, "seed {seed}: {offset} is beyond the damage at {at}");
            }
            Err(error) => panic!("seed {seed}: {error}"),
            Ok(_) => panic!("seed {seed}: bit at {at} of {name} went unnoticed"),
        }
        assert_eq!(world.storage.content(name), damaged, "seed {seed}: the file was changed");
    }
}
