//! The Cluster service.

use std::sync::Arc;

use isopod_kv::{
    Error, Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse,
};

use crate::engine::Engine;
use crate::member::Change;

pub(super) async fn member_list(
    engine: Arc<Engine>,
    request: MemberListRequest,
) -> Result<MemberListResponse, Error> {
    engine.settle(!request.linearizable).await?;
    Ok(MemberListResponse { header: engine.shared().header(), members: engine.members() })
}

pub(super) async fn member_add(
    engine: Arc<Engine>,
    request: MemberAddRequest,
) -> Result<MemberAddResponse, Error> {
    let MemberAddRequest { peer_urls, is_learner } = request;
    check_urls(&peer_urls)?;
    let member = Member { id: crate::engine::new_id(), peer_urls, is_learner, ..Member::default() };
    let members = engine.change_membership(Change::Add(member.clone())).await?;
    Ok(MemberAddResponse { header: engine.shared().header(), member: Some(member), members })
}

pub(super) async fn member_remove(
    engine: Arc<Engine>,
    request: MemberRemoveRequest,
) -> Result<MemberRemoveResponse, Error> {
    let members = engine.change_membership(Change::Remove(request.id)).await?;
    Ok(MemberRemoveResponse { header: engine.shared().header(), members })
}

pub(super) async fn member_update(
    engine: Arc<Engine>,
    request: MemberUpdateRequest,
) -> Result<MemberUpdateResponse, Error> {
    let MemberUpdateRequest { id, peer_urls } = request;
    check_urls(&peer_urls)?;
    let members =
        engine.change_membership(Change::Update(Member { id, peer_urls, ..Member::default() })).await?;
    Ok(MemberUpdateResponse { header: engine.shared().header(), members })
}

pub(super) async fn member_promote(
    engine: Arc<Engine>,
    request: MemberPromoteRequest,
) -> Result<MemberPromoteResponse, Error> {
    let members = engine.change_membership(Change::Promote(request.id)).await?;
    Ok(MemberPromoteResponse { header: engine.shared().header(), members })
}

fn check_urls(urls: &[String]) -> Result<(), Error> {
    let good = |url: &String| crate::peer::Address::parse(url).is_some();
    if urls.is_empty() || !urls.iter().all(good) { Err(Error::MemberBadUrls) } else { Ok(()) }
}
