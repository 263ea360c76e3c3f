//! Versions of one key.

use std::sync::Arc;

use isopod_kv::KeyValue;

/// One version of a key, or its deletion. Shared by the key's history, the revision log and whoever reads.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    /// The version. Of a deletion only the key and `mod_revision` are set.
    pub kv: KeyValue,
    /// Position within the transaction that made it.
    pub sub: u32,
    /// Whether this is a deletion.
    pub tombstone: bool,
}

/// Bytes that a version is counted with beyond its key and value: the record, its pointers and allocations.
const RECORD_OVERHEAD_BYTES: usize = 192;

impl Record {
    /// Size for quota and statistics, in bytes.
    pub fn size(&self) -> usize {
        self.kv.key.len() + self.kv.value.len() + RECORD_OVERHEAD_BYTES
    }

    /// Order of events.
    pub(crate) fn revision(&self) -> (i64, u32) {
        (self.kv.mod_revision, self.sub)
    }
}

/// All versions of a key that are not compacted, oldest first; never empty.
///
/// Most keys of an idle cluster have one version, which then needs no allocation of its own.
#[derive(Debug)]
pub(crate) enum History {
    One(Arc<Record>),
    Many(Vec<Arc<Record>>),
}

impl History {
    pub(crate) fn versions(&self) -> &[Arc<Record>] {
        match self {
            History::One(record) => std::slice::from_ref(record),
            History::Many(records) => records,
        }
    }

    pub(crate) fn latest(&self) -> &Arc<Record> {
        self.versions().last().expect("a history is never empty")
    }

    /// The newest version, if the key exists.
    pub(crate) fn live(&self) -> Option<&Arc<Record>> {
        Some(self.latest()).filter(|record| !record.tombstone)
    }

    /// The version visible at a main revision.
    pub(crate) fn at(&self, revision: i64) -> Option<&Arc<Record>> {
        let latest = self.latest();
        if latest.kv.mod_revision <= revision {
            return Some(latest).filter(|record| !record.tombstone);
        }
        let versions = self.versions();
        let end = versions.partition_point(|record| record.kv.mod_revision <= revision);
        versions[..end].last().filter(|record| !record.tombstone)
    }

    /// The version that `record` replaced.
    pub(crate) fn before(&self, record: &Record) -> Option<&Arc<Record>> {
        let versions = self.versions();
        let end = versions.partition_point(|other| other.revision() < record.revision());
        versions[..end].last().filter(|previous| !previous.tombstone)
    }

    pub(crate) fn push(&mut self, record: Arc<Record>) {
        match self {
            History::One(first) => *self = History::Many(vec![first.clone(), record]),
            History::Many(records) => records.push(record),
        }
    }

    /// How many of the oldest versions nobody can see once history before `compacted` is gone.
    ///
    /// The version visible at `compacted` stays. A deletion stays only if it happened exactly then, because a
    /// watch may still start at that revision.
    pub(crate) fn dead(&self, compacted: i64) -> usize {
        let versions = self.versions();
        let end = versions.partition_point(|record| record.kv.mod_revision <= compacted);
        match versions[..end].last() {
            Some(last) if last.tombstone && last.kv.mod_revision < compacted => end,
            Some(_) => end - 1,
            None => 0,
        }
    }

    /// Drops the `count` oldest versions, of more than `count`.
    pub(crate) fn drop_oldest(&mut self, count: usize) {
        let History::Many(records) = self else {
            debug_assert_eq!(count, 0, "a history keeps a version");
            return;
        };
        records.drain(..count);
        match &records[..] {
            [only] => *self = History::One(only.clone()),
            _ if records.capacity() > 4 * records.len() => records.shrink_to_fit(),
            _ => {}
        }
    }
}
