//! The Cluster service of a group of one, and the parts of Auth and Health that such a member answers.

use std::sync::Arc;

use hyper::Response;
use isopod_kv::{
    AuthStatusRequest, AuthStatusResponse, AuthenticateRequest, AuthenticateResponse, Code, Error,
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest,
    MemberUpdateResponse,
};
use tonic::Status;
use tonic::body::Body;

use super::rpc::Call;
use crate::engine::Engine;

pub(super) async fn member_list(
    engine: Arc<Engine>,
    _request: MemberListRequest,
) -> Result<MemberListResponse, Error> {
    Ok(MemberListResponse { header: engine.shared().header(), members: engine.members() })
}

pub(super) async fn member_add(
    _engine: Arc<Engine>,
    _request: MemberAddRequest,
) -> Result<MemberAddResponse, Error> {
    Err(alone())
}

/// The last member cannot be removed: nobody would be left to agree.
pub(super) async fn member_remove(
    engine: Arc<Engine>,
    request: MemberRemoveRequest,
) -> Result<MemberRemoveResponse, Error> {
    known(&engine, request.id)?;
    Err(Error::MemberNotEnoughStarted)
}

pub(super) async fn member_update(
    engine: Arc<Engine>,
    request: MemberUpdateRequest,
) -> Result<MemberUpdateResponse, Error> {
    known(&engine, request.id)?;
    Err(alone())
}

pub(super) async fn member_promote(
    engine: Arc<Engine>,
    request: MemberPromoteRequest,
) -> Result<MemberPromoteResponse, Error> {
    known(&engine, request.id)?;
    Err(Error::MemberNotLearner)
}

fn known(engine: &Engine, id: u64) -> Result<(), Error> {
    if id == engine.member_id() { Ok(()) } else { Err(Error::MemberNotFound) }
}

fn alone() -> Error {
    Error::other(Code::FailedPrecondition, "etcdserver: this member is not part of a replicated cluster")
}

pub(super) async fn auth_status(
    engine: Arc<Engine>,
    _request: AuthStatusRequest,
) -> Result<AuthStatusResponse, Error> {
    Ok(AuthStatusResponse { header: engine.shared().header(), enabled: false, auth_revision: 1 })
}

pub(super) async fn authenticate(
    _engine: Arc<Engine>,
    _request: AuthenticateRequest,
) -> Result<AuthenticateResponse, Error> {
    Err(Error::AuthNotEnabled)
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub(super) struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, Copy, PartialEq, Eq, ::prost::Message)]
pub(super) struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;

pub(super) async fn health(
    engine: Arc<Engine>,
    _request: HealthCheckRequest,
) -> Result<HealthCheckResponse, Error> {
    Ok(HealthCheckResponse { status: if engine.is_healthy() { SERVING } else { NOT_SERVING } })
}

/// The health now, and once more when the server ends.
pub(super) async fn watch_health(call: Call<'_>) -> Response<Body> {
    let shutdown = call.shutdown.clone();
    call.server_streaming(move |engine: Arc<Engine>, _: HealthCheckRequest| {
        let now = HealthCheckResponse { status: if engine.is_healthy() { SERVING } else { NOT_SERVING } };
        let shutdown = shutdown.clone();
        let end = async move {
            shutdown.cancelled().await;
            Ok::<_, Status>(HealthCheckResponse { status: NOT_SERVING })
        };
        futures::StreamExt::chain(futures::stream::iter([Ok(now)]), futures::stream::once(end))
    })
    .await
}
