//! The server as a tower service for callers in this process.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;

use crate::body::{Body, BoxError};
use crate::server::ApiServer;

/// Enters the layers without a socket. The identity travels as a request extension that only
/// `isopod_client::in_process` can make.
#[derive(Debug, Clone)]
pub struct Service(Arc<ApiServer>);

impl Service {
    /// A service on a server.
    pub fn new(server: Arc<ApiServer>) -> Service {
        Service(server)
    }
}

impl<B> tower::Service<Request<B>> for Service
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = Arc::clone(&self.0);
        let request = request.map(|b| b.map_err(|e| -> BoxError { e.into() }).boxed_unsync());
        Box::pin(async move { Ok(server.handle(request).await) })
    }
}
