//! One call over a channel, without generated code.

use http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use crate::Error;

/// Paths of etcd's methods.
pub mod method {
    macro_rules! methods {
        ($($name:ident = $path:literal;)*) => { $(#[doc = concat!("`", $path, "`")] pub const $name: &str = $path;)* };
    }
    methods! {
        RANGE = "/etcdserverpb.KV/Range";
        PUT = "/etcdserverpb.KV/Put";
        DELETE_RANGE = "/etcdserverpb.KV/DeleteRange";
        TXN = "/etcdserverpb.KV/Txn";
        COMPACT = "/etcdserverpb.KV/Compact";
        WATCH = "/etcdserverpb.Watch/Watch";
        LEASE_GRANT = "/etcdserverpb.Lease/LeaseGrant";
        LEASE_REVOKE = "/etcdserverpb.Lease/LeaseRevoke";
        LEASE_KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive";
        LEASE_TIME_TO_LIVE = "/etcdserverpb.Lease/LeaseTimeToLive";
        LEASE_LEASES = "/etcdserverpb.Lease/LeaseLeases";
        STATUS = "/etcdserverpb.Maintenance/Status";
        ALARM = "/etcdserverpb.Maintenance/Alarm";
        DEFRAGMENT = "/etcdserverpb.Maintenance/Defragment";
        HASH = "/etcdserverpb.Maintenance/Hash";
        HASH_KV = "/etcdserverpb.Maintenance/HashKV";
        SNAPSHOT = "/etcdserverpb.Maintenance/Snapshot";
        MOVE_LEADER = "/etcdserverpb.Maintenance/MoveLeader";
        MEMBER_LIST = "/etcdserverpb.Cluster/MemberList";
        MEMBER_ADD = "/etcdserverpb.Cluster/MemberAdd";
        MEMBER_REMOVE = "/etcdserverpb.Cluster/MemberRemove";
        MEMBER_UPDATE = "/etcdserverpb.Cluster/MemberUpdate";
        MEMBER_PROMOTE = "/etcdserverpb.Cluster/MemberPromote";
        AUTH_ENABLE = "/etcdserverpb.Auth/AuthEnable";
        AUTH_DISABLE = "/etcdserverpb.Auth/AuthDisable";
        AUTH_STATUS = "/etcdserverpb.Auth/AuthStatus";
        AUTHENTICATE = "/etcdserverpb.Auth/Authenticate";
        USER_ADD = "/etcdserverpb.Auth/UserAdd";
        USER_GET = "/etcdserverpb.Auth/UserGet";
        USER_LIST = "/etcdserverpb.Auth/UserList";
        USER_DELETE = "/etcdserverpb.Auth/UserDelete";
        USER_CHANGE_PASSWORD = "/etcdserverpb.Auth/UserChangePassword";
        USER_GRANT_ROLE = "/etcdserverpb.Auth/UserGrantRole";
        USER_REVOKE_ROLE = "/etcdserverpb.Auth/UserRevokeRole";
        ROLE_ADD = "/etcdserverpb.Auth/RoleAdd";
        ROLE_GET = "/etcdserverpb.Auth/RoleGet";
        ROLE_LIST = "/etcdserverpb.Auth/RoleList";
        ROLE_DELETE = "/etcdserverpb.Auth/RoleDelete";
        ROLE_GRANT_PERMISSION = "/etcdserverpb.Auth/RoleGrantPermission";
        ROLE_REVOKE_PERMISSION = "/etcdserverpb.Auth/RoleRevokePermission";
        LOCK = "/v3lockpb.Lock/Lock";
        UNLOCK = "/v3lockpb.Lock/Unlock";
        CAMPAIGN = "/v3electionpb.Election/Campaign";
        PROCLAIM = "/v3electionpb.Election/Proclaim";
        LEADER = "/v3electionpb.Election/Leader";
        OBSERVE = "/v3electionpb.Election/Observe";
        RESIGN = "/v3electionpb.Election/Resign";
    }
}

/// Calls a unary method.
///
/// # Errors
/// What the server answered, or `Unavailable` when it was not reached.
pub async fn unary<Q, R>(channel: &Channel, path: &'static str, request: Q) -> Result<R, Error>
where
    Q: Message + Send + Sync + 'static,
    R: Message + Default + Send + Sync + 'static,
{
    let mut grpc = ready(channel).await?;
    let codec = ProstCodec::<Q, R>::default();
    Ok(grpc.unary(tonic::Request::new(request), PathAndQuery::from_static(path), codec).await?.into_inner())
}

/// A dispatcher that can take a request now. Answers have no size limit: the server bounds them, and a page of the
/// API server may hold many megabytes.
pub(super) async fn ready(channel: &Channel) -> Result<Grpc<Channel>, Error> {
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
    grpc.ready().await.map_err(|error| Error::other(crate::Code::Unavailable, error.to_string()))?;
    Ok(grpc)
}
