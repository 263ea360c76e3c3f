//! From the state to a file.

use std::sync::Arc;

use isopod_kv::KeyValue;
use isopod_mvcc::{Header, Record, StoredAuth};
use prost::Message;
use sha2::{Digest, Sha256};

use super::buckets::{self, Lease, REVISION_BYTES};
use crate::bbolt::{Entries, Layout};

/// What a bucket holds.
enum Content {
    /// Versions of keys, by revision.
    Records(Vec<Arc<Record>>),
    /// Keys and values, in order.
    List(Vec<(Vec<u8>, Vec<u8>)>),
}

/// The value of a version: of a deletion only the key is known.
fn stored(record: &Record) -> std::borrow::Cow<'_, KeyValue> {
    match record.tombstone {
        true => std::borrow::Cow::Owned(KeyValue { key: record.kv.key.clone(), ..KeyValue::default() }),
        false => std::borrow::Cow::Borrowed(&record.kv),
    }
}

impl Entries for Content {
    fn len(&self) -> usize {
        match self {
            Content::Records(records) => records.len(),
            Content::List(list) => list.len(),
        }
    }

    fn sizes(&self, index: usize) -> (usize, usize) {
        match self {
            Content::Records(records) => {
                let record = &records[index];
                (REVISION_BYTES + usize::from(record.tombstone), stored(record).encoded_len())
            }
            Content::List(list) => (list[index].0.len(), list[index].1.len()),
        }
    }

    fn key(&self, index: usize, out: &mut Vec<u8>) {
        match self {
            Content::Records(records) => {
                let record = &records[index];
                buckets::revision_key(record.kv.mod_revision, record.sub, record.tombstone, out);
            }
            Content::List(list) => out.extend_from_slice(&list[index].0),
        }
    }

    fn value(&self, index: usize, out: &mut Vec<u8>) {
        match self {
            Content::Records(records) => stored(&records[index]).encode(out).expect("a vector grows"),
            Content::List(list) => out.extend_from_slice(&list[index].1),
        }
    }
}

/// Gives out the file of a state, with its checksum, piece by piece, until `take` says that it is enough. `records`
/// are all versions of all keys, in any order.
pub(crate) fn write(header: &Header, mut records: Vec<Arc<Record>>, take: &mut dyn FnMut(Vec<u8>) -> bool) {
    records.sort_unstable_by_key(|record| (record.kv.mod_revision, record.sub));
    let auth = header.auth.clone().unwrap_or_default();
    let list = |mut list: Vec<(Vec<u8>, Vec<u8>)>| {
        list.sort_unstable();
        Content::List(list)
    };
    // In order of their names.
    let layout = Layout::new(vec![
        (buckets::ALARM, list(alarms(header))),
        (buckets::AUTH, list(auth_settings(&auth))),
        (buckets::AUTH_ROLES, list(roles(&auth))),
        (buckets::AUTH_USERS, list(users(&auth))),
        (buckets::CLUSTER, list(Vec::new())),
        (buckets::KEY, Content::Records(records)),
        (buckets::LEASE, list(leases(header))),
        (buckets::MEMBERS, list(Vec::new())),
        (buckets::MEMBERS_REMOVED, list(Vec::new())),
        (buckets::META, list(meta(header))),
    ]);
    let mut hash = Sha256::new();
    let mut going = true;
    layout.write(&mut |piece| {
        hash.update(&piece);
        going = take(piece);
        going
    });
    if going {
        take(hash.finalize().to_vec());
    }
}

fn meta(header: &Header) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut list = vec![
        (buckets::CONSISTENT_INDEX.to_vec(), header.index.to_be_bytes().to_vec()),
        (buckets::TERM.to_vec(), header.term.to_be_bytes().to_vec()),
    ];
    if header.compacted > 0 {
        let mut revision = Vec::new();
        buckets::revision_key(header.compacted, 0, false, &mut revision);
        list.push((buckets::FINISHED_COMPACTION.to_vec(), revision.clone()));
        list.push((buckets::SCHEDULED_COMPACTION.to_vec(), revision));
    }
    list
}

fn leases(header: &Header) -> Vec<(Vec<u8>, Vec<u8>)> {
    let lease = |lease: &isopod_mvcc::StoredLease| {
        let stored = Lease { id: lease.id, ttl: lease.ttl_s, remaining_ttl: lease.remaining_s };
        (lease.id.to_be_bytes().to_vec(), stored.encode_to_vec())
    };
    header.leases.iter().map(lease).collect()
}

/// An alarm is a key without a value.
fn alarms(header: &Header) -> Vec<(Vec<u8>, Vec<u8>)> {
    header.alarms.iter().map(|alarm| (alarm.encode_to_vec(), Vec::new())).collect()
}

fn auth_settings(auth: &StoredAuth) -> Vec<(Vec<u8>, Vec<u8>)> {
    vec![
        (buckets::AUTH_ENABLED.to_vec(), vec![u8::from(auth.enabled)]),
        (buckets::AUTH_REVISION.to_vec(), auth.revision.max(1).to_be_bytes().to_vec()),
    ]
}

fn roles(auth: &StoredAuth) -> Vec<(Vec<u8>, Vec<u8>)> {
    auth.roles.iter().map(|role| (role.name.to_vec(), role.encode_to_vec())).collect()
}

fn users(auth: &StoredAuth) -> Vec<(Vec<u8>, Vec<u8>)> {
    let users = auth.users.iter().filter_map(|user| user.user.as_ref());
    users.map(|user| (user.name.to_vec(), user.encode_to_vec())).collect()
}
