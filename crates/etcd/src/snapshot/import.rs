//! From a file to the state.

use bytes::Bytes;
use isopod_kv::{AlarmMember, KeyValue, Role, User};
use isopod_mvcc::{Header, Restore, State, StoredAuth, StoredLease, StoredRecord, StoredUser};
use prost::Message;

use super::buckets::{self, Lease};
use super::{SnapshotError, damaged};
use crate::bbolt::Database;

/// Position in the log at which a restored store begins.
pub(super) const FIRST_INDEX: u64 = 1;
pub(super) const FIRST_TERM: u64 = 1;

/// What a file holds.
pub(super) struct Import {
    /// Everything but the keys.
    pub(super) header: Header,
    /// All versions of all keys, by key and revision.
    records: Vec<StoredRecord>,
}

impl Import {
    /// Reads a file.
    pub(super) fn new(database: &Database<'_>) -> Result<Import, SnapshotError> {
        let mut records = Vec::new();
        let mut revision = 1;
        let mut failure = None;
        each(database, buckets::KEY, &mut |key, value| {
            match parse_record(key, value) {
                Ok(record) => {
                    revision = revision.max(record.mod_revision);
                    // A revision that was raised when a snapshot was restored is marked by one without a key.
                    if !record.key.is_empty() {
                        records.push(record);
                    }
                }
                Err(reason) => failure = failure.take().or(Some(reason)),
            }
        })?;
        if let Some(reason) = failure {
            return Err(damaged(reason));
        }
        let compacted = compacted(database)?;
        let header = Header {
            index: FIRST_INDEX,
            term: FIRST_TERM,
            revision: revision.max(compacted),
            compacted,
            leases: leases(database)?,
            alarms: alarms(database)?,
            auth: Some(auth(database)?),
        };
        records.sort_unstable_by(|a, b| {
            a.key.cmp(&b.key).then((a.mod_revision, a.sub).cmp(&(b.mod_revision, b.sub)))
        });
        Ok(Import { header, records })
    }

    /// Raises the revision, and calls all of history before it compacted: whoever has seen a revision of the cluster
    /// that this is a snapshot of, later than the snapshot, then notices.
    pub(super) fn bump(&mut self, by: i64) -> Result<(), SnapshotError> {
        let raised = self.header.revision.checked_add(by).filter(|revision| *revision < i64::MAX / 2);
        self.header.revision = raised.ok_or_else(|| damaged("the revision would be too large"))?;
        self.header.compacted = self.header.revision;
        Ok(())
    }

    /// The state.
    pub(super) fn into_state(self) -> Result<State, SnapshotError> {
        let compacted = self.header.compacted;
        let mut restore = Restore::new(self.header);
        let mut records = self.records.into_iter().peekable();
        while let Some(record) = records.next() {
            // What nobody can see any more: an etcd drops it in its own time, and may not have come to it.
            let superseded =
                records.peek().is_some_and(|next| next.key == record.key && next.mod_revision <= compacted);
            let deleted = record.version == 0 && record.mod_revision < compacted;
            if record.mod_revision <= compacted && (superseded || deleted) {
                continue;
            }
            if !restore.push(record) {
                return Err(damaged("two versions of a key have the same revision"));
            }
        }
        Ok(restore.finish())
    }
}

fn each<'a>(
    database: &Database<'a>,
    bucket: &'static str,
    visit: &mut dyn FnMut(&'a [u8], &'a [u8]),
) -> Result<(), SnapshotError> {
    match database.bucket(bucket.as_bytes())? {
        Some(bucket) => Ok(bucket.each(visit)?),
        // Older versions of etcd know fewer.
        None => Ok(()),
    }
}

fn parse_record(key: &[u8], value: &[u8]) -> Result<StoredRecord, String> {
    let (main, sub, tombstone) =
        buckets::parse_revision(key).ok_or("a key of the key bucket is not a revision")?;
    // From a slice: what is kept does not keep the file.
    let kv = KeyValue::decode(value).map_err(|error| format!("the value of revision {main}: {error}"))?;
    let empty = kv.key.is_empty();
    let record = StoredRecord { key: kv.key, mod_revision: main, sub, ..StoredRecord::default() };
    if tombstone || empty {
        return Ok(record);
    }
    if kv.version < 1 || kv.create_revision < 1 || kv.create_revision > main {
        return Err(format!("the version of revision {main} makes no sense"));
    }
    Ok(StoredRecord {
        value: kv.value,
        create_revision: kv.create_revision,
        version: kv.version,
        lease: kv.lease,
        ..record
    })
}

fn get<'a>(
    database: &Database<'a>,
    bucket: &'static str,
    name: &[u8],
) -> Result<Option<&'a [u8]>, SnapshotError> {
    let mut found = None;
    each(database, bucket, &mut |key, value| {
        if key == name {
            found = Some(value);
        }
    })?;
    Ok(found)
}

/// The compacted revision; -1 if there is none. What is scheduled counts: etcd catches up when it starts.
pub(super) fn compacted(database: &Database<'_>) -> Result<i64, SnapshotError> {
    let mut compacted = -1;
    for name in [buckets::FINISHED_COMPACTION, buckets::SCHEDULED_COMPACTION] {
        if let Some(value) = get(database, buckets::META, name)? {
            let (main, _, _) =
                buckets::parse_revision(value).ok_or_else(|| damaged("the compacted revision"))?;
            compacted = compacted.max(main);
        }
    }
    Ok(compacted)
}

/// The version of the data, which etcd notes since 3.6; empty before.
pub(super) fn storage_version(database: &Database<'_>) -> Result<String, SnapshotError> {
    let version = get(database, buckets::META, buckets::STORAGE_VERSION)?;
    Ok(version.map(|version| String::from_utf8_lossy(version).into_owned()).unwrap_or_default())
}

/// Decodes all of a bucket.
fn decode<T>(
    database: &Database<'_>,
    bucket: &'static str,
    read: impl Fn(&[u8], &[u8]) -> Result<T, prost::DecodeError>,
) -> Result<Vec<T>, SnapshotError> {
    let mut all = Vec::new();
    each(database, bucket, &mut |key, value| all.push(read(key, value)))?;
    let all: Result<Vec<T>, _> = all.into_iter().collect();
    all.map_err(|error| damaged(format!("bucket {bucket}: {error}")))
}

fn leases(database: &Database<'_>) -> Result<Vec<StoredLease>, SnapshotError> {
    let leases = decode(database, buckets::LEASE, |_, value| Lease::decode(value))?;
    let stored = |lease: Lease| StoredLease {
        id: lease.id,
        ttl_s: lease.ttl.max(0),
        remaining_s: lease.remaining_ttl.max(0),
    };
    Ok(leases.into_iter().map(stored).collect())
}

fn alarms(database: &Database<'_>) -> Result<Vec<AlarmMember>, SnapshotError> {
    decode(database, buckets::ALARM, |key, _| AlarmMember::decode(key))
}

fn auth(database: &Database<'_>) -> Result<StoredAuth, SnapshotError> {
    let enabled = get(database, buckets::AUTH, buckets::AUTH_ENABLED)?.is_some_and(|value| value == [1]);
    let revision = get(database, buckets::AUTH, buckets::AUTH_REVISION)?;
    let revision = revision.and_then(|value| Some(u64::from_be_bytes(value.try_into().ok()?))).unwrap_or(1);
    let owned = |name: &Bytes| Bytes::copy_from_slice(name);
    let users = decode(database, buckets::AUTH_USERS, |_, value| User::decode(value))?;
    let user = |user: User| StoredUser {
        user: Some(User { name: owned(&user.name), password: owned(&user.password), ..user }),
        since: revision,
    };
    let roles = decode(database, buckets::AUTH_ROLES, |_, value| Role::decode(value))?;
    Ok(StoredAuth { enabled, revision, users: users.into_iter().map(user).collect(), roles })
}
