//! What the log holds: commands, encoded as protobuf.
//!
//! A tag is never given a new meaning: a member that finds an operation it does not know must stop rather than
//! skip it, or it would diverge from the others. Tags 16 and up are free for users, roles and membership.

use isopod_kv::{
    AlarmRequest, CompactionRequest, DeleteRangeRequest, LeaseCheckpointRequest, LeaseGrantRequest,
    LeaseRevokeRequest, PutRequest, TxnRequest,
};

/// One entry's payload.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct Command {
    /// The operation. Absent in the empty entry with which a leader begins its term.
    #[prost(oneof = "Op", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    pub op: Option<Op>,
}

/// An operation on the state. The requests are the client's own.
#[derive(Clone, PartialEq, Eq, ::prost::Oneof)]
pub enum Op {
    /// Write one key.
    #[prost(message, tag = "1")]
    Put(PutRequest),
    /// Delete a range.
    #[prost(message, tag = "2")]
    DeleteRange(DeleteRangeRequest),
    /// Compare and write.
    #[prost(message, tag = "3")]
    Txn(TxnRequest),
    /// Drop history.
    #[prost(message, tag = "4")]
    Compact(CompactionRequest),
    /// Grant a lease; the ID has been chosen before the command entered the log.
    #[prost(message, tag = "5")]
    LeaseGrant(LeaseGrantRequest),
    /// Revoke a lease, by request or because it expired.
    #[prost(message, tag = "6")]
    LeaseRevoke(LeaseRevokeRequest),
    /// Remember how much of long leases remains, so that a restart does not renew them.
    #[prost(message, tag = "7")]
    LeaseCheckpoint(LeaseCheckpointRequest),
    /// Raise or clear an alarm.
    #[prost(message, tag = "8")]
    Alarm(AlarmRequest),
}

impl From<Op> for Command {
    fn from(op: Op) -> Command {
        Command { op: Some(op) }
    }
}
