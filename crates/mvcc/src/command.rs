//! What the log holds: commands, encoded as protobuf.
//!
//! A tag is never given a new meaning: a member that finds an operation it does not know must stop rather than
//! skip it, or it would diverge from the others. Tags 16 to 19 and 40 and up are free.

use isopod_kv::{
    AlarmRequest, AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleDeleteRequest,
    AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGrantRoleRequest,
    AuthUserRevokeRoleRequest, CompactionRequest, DeleteRangeRequest, LeaseCheckpointRequest,
    LeaseGrantRequest, LeaseRevokeRequest, PutRequest, TxnRequest,
};

use crate::auth::{Authenticate, Caller};

/// One entry's payload.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct Command {
    /// The operation. Absent in the empty entry with which a leader begins its term.
    #[prost(oneof = "Op", tags = "1, 2, 3, 4, 5, 6, 7, 8, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31")]
    pub op: Option<Op>,
    /// On whose behalf; none for the store itself and for callers in its process, who may do everything.
    #[prost(message, optional, tag = "15")]
    pub caller: Option<Caller>,
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
    /// Begin to check who may do what.
    #[prost(message, tag = "20")]
    AuthEnable(AuthEnableRequest),
    /// End it.
    #[prost(message, tag = "21")]
    AuthDisable(AuthDisableRequest),
    /// Issue a token.
    #[prost(message, tag = "22")]
    Authenticate(Authenticate),
    /// Add a user; the password has been replaced by its hash.
    #[prost(message, tag = "23")]
    UserAdd(AuthUserAddRequest),
    /// Delete a user.
    #[prost(message, tag = "24")]
    UserDelete(AuthUserDeleteRequest),
    /// Change a password; it has been replaced by its hash.
    #[prost(message, tag = "25")]
    UserChangePassword(AuthUserChangePasswordRequest),
    /// Give a user a role.
    #[prost(message, tag = "26")]
    UserGrantRole(AuthUserGrantRoleRequest),
    /// Take a role from a user.
    #[prost(message, tag = "27")]
    UserRevokeRole(AuthUserRevokeRoleRequest),
    /// Add a role.
    #[prost(message, tag = "28")]
    RoleAdd(AuthRoleAddRequest),
    /// Delete a role.
    #[prost(message, tag = "29")]
    RoleDelete(AuthRoleDeleteRequest),
    /// Give a role a range.
    #[prost(message, tag = "30")]
    RoleGrantPermission(AuthRoleGrantPermissionRequest),
    /// Take a range from a role.
    #[prost(message, tag = "31")]
    RoleRevokePermission(AuthRoleRevokePermissionRequest),
}

impl From<Op> for Command {
    fn from(op: Op) -> Command {
        Command { op: Some(op), caller: None }
    }
}

impl Op {
    /// Whether this concerns users and roles rather than keys.
    pub(crate) fn is_auth(&self) -> bool {
        !matches!(
            self,
            Op::Put(_)
                | Op::DeleteRange(_)
                | Op::Txn(_)
                | Op::Compact(_)
                | Op::LeaseGrant(_)
                | Op::LeaseRevoke(_)
                | Op::LeaseCheckpoint(_)
                | Op::Alarm(_)
        )
    }
}
