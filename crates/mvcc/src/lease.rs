//! The replicated part of leases: which exist, for how long they were granted, which keys hang on them.
//!
//! No clock here. When a lease expires is the business of [`crate::Lessor`], and the expiry is a command.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use isopod_kv::{Error, LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeResponse};

use crate::state::State;

/// The shortest TTL granted, in seconds: etcd's with its default election timeout. Shorter wishes are rounded up.
pub const MIN_TTL_S: i64 = 2;
/// The longest TTL granted, in seconds.
pub const MAX_TTL_S: i64 = 9_000_000_000;

/// One lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Time to live as granted, in seconds.
    pub ttl_s: i64,
    /// What of it was left at the last checkpoint; 0 if it was renewed since.
    pub remaining_s: i64,
    /// Keys that are deleted with it.
    pub keys: BTreeSet<Bytes>,
}

impl Lease {
    /// How long the lease lives from a restart on, in seconds.
    pub fn restart_ttl_s(&self) -> i64 {
        if self.remaining_s > 0 { self.remaining_s } else { self.ttl_s }
    }
}

/// All leases by ID.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    pub(crate) by_id: BTreeMap<i64, Lease>,
}

impl Leases {
    pub(crate) fn contains(&self, id: i64) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(crate) fn attach(&mut self, id: i64, key: &Bytes) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.keys.insert(key.clone());
        }
    }

    pub(crate) fn detach(&mut self, id: i64, key: &Bytes) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    /// A checkpoint may arrive after its lease is gone.
    pub(crate) fn checkpoint(&mut self, id: i64, remaining_s: i64) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.remaining_s = remaining_s.clamp(0, lease.ttl_s);
        }
    }
}

impl State {
    pub(crate) fn lease_grant(&mut self, request: LeaseGrantRequest) -> Result<LeaseGrantResponse, Error> {
        if request.ttl > MAX_TTL_S {
            return Err(Error::LeaseTtlTooLarge);
        }
        // The proposer chooses the ID; an entry without one still needs the same ID on every member.
        let id = if request.id == 0 { (self.index & i64::MAX as u64) as i64 } else { request.id };
        if self.leases.contains(id) {
            return Err(Error::LeaseExists);
        }
        let ttl_s = request.ttl.max(MIN_TTL_S);
        self.leases.by_id.insert(id, Lease { ttl_s, ..Lease::default() });
        Ok(LeaseGrantResponse { header: self.header(), id, ttl: ttl_s, error: String::new() })
    }

    /// Ends a lease; its keys are deleted in one revision.
    pub(crate) fn lease_revoke(&mut self, id: i64) -> Result<LeaseRevokeResponse, Error> {
        let lease = self.leases.by_id.remove(&id).ok_or(Error::LeaseNotFound)?;
        let mut writer = self.writer();
        for key in &lease.keys {
            if let Some(record) = self.live(key).cloned() {
                self.delete_record(&mut writer, &record);
            }
        }
        self.finish(&writer);
        Ok(LeaseRevokeResponse { header: self.header() })
    }

    /// A lease.
    pub fn lease(&self, id: i64) -> Option<&Lease> {
        self.leases.by_id.get(&id)
    }

    /// All leases, by ID.
    pub fn leases(&self) -> impl ExactSizeIterator<Item = (i64, &Lease)> {
        self.leases.by_id.iter().map(|(id, lease)| (*id, lease))
    }
}
