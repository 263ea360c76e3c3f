//! The write path on a simulated disk that crashes at any operation.
//!
//! A shadow state applies every command whose commit was answered. After each crash the recovered state must equal
//! the shadow, possibly with more of the batch that was under way: nothing acknowledged is lost, nothing refused
//! comes back, nothing is invented.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use isopod_kv::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
    TxnRequest,
};
use isopod_mvcc::{Command, Op, State};

use super::core::Core;
use crate::checkpoint;
use crate::config::Config;
use crate::error::OpenError;
use crate::storage::{Fault, SimStorage, Storage};
use crate::wal::AppendError;

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
    config: Config,
}

fn shadow(log: &[Command]) -> State {
    let mut state = State::default();
    for (index, command) in log.iter().enumerate() {
        state.apply(index as u64 + 1, 1, command.clone());
    }
    state
}

impl World {
    fn new(seed: u64) -> World {
        let config = Config { segment_bytes: 16 << 10, ..Config::new("sim") };
        World { storage: SimStorage::new(seed), log: Vec::new(), acknowledged: 0, leases: 0, config }
    }

    fn open(&mut self, seed: u64) -> Core {
        let storage: Arc<dyn Storage> = Arc::new(self.storage.clone());
        let core =
            Core::open(storage, &self.config, (7, 8)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        self.check(&core, seed);
        core
    }

    fn check(&mut self, core: &Core, seed: u64) {
        let state = core.shared.state.read();
        let index = state.applied_index() as usize;
        assert!(
            index >= self.acknowledged,
            "seed {seed}: {index} entries of {} acknowledged",
            self.acknowledged
        );
        assert!(index <= self.log.len(), "seed {seed}: an entry came from nowhere");
        self.log.truncate(index);
        self.acknowledged = index;
        let shadow = shadow(&self.log);
        assert_eq!(state.revision(), shadow.revision(), "seed {seed}");
        assert_eq!(state.compacted_revision(), shadow.compacted_revision(), "seed {seed}");
        assert_eq!(state.hash(0), shadow.hash(0), "seed {seed}");
        assert_eq!(state.key_count(), shadow.key_count(), "seed {seed}");
        assert!(state.leases().eq(shadow.leases()), "seed {seed}: leases differ");
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
            let state = core.shared.state.read();
            batch.push(self.command(&state));
        }
        self.log.extend(batch.iter().cloned());
        match core.commit(batch) {
            Ok(_) => self.acknowledged = self.log.len(),
            Err(AppendError::Full) => self.log.truncate(self.acknowledged),
            Err(AppendError::Failed(_)) => return false,
        }
        assert!(core.shared.state.read().applied_index() as usize == self.acknowledged, "seed {seed}");
        true
    }

    fn step(&mut self, core: &mut Core, seed: u64) -> bool {
        match self.random(12) {
            0 => {
                let stop = AtomicBool::new(false);
                let storage: Arc<dyn Storage> = Arc::new(self.storage.clone());
                match checkpoint::write(&storage, &core.shared.state, (7, 8), &stop) {
                    Ok(Some(written)) => {
                        // What fails here is only the removal of old files.
                        let _ = core.checkpointed(written);
                        true
                    }
                    _ => true,
                }
            }
            1 => {
                let left = self.random(4000);
                self.storage.set_fault(Some(Fault::Full { left }));
                let going = self.commit(core, seed);
                self.storage.set_fault(None);
                going
            }
            2 => {
                core.scrub(self.random(50));
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
            let storage: Arc<dyn Storage> = Arc::new(world.storage.clone());
            drop(Core::open(storage, &world.config, (7, 8)));
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
                let storage: Arc<dyn Storage> = Arc::new(world.storage.clone());
                let written =
                    checkpoint::write(&storage, &core.shared.state, (7, 8), &AtomicBool::new(false));
                core.checkpointed(written.unwrap().unwrap()).unwrap();
            }
        }
        drop(core);
        let names: Vec<String> = world.storage.list().unwrap();
        let name = &names[world.random(names.len())];
        let content = world.storage.content(name).unwrap();
        let length = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let at = world.storage.flip_bit(name, length).unwrap();
        let damaged = world.storage.content(name);
        let storage: Arc<dyn Storage> = Arc::new(world.storage.clone());
        match Core::open(storage, &world.config, (7, 8)) {
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
