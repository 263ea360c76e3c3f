//! From a path to a method.

use std::future::Future;
use std::sync::Arc;

use futures::Stream;
use hyper::body::Incoming;
use hyper::{Request, Response};
use isopod_kv::grpc::method;
use isopod_kv::{Code, Error};
use isopod_mvcc::Caller;
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

use super::auth::{Credentials, Rights};
use super::counted::{Measured, measured};
use super::{auth, cluster, concurrency, health, kv, lease, maintenance, watch};
use crate::engine::{Engine, as_caller};

/// What a message may be larger than the request that it carries: nothing bigger is even read.
const MESSAGE_OVERHEAD_BYTES: usize = 512 << 10;

/// One request to one method.
pub(super) struct Call<'a> {
    pub(super) engine: &'a Arc<Engine>,
    request: Request<Incoming>,
    pub(super) shutdown: CancellationToken,
    pub(super) credentials: Arc<Credentials>,
    rights: Rights,
}

/// What a method asks of its caller before it is called.
fn rights(path: &str) -> Rights {
    match path {
        method::AUTHENTICATE | method::AUTH_STATUS => Rights::Nobody,
        method::STATUS | method::MEMBER_LIST => Rights::Known,
        method::DEFRAGMENT | method::HASH | method::HASH_KV | method::MOVE_LEADER | method::SNAPSHOT => {
            Rights::Root
        }
        method::MEMBER_ADD | method::MEMBER_REMOVE | method::MEMBER_UPDATE | method::MEMBER_PROMOTE => {
            Rights::Root
        }
        path if path.starts_with(HEALTH) => Rights::Nobody,
        _ => Rights::Method,
    }
}

/// Whether the client wants no answer from a member that knows of no leader.
fn requires_leader(request: &Request<Incoming>) -> bool {
    request.headers().get("hasleader").is_some_and(|value| value.as_bytes() == b"true")
}

/// The service that balancers ask.
const HEALTH: &str = "/grpc.health.v1.Health/";

/// Answers a gRPC request.
pub(super) async fn dispatch(
    engine: &Arc<Engine>,
    request: Request<Incoming>,
    credentials: Credentials,
    shutdown: CancellationToken,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if requires_leader(&request) && engine.leader() == 0 {
        return Status::from(Error::NoLeader).into_http();
    }
    let credentials = Arc::new(credentials);
    let call = Call { engine, request, shutdown, credentials, rights: rights(&path) };
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
        method::ALARM => call.unary(auth::alarm).await,
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
        method::AUTH_ENABLE => call.unary(auth::enable).await,
        method::AUTH_DISABLE => call.unary(auth::disable).await,
        method::AUTH_STATUS => call.unary(auth::status).await,
        method::AUTHENTICATE => call.unary(auth::authenticate).await,
        method::USER_ADD => call.unary(auth::user_add).await,
        method::USER_GET => call.unary(auth::user_get).await,
        method::USER_LIST => call.unary(auth::user_list).await,
        method::USER_DELETE => call.unary(auth::user_delete).await,
        method::USER_CHANGE_PASSWORD => call.unary(auth::user_change_password).await,
        method::USER_GRANT_ROLE => call.unary(auth::user_grant_role).await,
        method::USER_REVOKE_ROLE => call.unary(auth::user_revoke_role).await,
        method::ROLE_ADD => call.unary(auth::role_add).await,
        method::ROLE_GET => call.unary(auth::role_get).await,
        method::ROLE_LIST => call.unary(auth::role_list).await,
        method::ROLE_DELETE => call.unary(auth::role_delete).await,
        method::ROLE_GRANT_PERMISSION => call.unary(auth::role_grant_permission).await,
        method::ROLE_REVOKE_PERMISSION => call.unary(auth::role_revoke_permission).await,
        method::LOCK => call.unary(concurrency::lock).await,
        method::UNLOCK => call.unary(concurrency::unlock).await,
        method::CAMPAIGN => call.unary(concurrency::campaign).await,
        method::PROCLAIM => call.unary(concurrency::proclaim).await,
        method::LEADER => call.unary(concurrency::leader).await,
        method::RESIGN => call.unary(concurrency::resign).await,
        method::OBSERVE => concurrency::observe(call).await,
        "/grpc.health.v1.Health/Check" => call.unary(health::check).await,
        "/grpc.health.v1.Health/Watch" => health::watch(call).await,
        path => {
            let message = format!("etcdserver: method {path} is not supported");
            Status::from(Error::other(Code::Unimplemented, message)).into_http()
        }
    }
}

impl Call<'_> {
    /// Whether the client wants no answer from a member that knows of no leader.
    pub(super) fn requires_leader(&self) -> bool {
        requires_leader(&self.request)
    }

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

    /// Who calls, if that is enough for this method.
    async fn caller(credentials: &Credentials, engine: &Engine, rights: Rights) -> Result<Caller, Error> {
        if rights == Rights::Nobody {
            return Ok(Caller::default());
        }
        let caller = credentials.caller(engine).await?;
        rights.check(engine, &caller)?;
        Ok(caller)
    }

    /// A method of one message each way.
    pub(super) async fn unary<Q, R, F>(
        self,
        method: impl Fn(Arc<Engine>, Q) -> F + Copy + Send + 'static,
    ) -> Response<Body>
    where
        Q: Message + Default + Send + 'static,
        R: Message + Send + Sync + 'static,
        F: Future<Output = Result<R, Error>> + Send,
    {
        let mut grpc = self.grpc::<Q, R>();
        let call = Arc::new(Measured::begin("unary", self.request.uri().path()));
        let (engine, credentials, rights) = (self.engine.clone(), self.credentials, self.rights);
        let service = tower::service_fn(move |request: tonic::Request<Q>| {
            let (engine, credentials, call) = (engine.clone(), credentials.clone(), call.clone());
            async move {
                let answer = async {
                    let caller = Self::caller(&credentials, &engine, rights).await?;
                    as_caller(caller, method(engine, request.into_inner())).await
                };
                let answer = answer.await;
                call.done(answer.as_ref().map_or_else(Error::code, |_| Code::Ok));
                Ok(tonic::Response::new(answer?))
            }
        });
        grpc.unary(service, self.request).await
    }

    /// A method that answers with a stream.
    pub(super) async fn server_streaming<Q, R, S>(
        self,
        method: impl Fn(Arc<Engine>, Q) -> S + Clone + Send + 'static,
    ) -> Response<Body>
    where
        Q: Message + Default + Send + 'static,
        R: Message + Send + 'static,
        S: Stream<Item = Result<R, Status>> + Send + 'static,
    {
        let mut grpc = self.grpc::<Q, R>();
        let call = Arc::new(Measured::begin("server_stream", self.request.uri().path()));
        let (engine, credentials, rights) = (self.engine.clone(), self.credentials, self.rights);
        let service = tower::service_fn(move |request: tonic::Request<Q>| {
            let (engine, credentials, method) = (engine.clone(), credentials.clone(), method.clone());
            let call = call.clone();
            async move {
                let allowed = Self::caller(&credentials, &engine, rights).await;
                if let Err(error) = allowed {
                    call.done(error.code());
                    return Err(error.into());
                }
                Ok(tonic::Response::new(measured(call, method(engine, request.into_inner()))))
            }
        });
        grpc.server_streaming(service, self.request).await
    }

    /// A method with streams both ways. It looks at its caller for each message by itself.
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
        let call = Arc::new(Measured::begin("bidi_stream", self.request.uri().path()));
        let engine = self.engine.clone();
        let service = tower::service_fn(move |request: tonic::Request<Streaming<Q>>| {
            let answers = measured(call.clone(), method(engine.clone(), request.into_inner()));
            async move { Ok(tonic::Response::new(answers)) }
        });
        grpc.streaming(service, self.request).await
    }
}
