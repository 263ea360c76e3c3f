//! Leases.

use isopod_kv::{
    Error, LeaseCheckpoint, LeaseCheckpointRequest, LeaseGrantRequest, LeaseGrantResponse,
    LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use isopod_mvcc::{MAX_TTL_S, Op, Reply};

use super::queue::Request;
use super::write::reply_of;
use super::{Engine, expect_reply};
use crate::member::Outcome;

impl Engine {
    /// Grants a lease; for the ID 0 one is chosen.
    ///
    /// # Errors
    /// As etcd's `LeaseGrant`.
    pub async fn lease_grant(&self, mut request: LeaseGrantRequest) -> Result<LeaseGrantResponse, Error> {
        if request.ttl > MAX_TTL_S {
            return Err(Error::LeaseTtlTooLarge);
        }
        if request.id == 0 {
            request.id = (super::new_id() >> 1).max(1) as i64;
        }
        let mut response = reply_of!(self.propose(Op::LeaseGrant(request), true).await?, LeaseGrant);
        self.shared.stamp(&mut response.header);
        Ok(response)
    }

    /// Revokes a lease and deletes its keys.
    ///
    /// # Errors
    /// As etcd's `LeaseRevoke`.
    pub async fn lease_revoke(&self, id: i64) -> Result<LeaseRevokeResponse, Error> {
        let reply = self.propose(Op::LeaseRevoke(LeaseRevokeRequest { id }), false).await?;
        let mut response = reply_of!(reply, LeaseRevoke);
        self.shared.stamp(&mut response.header);
        Ok(response)
    }

    /// Renews a lease.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`] if it does not exist or its time is over.
    pub async fn lease_keep_alive(&self, id: i64) -> Result<LeaseKeepAliveResponse, Error> {
        let ttl = if self.shared.is_leader() {
            let (ttl, checkpointed) = self.shared.renew_lease(id, self.shared.now())?;
            if checkpointed {
                // What was left at the last checkpoint no longer holds: after a restart the lease is to live its full
                // time again.
                let checkpoints = vec![LeaseCheckpoint { id, remaining_ttl: 0 }];
                self.propose(Op::LeaseCheckpoint(LeaseCheckpointRequest { checkpoints }), false).await?;
            }
            ttl
        } else {
            match self.request(Request::KeepAlive(id), 0).await? {
                Outcome::KeptAlive { ttl_s } => ttl_s,
                _ => return Err(Error::Stopped),
            }
        };
        Ok(LeaseKeepAliveResponse { header: self.shared.header(), id, ttl })
    }

    /// Time left of a lease, and its keys if asked for; -1 if it does not exist.
    ///
    /// # Errors
    /// There is no leader to ask.
    pub async fn lease_time_to_live(
        &self,
        request: LeaseTimeToLiveRequest,
    ) -> Result<LeaseTimeToLiveResponse, Error> {
        let remaining = if self.shared.is_leader() {
            let now = self.shared.now();
            let remaining = self.shared.with_lessor(|lessor| lessor.remaining(request.id, now));
            remaining.filter(|remaining| !remaining.is_zero()).map(|remaining| remaining.as_secs() as i64)
        } else {
            match self.request(Request::TimeToLive(request.id), 0).await {
                Ok(Outcome::Remaining { remaining_s, .. }) => Some(remaining_s),
                Ok(_) | Err(Error::LeaseNotFound) => None,
                Err(error) => return Err(error),
            }
        };
        let state = self.shared.state.read();
        let header = self.shared.header_at(state.revision());
        Ok(match (state.lease(request.id), remaining) {
            (Some(lease), Some(remaining)) => LeaseTimeToLiveResponse {
                header,
                id: request.id,
                ttl: remaining,
                granted_ttl: lease.ttl_s,
                keys: if request.keys { lease.keys.iter().cloned().collect() } else { Vec::new() },
            },
            _ => LeaseTimeToLiveResponse { header, id: request.id, ttl: -1, ..Default::default() },
        })
    }

    /// All leases.
    pub fn lease_leases(&self) -> LeaseLeasesResponse {
        let state = self.shared.state.read();
        let leases = state.leases().map(|(id, _)| LeaseStatus { id }).collect();
        LeaseLeasesResponse { header: self.shared.header_at(state.revision()), leases }
    }
}
