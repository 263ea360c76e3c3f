//! Opening a member: checkpoint, log, and how much of the log is known to be committed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use isopod_kv::Member as Info;
use isopod_mvcc::{Command, State};
use raft::RawNode;
use raft::eraftpb::Entry;

use super::log::Log;
use super::membership::{Change, Membership};
use super::proposal::{Payload, Proposal};
use super::read::Reads;
use super::{Member, mix, ready, snapshot};
use crate::checkpoint::{self, Loaded, Written};
use crate::config::Config;
use crate::engine::{Compactor, Shared};
use crate::error::OpenError;
use crate::storage::Storage;
use crate::wal::{HardState, Item, Meta, Origin, Scan, Wal, WalOptions, read_all};

/// Position of the empty entry with which every group begins. Nobody ever sends it, so that whoever joins later is
/// brought the membership with a snapshot.
const FIRST: (u64, u64) = (1, 1);
/// Bytes of entries in an append; etcd's figure.
const APPEND_BYTES: u64 = 512 << 10;
/// Appends to a follower that may be unanswered; etcd's figure is 512, for messages of the same size.
const APPENDS_IN_FLIGHT: usize = 256;
/// Bytes of proposals that may wait for a majority, after which new ones are refused.
const UNCOMMITTED_BYTES: u64 = 128 << 20;

/// How a member begins that finds its storage empty.
#[derive(Clone, Debug)]
pub enum Bootstrap {
    /// As the only member of a new group.
    Alone {
        /// The group's ID.
        cluster_id: u64,
        /// The member's.
        member_id: u64,
    },
    /// As one of the members of a new group, all of which are given the same list.
    New {
        /// The group's ID.
        cluster_id: u64,
        /// The member's.
        member_id: u64,
        /// All members.
        members: Vec<Info>,
    },
    /// As a member that has been added to a group, and is to be told of everything by its leader.
    Join {
        /// The group's ID.
        cluster_id: u64,
        /// The member's.
        member_id: u64,
        /// Members to speak to.
        members: Vec<Info>,
    },
}

impl Member {
    /// Opens the member in a storage, or makes one there. `seed` is where all randomness comes from, and must be
    /// another one every time that a member is opened.
    ///
    /// # Errors
    /// The storage is unreadable, damaged, or of a newer version. Nothing in it is changed then.
    pub fn open(
        storage: Arc<dyn Storage>,
        config: Config,
        bootstrap: Bootstrap,
        seed: u64,
        now: Duration,
    ) -> Result<Member, OpenError> {
        let loaded = checkpoint::load(&storage)?;
        let mut replay = Replay::new(loaded, config.clone());
        let scan = read_all(&storage, &mut |item| replay.take(item))?;
        let options = WalOptions { segment_bytes: config.segment_bytes, fsync: config.fsync };
        let wal = match scan {
            Some(scan) => resume(&storage, options, scan, &mut replay)?,
            None if replay.checkpoint.index > 0 => {
                let path = storage.path("");
                return Err(OpenError::corrupt(path, 0, "there is a checkpoint but no log"));
            }
            None => create(&storage, options, bootstrap, &config, &mut replay)?,
        };
        replay
            .finish(wal.identity().1, wal.hard_state())
            .map_err(|reason| OpenError::corrupt(storage.path(""), 0, reason))?;
        snapshot::remove_leftovers(&storage);
        Ok(assemble(storage, config, wal, replay, seed, now))
    }
}

fn resume(
    storage: &Arc<dyn Storage>,
    options: WalOptions,
    scan: Scan,
    replay: &mut Replay,
) -> Result<Wal, OpenError> {
    let path = storage.path("");
    if replay.cluster_id.is_some_and(|id| id != scan.meta.cluster_id) {
        return Err(OpenError::corrupt(path, 0, "log and checkpoint belong to different clusters"));
    }
    let checkpoint = replay.checkpoint.index;
    // A snapshot that a crash has kept from replacing the log: it said so in the log before it got its name.
    let replaced = scan.installed == Some(checkpoint) && scan.last_index != replay.log.last();
    if scan.last_index < checkpoint && !replaced {
        return Err(OpenError::corrupt(path, 0, "the log ends before the checkpoint"));
    }
    let mut wal =
        Wal::resume(storage.clone(), options, scan).map_err(OpenError::io("open the log in", &path))?;
    if replaced {
        wal.begin_at(checkpoint + 1)
            .map_err(|error| OpenError::io("replace the log in", &path)(std::io::Error::other(error)))?;
    }
    Ok(wal)
}

fn create(
    storage: &Arc<dyn Storage>,
    options: WalOptions,
    bootstrap: Bootstrap,
    config: &Config,
    replay: &mut Replay,
) -> Result<Wal, OpenError> {
    let (cluster_id, member_id, members, joins) = match bootstrap {
        Bootstrap::Alone { cluster_id, member_id } => {
            (cluster_id, member_id, vec![own_info(config, member_id)], false)
        }
        Bootstrap::New { cluster_id, member_id, members } => (cluster_id, member_id, members, false),
        Bootstrap::Join { cluster_id, member_id, members } => (cluster_id, member_id, members, true),
    };
    let (first_index, term, commit) = if joins { (1, 0, 0) } else { (FIRST.0 + 1, FIRST.1, FIRST.0) };
    let origin = Some(Origin { members, joins });
    let meta = Meta { cluster_id, member_id, first_index, term, vote: 0, commit, origin };
    replay.begin(&meta);
    Wal::create(storage.clone(), options, meta).map_err(OpenError::io("open the log in", storage.path("")))
}

/// What the configuration says of this member.
pub(super) fn own_info(config: &Config, id: u64) -> Info {
    Info {
        id,
        name: config.name.clone(),
        peer_urls: config.peer_urls.clone(),
        client_urls: config.client_urls.clone(),
        is_learner: false,
    }
}

/// State and log as they are read.
struct Replay {
    config: Config,
    state: State,
    membership: Option<Membership>,
    log: Log,
    checkpoint: Written,
    cluster_id: Option<u64>,
    began: bool,
}

impl Replay {
    fn new(loaded: Option<Loaded>, config: Config) -> Replay {
        let cluster_id = loaded.as_ref().map(|loaded| loaded.cluster_id);
        let bytes = loaded.as_ref().map_or(0, |loaded| loaded.bytes);
        let (state, membership) =
            loaded.map_or((State::default(), None), |loaded| (loaded.state, loaded.membership));
        let base = (state.applied_index(), state.applied_term());
        let checkpoint = Written { index: base.0, bytes };
        let began = base.0 > 0;
        let log = Log::new(base, Default::default());
        Replay { config, state, membership, log, checkpoint, cluster_id, began }
    }

    /// Begins with how the group began, where there is no checkpoint.
    fn begin(&mut self, meta: &Meta) {
        if self.began {
            return;
        }
        self.began = true;
        let Some(origin) = &meta.origin else { return };
        self.membership = Some(Membership::new(origin.members.iter().cloned()));
        if !origin.joins {
            self.state.apply(FIRST.0, FIRST.1, Command::default());
            self.log.reset(FIRST);
        }
    }

    fn take(&mut self, item: Item) -> Result<(), String> {
        match item {
            Item::Begin(meta) => self.begin(&meta),
            Item::Install(index) if index == self.checkpoint.index => self.reset(),
            Item::Install(_) => {}
            // It has replaced whatever came after it.
            Item::Entry(entry) if entry.index < self.log.first() => self.reset(),
            Item::Entry(entry) if entry.index > self.log.last() + 1 => {
                return Err(format!("entries between the checkpoint and {} are missing", entry.index));
            }
            Item::Entry(entry) => self.log.append([entry]),
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.log.reset((self.state.applied_index(), self.state.applied_term()));
    }

    /// Applies what is known to be committed.
    fn finish(&mut self, id: u64, hard: HardState) -> Result<(), String> {
        let config = &self.config;
        // A log of the first version belongs to the only member of its group.
        let membership = self.membership.get_or_insert_with(|| Membership::new([own_info(config, id)]));
        loop {
            let index = self.state.applied_index() + 1;
            let Some(entry) = self.log.get(index) else { break };
            // What the only voter has on disk is committed.
            let decisive =
                membership.voters().all(|voter| voter.id == id) && membership.voters().count() == 1;
            if index > hard.commit && !decisive {
                break;
            }
            apply(&mut self.state, membership, entry)?;
        }
        while self.state.scrub(usize::MAX) {}
        self.log.set_applied(self.state.applied_index(), self.state.applied_term());
        self.log.set_conf(match self.state.applied_index() {
            // A member that joins knows whom to speak to, but not yet who decides.
            0 if self.log.last() == 0 && !membership.is_alone(id) => Default::default(),
            _ => membership.conf_state(),
        });
        let commit = hard.commit.clamp(self.state.applied_index(), self.log.last());
        let term = hard.term.max(self.state.applied_term());
        let vote = if term == hard.term { hard.vote } else { 0 };
        self.log.set_hard_state(HardState { term, vote, commit });
        Ok(())
    }
}

/// Applies an entry while nobody looks on.
fn apply(state: &mut State, membership: &mut Membership, entry: &Entry) -> Result<(), String> {
    let command = match super::apply::content(entry)? {
        None => Command::default(),
        Some(Proposal { payload: Payload::Command(command), .. }) => command,
        Some(Proposal { payload: Payload::Change(change), .. }) => {
            let change: Change = change.change.ok_or("the change of membership is empty")?;
            if membership.check(&change).is_ok() {
                membership.apply(change);
            }
            Command::default()
        }
    };
    state.apply(entry.index, entry.term, command);
    state.scrub(usize::MAX);
    Ok(())
}

fn assemble(
    storage: Arc<dyn Storage>,
    config: Config,
    wal: Wal,
    replay: Replay,
    seed: u64,
    now: Duration,
) -> Member {
    let Replay { state, membership, mut log, checkpoint, .. } = replay;
    let membership = membership.expect("set when the replay was finished");
    let identity = wal.identity();
    let id = identity.1;
    if membership.is_alone(id) {
        log.trim(0, 0, u64::MAX);
    }
    let removed = membership.is_removed(id).then_some(0);
    let settings = raft::Config {
        id,
        election_tick: config.election_ticks(),
        heartbeat_tick: 1,
        applied: state.applied_index(),
        max_size_per_msg: APPEND_BYTES,
        max_inflight_msgs: APPENDS_IN_FLIGHT,
        check_quorum: true,
        pre_vote: config.pre_vote,
        max_uncommitted_size: UNCOMMITTED_BYTES,
        ..raft::Config::default()
    };
    let raft = RawNode::new(&settings, log, &ready::logger())
        .expect("the settings are constants and the configuration is validated");
    let compactor = Compactor::new(config.auto_compaction);
    let shared = Arc::new(Shared::new(state, membership, identity, config));
    shared.set_leader(0, raft.raft.term);
    let mut member = Member {
        storage,
        shared,
        raft,
        wal,
        id,
        written: 0,
        unwritten: None,
        incoming: None,
        failed: None,
        seed,
        now,
        ticks: 0,
        campaigns: 0,
        next_sequence: mix(seed),
        pending: BTreeMap::new(),
        unsent: VecDeque::new(),
        refused: Vec::new(),
        questions: BTreeMap::new(),
        reads: Reads::default(),
        moving: None,
        heard: BTreeMap::new(),
        compactor,
        told: (0, 0),
        leader_since: now,
        removed,
        last_checkpoint: checkpoint,
    };
    member.set_election_timeout();
    member.publish();
    member
}
