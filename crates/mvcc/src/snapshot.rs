//! The state as a sequence of records, for checkpoints and for members that fell behind.
//!
//! Reading goes in steps while commands are applied: versions up to the snapshot's revision do not change, and
//! nothing is freed while a snapshot is being read.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use isopod_kv::{AlarmMember, KeyValue};

use crate::auth::{Auth, StoredAuth};
use crate::history::{History, Record};
use crate::lease::Lease;
use crate::state::State;

/// All of the state but its records.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct Header {
    /// Index of the last entry that the snapshot contains.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// Term of that entry.
    #[prost(uint64, tag = "2")]
    pub term: u64,
    /// The current revision.
    #[prost(int64, tag = "3")]
    pub revision: i64,
    /// The compacted revision.
    #[prost(sint64, tag = "4")]
    pub compacted: i64,
    /// Leases without their keys, which the records know.
    #[prost(message, repeated, tag = "5")]
    pub leases: Vec<StoredLease>,
    /// Active alarms.
    #[prost(message, repeated, tag = "6")]
    pub alarms: Vec<AlarmMember>,
    /// Users and roles; none in snapshots made before there were any.
    #[prost(message, optional, tag = "10")]
    pub auth: Option<StoredAuth>,
}

/// A lease in a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, ::prost::Message)]
pub struct StoredLease {
    /// The ID.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// Time to live as granted, in seconds.
    #[prost(int64, tag = "2")]
    pub ttl_s: i64,
    /// What was left at the last checkpoint, in seconds; 0 if it was renewed since.
    #[prost(int64, tag = "3")]
    pub remaining_s: i64,
}

/// A record in a snapshot. A version of 0 marks a deletion.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct StoredRecord {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// The revision that made it.
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    /// The revision that created the key.
    #[prost(int64, tag = "4")]
    pub create_revision: i64,
    /// How often the key was written.
    #[prost(int64, tag = "5")]
    pub version: i64,
    /// The lease it hangs on.
    #[prost(int64, tag = "6")]
    pub lease: i64,
    /// Position within the transaction.
    #[prost(uint32, tag = "7")]
    pub sub: u32,
}

impl From<&Record> for StoredRecord {
    fn from(record: &Record) -> StoredRecord {
        let kv = &record.kv;
        StoredRecord {
            key: kv.key.clone(),
            value: kv.value.clone(),
            mod_revision: kv.mod_revision,
            create_revision: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
            sub: record.sub,
        }
    }
}

/// A snapshot being read. Hand it back with [`State::end_snapshot`], or memory is never freed again.
#[derive(Debug)]
pub struct SnapshotCursor {
    header: Header,
    after: Option<Bytes>,
    epoch: u64,
}

impl SnapshotCursor {
    /// The header, fixed when the snapshot began.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whether the state is still the one of which this is a snapshot; once it is not, the rest cannot be read.
    pub fn is_valid(&self, state: &State) -> bool {
        self.epoch == state.epoch
    }

    /// The records of the next `budget` keys, by key and then by revision; none at the end.
    pub fn next(&mut self, state: &State, budget: usize) -> Option<Vec<Arc<Record>>> {
        let start = match &self.after {
            Some(after) => Bound::Excluded(&after[..]),
            None => Bound::Unbounded,
        };
        let mut last = None;
        let mut records = Vec::with_capacity(budget);
        for (key, history) in state.keys.range::<[u8], _>((start, Bound::Unbounded)).take(budget) {
            let versions = history.versions();
            let end = versions.partition_point(|record| record.kv.mod_revision <= self.header.revision);
            let start = history.dead(self.header.compacted).min(end);
            records.extend_from_slice(&versions[start..end]);
            last = Some(key.clone());
        }
        self.after = Some(last?);
        Some(records)
    }
}

impl State {
    /// Begins to read a snapshot of the state as it is now.
    pub fn begin_snapshot(&mut self) -> SnapshotCursor {
        self.scrub_holds += 1;
        let lease = |(id, lease): (&i64, &Lease)| StoredLease {
            id: *id,
            ttl_s: lease.ttl_s,
            remaining_s: lease.remaining_s,
        };
        let header = Header {
            index: self.index,
            term: self.term,
            revision: self.revision,
            compacted: self.compacted,
            leases: self.leases.by_id.iter().map(lease).collect(),
            alarms: self.alarms(),
            auth: Some(self.auth.to_stored()),
        };
        SnapshotCursor { header, after: None, epoch: self.epoch }
    }

    /// Ends the reading of a snapshot, complete or not.
    pub fn end_snapshot(&mut self, cursor: SnapshotCursor) {
        if cursor.epoch == self.epoch {
            self.scrub_holds -= 1;
        }
    }
}

/// A state being built from a snapshot.
#[derive(Debug)]
pub struct Restore {
    header: Header,
    keys: Vec<(Bytes, History)>,
    log: Vec<Arc<Record>>,
    size: usize,
}

impl Restore {
    /// Begins with a header.
    pub fn new(header: Header) -> Restore {
        Restore { header, keys: Vec::new(), log: Vec::new(), size: 0 }
    }

    /// Adds the next record. False if it cannot follow the one before: the snapshot is not one of ours.
    #[must_use]
    pub fn push(&mut self, stored: StoredRecord) -> bool {
        let StoredRecord { key, value, mod_revision, create_revision, version, lease, sub } = stored;
        let mut kv = KeyValue { key, create_revision, mod_revision, version, value, lease };
        let tombstone = version == 0;
        if mod_revision > self.header.revision {
            return false;
        }
        match self.keys.last_mut() {
            Some((key, history)) if *key == kv.key => {
                if history.latest().revision() >= (mod_revision, sub) {
                    return false;
                }
                kv.key = key.clone();
                let record = self.count(Record { kv, sub, tombstone });
                let (_, history) = self.keys.last_mut().expect("matched above");
                history.push(record);
            }
            Some((key, _)) if *key > kv.key => return false,
            _ => {
                let record = self.count(Record { kv, sub, tombstone });
                self.keys.push((record.kv.key.clone(), History::One(record)));
            }
        }
        true
    }

    fn count(&mut self, record: Record) -> Arc<Record> {
        self.size += record.size();
        let record = Arc::new(record);
        if record.kv.mod_revision >= self.header.compacted {
            self.log.push(record.clone());
        }
        record
    }

    /// The state.
    pub fn finish(mut self) -> State {
        self.log.sort_unstable_by_key(|record| record.revision());
        let header = self.header;
        let mut state = State {
            // The keys are sorted: this builds the tree without a search.
            keys: self.keys.into_iter().collect(),
            log: VecDeque::from(self.log),
            revision: header.revision,
            compacted: header.compacted,
            size: self.size,
            index: header.index,
            term: header.term,
            auth: header.auth.map(Auth::from_stored).unwrap_or_default(),
            alarms: header.alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm)).collect(),
            ..State::default()
        };
        for lease in header.leases {
            let value = Lease { ttl_s: lease.ttl_s, remaining_s: lease.remaining_s, ..Lease::default() };
            state.leases.by_id.insert(lease.id, value);
        }
        for record in state.keys.values().filter_map(History::live) {
            state.live_keys += 1;
            state.leases.attach(record.kv.lease, &record.kv.key);
        }
        state
    }
}
