//! Calls to an API server in the same process: its layers are entered through a tower service, without sockets,
//! TLS or tokens, but with an identity, so that authorisation applies as to anyone.
//!
//! The identity is a request extension. Extensions do not travel over the wire and [`InProcessIdentity`] can be
//! constructed in this module alone, so a client on the network cannot claim one.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use isopod_api::identity::UserInfo;
use kube::client::Body;
use tower::{BoxError, Service};

/// Who makes an in-process request.
#[derive(Debug, Clone)]
pub struct InProcessIdentity(Arc<UserInfo>);

impl InProcessIdentity {
    /// The caller.
    pub fn user(&self) -> &UserInfo {
        &self.0
    }
}

/// A client whose requests go to `service` in the name of `user`. Must be called within a tokio runtime.
pub fn in_process<S, B>(service: S, user: UserInfo) -> kube::Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    kube::Client::new(Identified { service, identity: InProcessIdentity(Arc::new(user)) }, "default")
}

/// Puts the identity on each request.
struct Identified<S> {
    service: S,
    identity: InProcessIdentity,
}

impl<S, B> Service<Request<Body>> for Identified<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.extensions_mut().insert(self.identity.clone());
        self.service.call(request)
    }
}
