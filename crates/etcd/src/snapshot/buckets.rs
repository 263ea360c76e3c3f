//! etcd's buckets: their names and keys.

/// Every version of every key, by revision.
pub(super) const KEY: &str = "key";
pub(super) const META: &str = "meta";
pub(super) const LEASE: &str = "lease";
pub(super) const ALARM: &str = "alarm";
pub(super) const CLUSTER: &str = "cluster";
pub(super) const MEMBERS: &str = "members";
pub(super) const MEMBERS_REMOVED: &str = "members_removed";
pub(super) const AUTH: &str = "auth";
pub(super) const AUTH_USERS: &str = "authUsers";
pub(super) const AUTH_ROLES: &str = "authRoles";

/// In `meta`: up to where history has been dropped, and up to where it is to be.
pub(super) const FINISHED_COMPACTION: &[u8] = b"finishedCompactRev";
pub(super) const SCHEDULED_COMPACTION: &[u8] = b"scheduledCompactRev";
/// In `meta`: position in the log.
pub(super) const CONSISTENT_INDEX: &[u8] = b"consistent_index";
pub(super) const TERM: &[u8] = b"term";
/// In `meta`, since 3.6.
pub(super) const STORAGE_VERSION: &[u8] = b"storageVersion";
/// In `auth`.
pub(super) const AUTH_ENABLED: &[u8] = b"authEnabled";
pub(super) const AUTH_REVISION: &[u8] = b"authRevision";

/// Bytes of a revision as a key; a deletion has one more.
pub(super) const REVISION_BYTES: usize = 17;
/// What follows a revision that is a deletion.
const TOMBSTONE: u8 = b't';

/// A revision as a key.
pub(super) fn revision_key(main: i64, sub: u32, tombstone: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(&main.to_be_bytes());
    out.push(b'_');
    out.extend_from_slice(&i64::from(sub).to_be_bytes());
    if tombstone {
        out.push(TOMBSTONE);
    }
}

/// The revision in a key: main, sub, whether it is a deletion.
pub(super) fn parse_revision(key: &[u8]) -> Option<(i64, u32, bool)> {
    let tombstone = match key.get(REVISION_BYTES..)? {
        [] => false,
        [TOMBSTONE] => true,
        _ => return None,
    };
    let main = i64::from_be_bytes(key[..8].try_into().ok()?);
    let sub = i64::from_be_bytes(key[9..REVISION_BYTES].try_into().ok()?);
    (key[8] == b'_' && main > 0).then_some(())?;
    Some((main, u32::try_from(sub).ok()?, tombstone))
}

/// `leasepb.Lease`.
#[derive(Clone, Copy, PartialEq, Eq, ::prost::Message)]
pub(super) struct Lease {
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
    #[prost(int64, tag = "2")]
    pub(super) ttl: i64,
    #[prost(int64, tag = "3")]
    pub(super) remaining_ttl: i64,
}
