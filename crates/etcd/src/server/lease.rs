//! The Lease service.

use std::sync::Arc;

use futures::StreamExt;
use hyper::Response;
use isopod_kv::{
    Error, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};
use isopod_mvcc::{Caller, State};
use tonic::body::Body;
use tonic::{Status, Streaming};

use super::rpc::Call;
use crate::engine::{Engine, as_caller};

pub(super) async fn grant(
    engine: Arc<Engine>,
    request: LeaseGrantRequest,
) -> Result<LeaseGrantResponse, Error> {
    engine.lease_grant(request).await
}

pub(super) async fn revoke(
    engine: Arc<Engine>,
    request: LeaseRevokeRequest,
) -> Result<LeaseRevokeResponse, Error> {
    engine.lease_revoke(request.id).await
}

pub(super) async fn time_to_live(
    engine: Arc<Engine>,
    request: LeaseTimeToLiveRequest,
) -> Result<LeaseTimeToLiveResponse, Error> {
    let (id, keys) = (request.id, request.keys);
    let check = |state: &State, caller: &Caller| {
        state.auth().check_authenticated(caller)?;
        if keys { state.check_lease_read(caller, id) } else { Ok(()) }
    };
    engine.checked(check, engine.lease_time_to_live(request)).await
}

pub(super) async fn leases(
    engine: Arc<Engine>,
    _request: LeaseLeasesRequest,
) -> Result<LeaseLeasesResponse, Error> {
    let check = |state: &State, caller: &Caller| {
        state.auth().check_authenticated(caller)?;
        state.leases().try_for_each(|(id, _)| state.check_lease_read(caller, id))
    };
    engine.checked(check, async { Ok(engine.lease_leases()) }).await
}

/// One answer for each request, in order, for as long as the client keeps asking.
pub(super) async fn keep_alive(call: Call<'_>) -> Response<Body> {
    let shutdown = call.shutdown.clone();
    let credentials = call.credentials.clone();
    call.streaming(move |engine: Arc<Engine>, requests: Streaming<LeaseKeepAliveRequest>| {
        let requests = requests.take_until(shutdown.clone().cancelled_owned());
        let credentials = credentials.clone();
        requests.then(move |request| {
            let (engine, credentials) = (engine.clone(), credentials.clone());
            async move {
                // Anew for each: rights may end while the stream goes on.
                let caller = credentials.caller(&engine).await?;
                as_caller(caller, renew(&engine, request?)).await
            }
        })
    })
    .await
}

/// A lease that is gone is answered with a TTL of 0.
async fn renew(engine: &Engine, request: LeaseKeepAliveRequest) -> Result<LeaseKeepAliveResponse, Status> {
    let check = |state: &State, caller: &Caller| {
        state.auth().check_authenticated(caller)?;
        state.check_lease_write(caller, request.id)
    };
    match engine.checked(check, engine.lease_keep_alive(request.id)).await {
        Ok(response) => Ok(response),
        Err(Error::LeaseNotFound) => {
            Ok(LeaseKeepAliveResponse { header: engine.shared().header(), id: request.id, ttl: 0 })
        }
        Err(error) => Err(error.into()),
    }
}
