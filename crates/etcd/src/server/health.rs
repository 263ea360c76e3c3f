//! `grpc.health.v1`: whether this member serves.

use std::sync::Arc;

use hyper::Response;
use isopod_kv::{Code, Error};
use tonic::Status;
use tonic::body::Body;

use super::rpc::Call;
use crate::engine::Engine;

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
/// Answer of a watch for a service that does not exist; it may come.
const SERVICE_UNKNOWN: i32 = 3;

fn status(engine: &Engine) -> i32 {
    if engine.is_healthy() { SERVING } else { NOT_SERVING }
}

/// The server as a whole has the empty name; there is no other, as in etcd.
pub(super) async fn check(
    engine: Arc<Engine>,
    request: HealthCheckRequest,
) -> Result<HealthCheckResponse, Error> {
    if !request.service.is_empty() {
        return Err(Error::other(Code::NotFound, "unknown service"));
    }
    Ok(HealthCheckResponse { status: status(&engine) })
}

/// The health now, and once more when the server ends.
pub(super) async fn watch(call: Call<'_>) -> Response<Body> {
    let shutdown = call.shutdown.clone();
    call.server_streaming(move |engine: Arc<Engine>, request: HealthCheckRequest| {
        let known = request.service.is_empty();
        let now = HealthCheckResponse { status: if known { status(&engine) } else { SERVICE_UNKNOWN } };
        let shutdown = shutdown.clone();
        let end = async move {
            shutdown.cancelled().await;
            Ok::<_, Status>(HealthCheckResponse { status: NOT_SERVING })
        };
        futures::StreamExt::chain(futures::stream::iter([Ok(now)]), futures::stream::once(end))
    })
    .await
}
