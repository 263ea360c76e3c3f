//! Logs written before there was replication.

use std::sync::Arc;
use std::time::Duration;

use isopod_kv::{PutRequest, RangeRequest};
use isopod_mvcc::{Command, Op};
use prost::Message;

use super::{Bootstrap, Input, Member, Output};
use crate::config::Config;
use crate::storage::{SimStorage, Storage};
use crate::wal::{Meta, WAL_MAGIC, append_prelude, append_record, kind, segment_name};

fn put(key: &str) -> Command {
    Op::Put(PutRequest::new(key.to_owned(), "v")).into()
}

/// A log of version 1: bare commands in one term.
fn old_log(keys: &[&str]) -> SimStorage {
    let storage = SimStorage::new(1);
    let mut bytes = Vec::new();
    append_prelude(&mut bytes, WAL_MAGIC, 1);
    let batch = bytes.len() as u32;
    append_record(&mut bytes, kind::META & !kind::MARK, batch, |payload| {
        let meta = Meta { cluster_id: 7, member_id: 8, first_index: 1, term: 1, ..Meta::default() };
        meta.encode(payload).unwrap();
    });
    for (index, key) in (1u64..).zip(keys) {
        let batch = bytes.len() as u32;
        append_record(&mut bytes, kind::ENTRY & !kind::MARK, batch, |payload| {
            payload.extend_from_slice(&index.to_le_bytes());
            payload.extend_from_slice(&1u64.to_le_bytes());
            put(key).encode(payload).unwrap();
        });
    }
    let mut file = storage.create(&segment_name(1, 1)).unwrap();
    file.write_at(0, &bytes).unwrap();
    file.sync().unwrap();
    storage.sync_dir().unwrap();
    storage
}

fn open(storage: &SimStorage, seed: u64) -> Member {
    let storage: Arc<dyn Storage> = Arc::new(storage.clone());
    let bootstrap = Bootstrap::Alone { cluster_id: 1, member_id: 2 };
    let mut member = Member::open(storage, Config::new("sim"), bootstrap, seed, Duration::ZERO).unwrap();
    member.step(Duration::ZERO, Vec::new(), &mut |_| {});
    member
}

#[test]
fn an_old_log_is_that_of_a_group_of_one_and_goes_on() {
    let storage = old_log(&["a", "b", "c"]);
    let mut member = open(&storage, 1);
    assert_eq!((member.cluster_id(), member.id()), (7, 8), "it keeps its identity");
    assert!(member.is_leader() && !member.needs_ticks());
    assert_eq!(member.members().len(), 1);
    assert_eq!(member.state().revision(), 4);
    let mut answered = 0;
    let inputs = vec![Input::Propose { ticket: 1, command: put("d") }];
    member.step(Duration::ZERO, inputs, &mut |output| {
        answered += usize::from(matches!(output, Output::Done { result: Ok(_), .. }));
    });
    assert_eq!(answered, 1);
    drop(member);
    storage.crash();
    // Old file and new one together, and then the checkpoint that replaces both.
    for seed in 2..4 {
        let mut member = open(&storage, seed);
        assert_eq!(member.state().range(&RangeRequest::prefix("")).unwrap().count, 4);
        member.checkpoint().unwrap();
        drop(member);
        storage.crash();
    }
}
