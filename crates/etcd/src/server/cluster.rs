//! The Cluster service of a group of one.

use std::sync::Arc;

use isopod_kv::{
    Code, Error, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse,
};

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
