//! What a snapshot holds, without restoring it.

use std::collections::HashSet;
use std::path::Path;

use isopod_kv::{Error, KeyValue};
use prost::Message;

use super::{SnapshotError, buckets, damaged, import, read};
use crate::bbolt::{Bucket, Database};

/// What `etcdutl snapshot status` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStatus {
    /// Checksum of all buckets; the same number as etcd's tools show.
    pub hash: u32,
    /// The newest revision.
    pub revision: i64,
    /// Keys that exist.
    pub total_keys: usize,
    /// Bytes of all pages.
    pub total_bytes: u64,
    /// Version of the data; empty before etcd 3.6.
    pub version: String,
}

/// What `etcdutl hashkv` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHash {
    /// Checksum of the history; the same number as etcd's tools show.
    pub hash: u32,
    /// Up to which revision.
    pub hash_revision: i64,
    /// From which revision on.
    pub compact_revision: i64,
}

/// Looks at a snapshot. Its checksum at the end is not looked at, as by etcd's tools.
///
/// # Errors
/// The file cannot be read, or is damaged.
pub fn status(path: &Path) -> Result<FileStatus, SnapshotError> {
    let bytes = read(path, false)?;
    let database = Database::open(&bytes)?;
    let mut hash = 0;
    let (mut revision, mut live, mut failure) = (0, HashSet::new(), false);
    for name in database.names()? {
        hash = crc32c::crc32c_append(hash, &name);
        let is_keys = name == buckets::KEY.as_bytes();
        let Some(bucket) = database.bucket(&name)? else { continue };
        bucket.each(&mut |key, value| {
            hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, key), value);
            if is_keys {
                match (buckets::parse_revision(key), KeyValue::decode(value)) {
                    (Some((main, _, tombstone)), Ok(kv)) => {
                        revision = main;
                        match tombstone {
                            true => live.remove(&kv.key),
                            false => live.insert(kv.key),
                        };
                    }
                    _ => failure = true,
                }
            }
        })?;
    }
    if failure {
        return Err(damaged("a version of a key does not decode"));
    }
    let version = import::storage_version(&database)?;
    Ok(FileStatus { hash, revision, total_keys: live.len(), total_bytes: database.bytes(), version })
}

/// The checksum of a snapshot's history up to a revision, or to the newest for 0.
///
/// # Errors
/// The file cannot be read or is damaged; the revision is compacted or not reached.
pub fn hash_kv(path: &Path, revision: i64) -> Result<FileHash, SnapshotError> {
    let bytes = read(path, false)?;
    let database = Database::open(&bytes)?;
    let compact_revision = import::compacted(&database)?;
    let bucket = database.bucket(buckets::KEY.as_bytes())?.ok_or_else(|| damaged("it has no keys"))?;
    let mut newest = compact_revision.max(1);
    bucket.each(&mut |key, _| {
        newest = newest.max(buckets::parse_revision(key).map_or(0, |(main, _, _)| main));
    })?;
    if revision > newest {
        return Err(SnapshotError::Revision(Error::FutureRevision));
    }
    if revision > 0 && revision < compact_revision {
        return Err(SnapshotError::Revision(Error::Compacted));
    }
    let hash_revision = if revision > 0 { revision } else { newest };
    let keep = visible_at(&bucket, hash_revision)?;
    let mut hash = crc32c::crc32c(buckets::KEY.as_bytes());
    bucket.each(&mut |key, value| {
        let Some((main, sub, tombstone)) = buckets::parse_revision(key) else { return };
        let beyond = main > hash_revision;
        // What compaction drops, or is about to, does not count; nor does a deletion at that very revision, which
        // some versions of etcd keep and others drop.
        let dropped = main <= compact_revision && !keep.is_empty() && !keep.contains(&(main, sub));
        let either = tombstone && main == compact_revision;
        if !(beyond || dropped || either) {
            hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, key), value);
        }
    })?;
    Ok(FileHash { hash, hash_revision, compact_revision })
}

/// The versions that a reader at a revision sees.
fn visible_at(keys: &Bucket<'_>, revision: i64) -> Result<HashSet<(i64, u32)>, SnapshotError> {
    let mut latest = std::collections::HashMap::new();
    keys.each(&mut |key, value| {
        let Some((main, sub, tombstone)) = buckets::parse_revision(key) else { return };
        let Ok(kv) = KeyValue::decode(value) else { return };
        if main <= revision {
            match tombstone {
                true => latest.remove(&kv.key),
                false => latest.insert(kv.key, (main, sub)),
            };
        }
    })?;
    Ok(latest.into_values().collect())
}
