//! From a path to a method.

use std::future::Future;
use std::sync::Arc;

use futures::Stream;
use hyper::body::Incoming;
use hyper::{Request, Response};
use isopod_kv::grpc::method;
use isopod_kv::{Code, Error};
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

use super::{cluster, kv, lease, maintenance, watch};
use crate::engine::Engine;

/// What a message may be larger than the request that it carries: nothing bigger is even read.
const MESSAGE_OVERHEAD_BYTES: usize = 512 << 10;

/// One request to one method.
pub(super) struct Call<'a> {
    pub(super) engine: &'a Arc<Engine>,
    request: Request<Incoming>,
    pub(super) shutdown: CancellationToken,
}

/// Answers a gRPC request.
pub(super) async fn dispatch(
    engine: &Arc<Engine>,
    request: Request<Incoming>,
    shutdown: CancellationToken,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let call = Call { engine, request, shutdown };
    match path.as_str() {
        method::RANGE => call.unary(kv::range).await,
        method::PUT => call.unary(kv::put).await,
        method::DELETE_RANGE => call.unary(kv::delete_range).await,
        method::TXN => call.unary(kv::txn).await,
        method::COMPACT => call.unary(kv::compact).await,
        method::WATCH => watch::serve(call).await,
        method::LEASE_GRANT => call.unary(lease::grant).await,
        method::LEASE_REVOKE => call.unary(lease::revoke).await,
        method::LEASE_TIME_TO_LIVE => call.unary(lease::time_to_live).await,
        method::LEASE_LEASES => call.unary(lease::leases).await,
        method::LEASE_KEEP_ALIVE => lease::keep_alive(call).await,
        method::STATUS => call.unary(maintenance::status).await,
        method::ALARM => call.unary(maintenance::alarm).await,
        method::DEFRAGMENT => call.unary(maintenance::defragment).await,
        method::HASH => call.unary(maintenance::hash).await,
        method::HASH_KV => call.unary(maintenance::hash_kv).await,
        method::MOVE_LEADER => call.unary(maintenance::move_leader).await,
        method::SNAPSHOT => maintenance::snapshot(call).await,
        method::MEMBER_LIST => call.unary(cluster::member_list).await,
        method::MEMBER_ADD => call.unary(cluster::member_add).await,
        method::MEMBER_REMOVE => call.unary(cluster::member_remove).await,
        method::MEMBER_UPDATE => call.unary(cluster::member_update).await,
        method::MEMBER_PROMOTE => call.unary(cluster::member_promote).await,
        "/etcdserverpb.Auth/AuthStatus" => call.unary(cluster::auth_status).await,
        "/etcdserverpb.Auth/Authenticate" => call.unary(cluster::authenticate).await,
        "/grpc.health.v1.Health/Check" => call.unary(cluster::health).await,
        "/grpc.health.v1.Health/Watch" => cluster::watch_health(call).await,
        path => {
            let message = format!("etcdserver: method {path} is not supported");
            Status::from(Error::other(Code::Unimplemented, message)).into_http()
        }
    }
}

impl Call<'_> {
    fn grpc<Q, R>(&self) -> Grpc<ProstCodec<R, Q>>
    where
        Q: Message + Default + Send + 'static,
        R: Message + Send + 'static,
    {
        let limit = self.engine.config().max_request_bytes + MESSAGE_OVERHEAD_BYTES;
        Grpc::new(ProstCodec::default())
            .max_decoding_message_size(limit)
            .max_encoding_message_size(usize::MAX)
    }

    /// A method of one message each way.
    pub(super) async fn unary<Q, R, F>(self, method: impl Fn(Arc<Engine>, Q) -> F + Copy) -> Response<Body>
    where
        Q: Message + Default + Send + 'static,
        R: Message + Send + Sync + 'static,
        F: Future<Output = Result<R, Error>>,
    {
        let mut grpc = self.grpc::<Q, R>();
        let engine = self.engine.clone();
        let service = tower::service_fn(move |request: tonic::Request<Q>| {
            let answer = method(engine.clone(), request.into_inner());
            async move { Ok(tonic::Response::new(answer.await?)) }
        });
        grpc.unary(service, self.request).await
    }

    /// A method that answers with a stream.
    pub(super) async fn server_streaming<Q, R, S>(
        self,
        method: impl Fn(Arc<Engine>, Q) -> S,
    ) -> Response<Body>
    where
        Q: Message + Default + Send + 'static,
        R: Message + Send + 'static,
        S: Stream<Item = Result<R, Status>> + Send + 'static,
    {
        let mut grpc = self.grpc::<Q, R>();
        let engine = self.engine.clone();
        let service = tower::service_fn(move |request: tonic::Request<Q>| {
            let answers = method(engine.clone(), request.into_inner());
            async move { Ok(tonic::Response::new(answers)) }
        });
        grpc.server_streaming(service, self.request).await
    }

    /// A method with streams both ways.
    pub(super) async fn streaming<Q, R, S>(
        self,
        method: impl Fn(Arc<Engine>, Streaming<Q>) -> S + Send,
    ) -> Response<Body>
    where
        Q: Message + Default + Send + 'static,
        R: Message + Send + 'static,
        S: Stream<Item = Result<R, Status>> + Send + 'static,
    {
        let mut grpc = self.grpc::<Q, R>();
        let engine = self.engine.clone();
        let service = tower::service_fn(move |request: tonic::Request<Streaming<Q>>| {
            let answers = method(engine.clone(), request.into_inner());
            async move { Ok(tonic::Response::new(answers)) }
        });
        grpc.streaming(service, self.request).await
    }
}
