//! Random commands against a model that keeps every revision as a whole map, and against a state that is restored
//! from snapshots all the time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use isopod_kv::{
    CompactionRequest, DeleteRangeRequest, Error, KeyValue, LeaseGrantRequest, LeaseRevokeRequest,
    PutRequest, RangeRequest, RequestOp, TxnRequest, keys,
};
use isopod_mvcc::{Command, Filters, KeyRange, Op, RangeCursor, Restore, State, StoredRecord};
use proptest::prelude::*;

/// All revisions, as maps.
struct Model {
    revisions: Vec<BTreeMap<String, KeyValue>>,
    compacted: i64,
    leases: Vec<i64>,
}

#[derive(Clone, Debug)]
enum Action {
    Put(u8, u8, u8),
    Delete(u8, u8),
    Txn(Vec<(u8, u8)>),
    Compact(u8),
    Grant(u8),
    Revoke(u8),
    Scrub(u8),
    Restore,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => (0u8..12, any::<u8>(), 0u8..6).prop_map(|(key, value, lease)| Action::Put(key, value, lease)),
        3 => (0u8..12, 0u8..12).prop_map(|(from, to)| Action::Delete(from, to)),
        3 => prop::collection::vec((0u8..12, any::<u8>()), 1..5).prop_map(Action::Txn),
        1 => (0u8..20).prop_map(Action::Compact),
        1 => (1u8..6).prop_map(Action::Grant),
        1 => (1u8..6).prop_map(Action::Revoke),
        2 => (0u8..10).prop_map(Action::Scrub),
        1 => Just(Action::Restore),
    ]
}

fn key(number: u8) -> String {
    format!("k{number:02}")
}

impl Model {
    fn new() -> Model {
        // Revisions 0 and 1 are the empty store.
        Model { revisions: vec![BTreeMap::new(); 2], compacted: -1, leases: Vec::new() }
    }

    fn current(&self) -> &BTreeMap<String, KeyValue> {
        self.revisions.last().unwrap()
    }

    fn put(map: &mut BTreeMap<String, KeyValue>, revision: i64, key: &str, value: u8, lease: i64) {
        let previous = map.get(key);
        let kv = KeyValue {
            key: key.to_owned().into(),
            create_revision: previous.map_or(revision, |previous| previous.create_revision),
            mod_revision: revision,
            version: previous.map_or(1, |previous| previous.version + 1),
            value: vec![value].into(),
            lease,
        };
        map.insert(key.to_owned(), kv);
    }

    /// Adds a revision if the change changed anything.
    fn change(&mut self, change: impl FnOnce(&mut BTreeMap<String, KeyValue>, i64)) {
        let mut map = self.current().clone();
        change(&mut map, self.revisions.len() as i64);
        if map != *self.current() {
            self.revisions.push(map);
        }
    }

    /// The command of an action; the model already changed.
    fn command(&mut self, action: &Action) -> Option<Op> {
        Some(match action {
            Action::Put(number, value, lease) => {
                let (key, lease) = (key(*number), i64::from(*lease));
                if lease == 0 || self.leases.contains(&lease) {
                    self.change(|map, revision| Model::put(map, revision, &key, *value, lease));
                }
                Op::Put(PutRequest { lease, ..PutRequest::new(key, vec![*value]) })
            }
            Action::Delete(from, to) => {
                let (from, to) = (key(*from), key(*to));
                self.change(|map, _| map.retain(|key, _| !(*key >= from && *key < to)));
                Op::DeleteRange(DeleteRangeRequest { range_end: to.into(), ..DeleteRangeRequest::key(from) })
            }
            Action::Txn(puts) => {
                // Last wins: a transaction writes a key once.
                let puts: BTreeMap<u8, u8> = puts.iter().copied().collect();
                self.change(|map, revision| {
                    for (number, value) in &puts {
                        Model::put(map, revision, &key(*number), *value, 0);
                    }
                });
                let op = |(number, value): (&u8, &u8)| -> RequestOp {
                    PutRequest::new(key(*number), vec![*value]).into()
                };
                Op::Txn(TxnRequest::new(vec![], puts.iter().map(op).collect(), vec![]))
            }
            Action::Compact(back) => {
                let revision = self.revisions.len() as i64 - 1 - i64::from(*back);
                if revision > self.compacted {
                    self.compacted = revision;
                }
                Op::Compact(CompactionRequest { revision, physical: false })
            }
            Action::Grant(id) => {
                let id = i64::from(*id);
                if !self.leases.contains(&id) {
                    self.leases.push(id);
                }
                Op::LeaseGrant(LeaseGrantRequest { id, ttl: 10 })
            }
            Action::Revoke(id) => {
                let id = i64::from(*id);
                if self.leases.contains(&id) {
                    self.leases.retain(|lease| *lease != id);
                    self.change(|map, _| map.retain(|_, kv| kv.lease != id));
                }
                Op::LeaseRevoke(LeaseRevokeRequest { id })
            }
            Action::Scrub(_) | Action::Restore => return None,
        })
    }
}

fn restore(state: &mut State) {
    let mut cursor = state.begin_snapshot();
    let mut restore = Restore::new(cursor.header().clone());
    while let Some(records) = cursor.next(state, 3) {
        for record in records {
            assert!(restore.push(StoredRecord::from(&*record)));
        }
    }
    state.end_snapshot(cursor);
    *state = restore.finish();
}

fn range_of(state: &State, revision: i64, budget: usize) -> Result<Vec<KeyValue>, Error> {
    let request = RangeRequest { revision, ..RangeRequest::prefix("") };
    let mut cursor = RangeCursor::new(state, &request)?;
    while !cursor.advance(state, budget)? {}
    let response = cursor.finish();
    assert_eq!(response.count, response.kvs.len() as i64);
    Ok(response.kvs)
}

fn check(state: &State, model: &Model) {
    assert_eq!(state.revision(), model.revisions.len() as i64 - 1);
    assert_eq!(state.key_count(), model.current().len());
    for (revision, map) in model.revisions.iter().enumerate().skip(1) {
        let revision = revision as i64;
        let found = range_of(state, revision, 2);
        if revision < model.compacted {
            assert_eq!(found, Err(Error::Compacted));
        } else {
            assert_eq!(found.unwrap(), map.values().cloned().collect::<Vec<_>>(), "at {revision}");
        }
    }
}

/// Replaying events from any revision onto the map of the revision before gives the current map.
fn check_events(state: &State, model: &Model, from: i64) {
    let range = KeyRange { key: vec![0].into(), range_end: keys::FROM_KEY.into() };
    let filters = Filters { prev_kv: true, ..Filters::default() };
    let mut next = from;
    let mut map = model.revisions[from as usize - 1].clone();
    while next <= state.revision() {
        let batch = match state.events(&range, filters, next, 2, 3) {
            Ok(batch) => batch,
            Err(compacted) => {
                assert!(from < model.compacted && compacted == model.compacted);
                return;
            }
        };
        for event in batch.events {
            let kv = event.kv.unwrap();
            let key = String::from_utf8(kv.key.to_vec()).unwrap();
            // What a compaction has taken is not there to be compared with.
            if kv.mod_revision > model.compacted {
                assert_eq!(event.prev_kv.as_ref(), map.get(&key), "before {key} at {}", kv.mod_revision);
            }
            if event.r#type == 0 {
                map.insert(key, kv)
            } else {
                map.remove(&key)
            };
        }
        assert!(batch.next_revision > next);
        next = batch.next_revision;
    }
    assert!(from >= model.compacted);
    assert_eq!(map, *model.current());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_state_is_the_model(actions in prop::collection::vec(action(), 1..60)) {
        let mut model = Model::new();
        let mut state = State::default();
        // The same commands without restoring and freeing: the checksum must not see the difference.
        let mut plain = State::default();
        for action in &actions {
            match (action, model.command(action)) {
                (_, Some(op)) => {
                    let index = state.applied_index() + 1;
                    let command = Command::from(op);
                    prop_assert_eq!(state.apply(index, 1, command.clone()), plain.apply(index, 1, command));
                }
                (Action::Scrub(budget), None) => drop(state.scrub(usize::from(*budget))),
                (_, None) => restore(&mut state),
            }
        }
        check(&state, &model);
        check(&plain, &model);
        for from in 1..=state.revision() {
            check_events(&state, &model, from);
        }
        prop_assert_eq!(state.hash(0), plain.hash(0));
        while state.scrub(3) {}
        while plain.scrub(100) {}
        prop_assert_eq!(state.size_bytes(), plain.size_bytes());
        check(&state, &model);
        prop_assert_eq!(state.hash(0), plain.hash(0));
    }
}
