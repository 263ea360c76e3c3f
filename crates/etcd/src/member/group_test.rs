//! Groups of members in one thread: messages through a queue, time by hand, disks that crash.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isopod_kv::{CompactionRequest, Error, PutRequest, RangeRequest, WatchCreateRequest};
use isopod_mvcc::{Command, Op};

use super::{
    Bootstrap, Change, Input, Member, MemberInfo, Outcome, Output, PeerMessage, Ticket, cluster_id, member_id,
};
use crate::config::Config;
use crate::engine::{Step, Watcher};
use crate::storage::{SimStorage, Storage};

mod leases;

const TICK: Duration = Duration::from_millis(100);
/// Far more than any election takes.
const PATIENCE: usize = 200;

enum Packet {
    Message(Bytes),
    Snapshot(PeerMessage, Vec<Bytes>),
}

struct Group {
    members: BTreeMap<u64, Member>,
    storages: BTreeMap<u64, SimStorage>,
    infos: Vec<MemberInfo>,
    config: Config,
    network: VecDeque<(u64, u64, Packet)>,
    /// Members that hear nobody and are heard by nobody.
    cut: BTreeSet<u64>,
    now: Duration,
    done: BTreeMap<Ticket, Result<Outcome, Error>>,
    removed: BTreeSet<u64>,
    snapshots: usize,
    next_ticket: Ticket,
    openings: u64,
    seed: u64,
    trace: Vec<String>,
}

fn info(n: u64) -> MemberInfo {
    let peer_urls = vec![format!("http://h{n}:2380")];
    MemberInfo {
        id: member_id(&peer_urls, "test"),
        name: format!("m{n}"),
        peer_urls,
        ..MemberInfo::default()
    }
}

impl Group {
    fn new(count: u64, seed: u64) -> Group {
        let infos: Vec<MemberInfo> = (1..=count).map(info).collect();
        let config = Config { catch_up_entries: 20, segment_bytes: 16 << 10, ..Config::new("sim") };
        let mut group = Group {
            members: BTreeMap::new(),
            storages: BTreeMap::new(),
            infos: infos.clone(),
            config,
            network: VecDeque::new(),
            cut: BTreeSet::new(),
            now: Duration::ZERO,
            done: BTreeMap::new(),
            removed: BTreeSet::new(),
            snapshots: 0,
            next_ticket: 0,
            openings: 0,
            seed,
            trace: Vec::new(),
        };
        for info in &infos {
            group.storages.insert(info.id, SimStorage::new(seed ^ info.id));
            group.start(info.id);
        }
        group
    }

    fn ids(&self) -> Vec<u64> {
        self.infos.iter().map(|info| info.id).collect()
    }

    fn start(&mut self, id: u64) {
        let ids: Vec<u64> = self.ids();
        let bootstrap =
            Bootstrap::New { cluster_id: cluster_id(&ids), member_id: id, members: self.infos.clone() };
        self.open(id, bootstrap);
    }

    fn open(&mut self, id: u64, bootstrap: Bootstrap) {
        self.openings += 1;
        let storage: Arc<dyn Storage> = Arc::new(self.storages[&id].clone());
        let name = self.infos.iter().find(|info| info.id == id).map(|info| info.name.clone());
        let config = Config { name: name.unwrap_or_else(|| "new".to_owned()), ..self.config.clone() };
        let seed = self.seed.wrapping_mul(1000) + self.openings;
        let member = Member::open(storage, config, bootstrap, seed, self.now).unwrap();
        self.members.insert(id, member);
    }

    fn crash(&mut self, id: u64) {
        self.members.remove(&id);
        self.storages[&id].crash();
        self.network.retain(|(from, to, _)| *from != id && *to != id);
    }

    fn step(&mut self, id: u64, inputs: Vec<Input>) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let mut outputs = Vec::new();
        member.step(self.now, inputs, &mut |output| outputs.push(output));
        for output in outputs {
            match output {
                Output::Send { to, message } => {
                    assert_eq!(message.from(), id);
                    self.network.push_back((id, to, Packet::Message(message.encode())));
                }
                Output::Snapshot(mut snapshot) => {
                    let chunks = std::iter::from_fn(|| snapshot.next_chunk()).collect();
                    assert!(snapshot.is_whole());
                    self.snapshots += 1;
                    let packet = Packet::Snapshot(snapshot.message().clone(), chunks);
                    self.network.push_back((id, snapshot.to(), packet));
                }
                Output::Done { ticket, result } => {
                    self.trace.push(format!("{:?} {ticket} {result:?}", self.now));
                    assert!(self.done.insert(ticket, result).is_none(), "answered twice");
                }
                Output::Leader { leader, term } => {
                    self.trace.push(format!("{:?} {id:x} {leader:x} {term}", self.now));
                }
                Output::Removed => {
                    self.removed.insert(id);
                }
                Output::Membership => {}
            }
        }
    }

    /// Delivers what is under way, and what comes of it.
    fn deliver(&mut self) {
        while let Some((from, to, packet)) = self.network.pop_front() {
            let lost = self.cut.contains(&from) || self.cut.contains(&to) || !self.members.contains_key(&to);
            match packet {
                Packet::Message(_) if lost => self.step(from, vec![Input::Unreachable { peer: to }]),
                Packet::Message(bytes) => {
                    let message = PeerMessage::decode(bytes).unwrap();
                    self.step(to, vec![Input::Message(message)]);
                }
                Packet::Snapshot(message, chunks) => {
                    if !lost {
                        let mut receiver = self.members[&to].snapshot_receiver();
                        chunks.iter().for_each(|chunk| receiver.push(chunk).unwrap());
                        let snapshot = receiver.finish(message).unwrap();
                        self.step(to, vec![Input::Snapshot(Box::new(snapshot))]);
                    }
                    self.step(from, vec![Input::SnapshotSent { to, delivered: !lost }]);
                }
            }
        }
    }

    fn tick(&mut self) {
        self.now += TICK;
        let ids: Vec<u64> = self.members.keys().copied().collect();
        for id in ids {
            self.step(id, vec![Input::Tick]);
        }
        self.deliver();
    }

    fn until(&mut self, what: &str, holds: impl Fn(&Group) -> bool) {
        for _ in 0..PATIENCE {
            if holds(self) {
                return;
            }
            self.tick();
        }
        panic!("seed {}: never {what}", self.seed);
    }

    /// A leader that a majority of those that are not cut off agrees on.
    fn leader(&mut self) -> u64 {
        fn find(group: &Group) -> Option<u64> {
            let connected = |id: &u64| !group.cut.contains(id);
            let votes: Vec<u64> =
                group.members.iter().filter(|(id, _)| connected(id)).map(|(_, m)| m.leader()).collect();
            let leader = *votes.first()?;
            let leads = group.members.get(&leader).is_some_and(Member::is_leader);
            let agreed = leads && connected(&leader) && votes.iter().all(|vote| *vote == leader);
            agreed.then_some(leader)
        }
        self.until("a leader", |group| find(group).is_some());
        find(self).unwrap()
    }

    fn follower(&mut self) -> u64 {
        let leader = self.leader();
        self.ids().into_iter().find(|id| *id != leader && self.members.contains_key(id)).unwrap()
    }

    fn begin(&mut self, id: u64, input: impl FnOnce(Ticket) -> Input) -> Ticket {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        self.step(id, vec![input(ticket)]);
        ticket
    }

    fn ask(&mut self, id: u64, input: impl FnOnce(Ticket) -> Input) -> Result<Outcome, Error> {
        let ticket = self.begin(id, input);
        self.deliver();
        self.until("an answer", |group| group.done.contains_key(&ticket));
        self.done[&ticket].clone()
    }

    fn propose(&mut self, id: u64, op: Op) -> Result<Outcome, Error> {
        let command = Command::from(op);
        self.ask(id, |ticket| Input::Propose { ticket, command })
    }

    fn put(&mut self, id: u64, key: &str, value: &str) -> Result<Outcome, Error> {
        self.propose(id, Op::Put(PutRequest::new(key.to_owned(), value.to_owned())))
    }

    fn change(&mut self, id: u64, change: Change) -> Result<Outcome, Error> {
        self.ask(id, |ticket| Input::Change { ticket, change })
    }

    fn value(&self, id: u64, key: &str) -> Option<String> {
        let response = self.members[&id].state().range(&RangeRequest::key(key.to_owned())).unwrap();
        response.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned())
    }

    /// Everybody has applied the same.
    fn agree(&mut self) {
        fn same(group: &Group) -> bool {
            let mut positions = group.members.values().map(|member| {
                let state = member.state();
                (state.applied_index(), state.revision(), state.hash(0).ok(), member.members())
            });
            let first = positions.next();
            positions.all(|position| Some(position) == first)
        }
        self.until("agreement", same);
    }
}

#[test]
fn any_member_takes_writes_and_all_apply_the_same() {
    for count in [3, 5] {
        let mut group = Group::new(count, 1);
        group.leader();
        for (n, id) in group.ids().into_iter().enumerate() {
            group.put(id, &format!("k{n}"), "v").unwrap();
            assert_eq!(
                group.value(id, &format!("k{n}")).as_deref(),
                Some("v"),
                "a client sees its own write"
            );
        }
        group.agree();
        assert_eq!(group.members.values().next().unwrap().state().revision(), 1 + count as i64);
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed| {
        let mut group = Group::new(5, seed);
        let leader = group.leader();
        group.put(leader, "a", "1").unwrap();
        group.cut.insert(leader);
        let other = group.leader();
        group.put(other, "a", "2").unwrap();
        group.cut.clear();
        group.agree();
        group.trace
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn a_lost_leader_is_replaced_and_its_uncommitted_tail_goes() {
    let mut group = Group::new(3, 2);
    let old = group.leader();
    group.put(old, "a", "1").unwrap();
    group.cut.insert(old);
    // It believes to lead, but nobody hears it.
    let lost = Command::from(Op::Put(PutRequest::new("a", "lost")));
    let lost = group.begin(old, |ticket| Input::Propose { ticket, command: lost });
    let read = group.begin(old, |ticket| Input::Read { ticket });
    let new = group.leader();
    assert_ne!(new, old);
    group.put(new, "a", "2").unwrap();
    group.until("it steps down", |group| !group.members[&old].is_leader());
    assert!(!group.done.contains_key(&read), "a leader that is none serves no linearizable read");
    assert_eq!(group.value(old, "a").as_deref(), Some("1"));
    // With a crash, what is replaced is replaced on disk.
    group.crash(old);
    group.start(old);
    group.cut.clear();
    group.agree();
    group.crash(old);
    group.start(old);
    group.agree();
    for id in group.ids() {
        assert_eq!(group.value(id, "a").as_deref(), Some("2"));
    }
    assert!(!group.done.contains_key(&lost), "nobody was told that it was written");
}

#[test]
fn a_majority_lost_refuses_writes_in_time_and_all_restart_together() {
    let mut group = Group::new(3, 3);
    let leader = group.leader();
    group.put(leader, "a", "1").unwrap();
    let ids = group.ids();
    ids.iter().filter(|id| **id != leader).for_each(|id| group.crash(*id));
    let result = group.put(leader, "a", "2");
    assert!(matches!(result, Err(Error::Timeout)), "{result:?}");
    group.crash(leader);
    ids.iter().for_each(|id| group.start(*id));
    let leader = group.leader();
    assert!(matches!(group.ask(leader, |ticket| Input::Read { ticket }), Ok(Outcome::Read)));
    assert!(group.value(leader, "a").is_some());
    group.put(leader, "a", "3").unwrap();
    group.agree();
}

#[test]
fn reads_on_followers_see_what_was_acknowledged() {
    let mut group = Group::new(3, 4);
    let (leader, follower) = (group.leader(), group.follower());
    for n in 0..20 {
        group.put(leader, "a", &n.to_string()).unwrap();
        assert_eq!(group.ask(follower, |ticket| Input::Read { ticket }), Ok(Outcome::Read));
        assert_eq!(group.value(follower, "a"), Some(n.to_string()));
    }
    let log = group.members[&leader].commit_index();
    group.ask(follower, |ticket| Input::Read { ticket }).unwrap();
    assert_eq!(group.members[&leader].commit_index(), log, "reads write nothing");
}

#[test]
fn who_fell_behind_is_brought_a_snapshot() {
    let mut group = Group::new(3, 5);
    let (leader, follower) = (group.leader(), group.follower());
    group.put(leader, "a", "1").unwrap();
    group.agree();
    let watched = WatchCreateRequest::key("a", 0);
    let (mut watcher, _) = Watcher::new(&group.members[&follower].shared, &watched);
    assert!(matches!(watcher.step(), Step::Idle { .. }));
    group.cut.insert(follower);
    for n in 0..100 {
        group.put(leader, "a", &n.to_string()).unwrap();
    }
    group.members.get_mut(&leader).unwrap().checkpoint().unwrap();
    group.cut.clear();
    group.agree();
    assert!(group.snapshots > 0);
    // A watch goes on over it, event by event.
    let Step::Events { events, .. } = watcher.step() else { panic!("events") };
    assert_eq!(events.len(), 100);
    drop(watcher);
    // It has a log of its own again, and it may crash.
    group.put(follower, "b", "1").unwrap();
    group.crash(follower);
    group.start(follower);
    group.agree();
    assert_eq!(group.value(follower, "a").as_deref(), Some("99"));
}

#[test]
fn a_watch_that_history_has_left_behind_is_told_so() {
    let mut group = Group::new(3, 6);
    let (leader, follower) = (group.leader(), group.follower());
    group.put(leader, "a", "1").unwrap();
    group.agree();
    let (mut watcher, _) = Watcher::new(&group.members[&follower].shared, &WatchCreateRequest::key("a", 0));
    watcher.step();
    group.cut.insert(follower);
    for n in 0..100 {
        group.put(leader, "a", &n.to_string()).unwrap();
    }
    group.propose(leader, Op::Compact(CompactionRequest { revision: 50, physical: true })).unwrap();
    group.cut.clear();
    group.agree();
    assert!(matches!(watcher.step(), Step::Compacted(50)));
}

#[test]
fn members_come_learn_vote_and_go() {
    let mut group = Group::new(3, 7);
    let leader = group.leader();
    for n in 0..60 {
        group.put(leader, "a", &n.to_string()).unwrap();
    }
    group.until("names", |group| {
        group.members.values().all(|member| member.members().iter().all(|info| !info.name.is_empty()))
    });
    let new = info(4);
    let learner = MemberInfo { name: String::new(), is_learner: true, ..new.clone() };
    // Asked of a follower: the leader decides.
    let follower = group.follower();
    let Ok(Outcome::Members(members)) = group.change(follower, Change::Add(learner.clone())) else {
        panic!("a learner is added")
    };
    assert_eq!(members.len(), 4);
    assert_eq!(group.change(follower, Change::Promote(new.id)), Err(Error::LearnerNotReady));
    // With a member silent, another voter could cost the majority.
    group.cut.insert(follower);
    (0..30).for_each(|_| group.tick());
    let voter = Change::Add(MemberInfo { id: 99, ..info(5) });
    assert_eq!(group.change(leader, voter), Err(Error::Unhealthy));
    group.cut.clear();
    (0..30).for_each(|_| group.tick());
    group.storages.insert(new.id, SimStorage::new(99));
    let cluster_id = cluster_id(&group.ids());
    group.open(new.id, Bootstrap::Join { cluster_id, member_id: new.id, members });
    group.agree();
    assert_eq!(group.value(new.id, "a").as_deref(), Some("59"));
    assert!(matches!(group.change(follower, Change::Promote(new.id)), Ok(Outcome::Members(_))));
    group.agree();
    // It counts now: with one of four gone, three are a majority; it can also lead.
    assert_eq!(group.ask(leader, |ticket| Input::MoveLeader { ticket, target: new.id }), Ok(Outcome::Moved));
    assert_eq!(group.leader(), new.id);
    group.put(new.id, "a", "60").unwrap();
    // The leader removes itself, hands on what it has, and is gone; also for the next start.
    assert!(matches!(group.change(new.id, Change::Remove(new.id)), Ok(Outcome::Members(_))));
    group.until("it is gone", |group| group.removed.contains(&new.id));
    let gone = group.members.remove(&new.id).unwrap();
    drop(gone);
    let leader = group.leader();
    group.put(leader, "a", "61").unwrap();
    group.agree();
    assert_eq!(group.members[&leader].members().len(), 3);
    assert_eq!(group.change(leader, Change::Add(new.clone())).unwrap_err(), Error::MemberNotFound);
}

#[test]
fn one_becomes_three() {
    let mut group = Group::new(1, 8);
    let first = group.ids()[0];
    group.put(first, "a", "1").unwrap();
    assert!(!group.members[&first].needs_ticks(), "alone it sleeps");
    let cluster_id = group.members[&first].cluster_id();
    for n in [2, 3] {
        let new = info(n);
        let unnamed = MemberInfo { name: String::new(), ..new.clone() };
        let ticket = group.begin(first, |ticket| Input::Change { ticket, change: Change::Add(unnamed) });
        group.deliver();
        let members = group.members[&first].members();
        group.storages.insert(new.id, SimStorage::new(n));
        group.infos.push(new.clone());
        group.open(new.id, Bootstrap::Join { cluster_id, member_id: new.id, members });
        group.until("added", |group| group.done.contains_key(&ticket));
        group.agree();
        group
            .until("named", |group| group.members[&first].members().iter().all(|info| !info.name.is_empty()));
    }
    for id in group.ids() {
        group.put(id, "a", "2").unwrap();
        group.crash(id);
        group.start(id);
        group.leader();
    }
    group.agree();
}

/// Writers that are told what became of their writes, while members crash and are cut off.
#[test]
fn nothing_acknowledged_is_lost_whatever_crashes() {
    for seed in 0..40 {
        let mut group = Group::new(3, seed);
        let random = SimStorage::new(seed);
        let mut asked: BTreeMap<Ticket, String> = BTreeMap::new();
        let mut written = 0;
        for _ in 0..150 {
            let ids = group.ids();
            let id = ids[random.random(ids.len())];
            match random.random(20) {
                0 if group.members.len() == 3 => group.crash(id),
                1 => {
                    group.cut.insert(id);
                }
                2 | 3 => group.cut.clear(),
                4 | 5 if !group.members.contains_key(&id) => group.start(id),
                6 => {
                    if let Some(member) = group.members.get_mut(&id) {
                        member.checkpoint().unwrap();
                    }
                }
                _ if group.members.contains_key(&id) => {
                    written += 1;
                    let key = format!("k{written}");
                    let command = Command::from(Op::Put(PutRequest::new(key.clone(), "v")));
                    let ticket = group.begin(id, |ticket| Input::Propose { ticket, command });
                    asked.insert(ticket, key);
                }
                _ => {}
            }
            match random.random(3) {
                0 => group.deliver(),
                _ => group.tick(),
            }
        }
        group.cut.clear();
        for id in group.ids() {
            if !group.members.contains_key(&id) {
                group.start(id);
            }
        }
        let leader = group.leader();
        group.put(leader, "last", "v").unwrap();
        group.agree();
        let acknowledged = group.done.iter().filter(|(_, result)| result.is_ok()).count();
        assert!(acknowledged > 20, "seed {seed}: {acknowledged}");
        for (ticket, key) in &asked {
            let found = group.value(leader, key).is_some();
            if let Some(Ok(_)) = group.done.get(ticket) {
                assert!(found, "seed {seed}: {key} was acknowledged");
            }
        }
        let state = group.members[&leader].state();
        let all = state.range(&RangeRequest::prefix("k")).unwrap();
        assert!(all.kvs.iter().all(|kv| kv.version == 1), "seed {seed}: something was written twice");
    }
}

/// Whatever bytes a peer sends, a member stays.
#[test]
fn rubbish_from_a_peer_ends_nobody() {
    let mut group = Group::new(3, 10);
    let leader = group.leader();
    group.put(leader, "a", "1").unwrap();
    let random = SimStorage::new(1);
    // Messages as they are said, with bits changed.
    let mut said = Vec::new();
    for n in 0..30 {
        group.now += TICK;
        for id in group.ids() {
            group.step(id, vec![Input::Tick]);
        }
        let command = Command::from(Op::Put(PutRequest::new("a", n.to_string())));
        group.begin(leader, |ticket| Input::Propose { ticket, command });
        while let Some((from, to, packet)) = group.network.pop_front() {
            let Packet::Message(bytes) = packet else { continue };
            said.push((to, bytes.clone()));
            let message = PeerMessage::decode(bytes).unwrap();
            assert_eq!(message.from(), from);
            group.step(to, vec![Input::Message(message)]);
        }
    }
    for round in 0..20_000 {
        let (to, bytes) = &said[random.random(said.len())];
        let mut bytes = bytes.to_vec();
        for _ in 0..1 + random.random(3) {
            let at = random.random(bytes.len());
            bytes[at] ^= 1 << random.random(8);
        }
        if let Ok(message) = PeerMessage::decode(bytes.into()) {
            group.step(*to, vec![Input::Message(message)]);
        }
        group.network.clear();
        assert_eq!(group.members.len(), 3, "round {round}");
    }
}
