//! A small HTTP server for health and metrics: one handler from path to answer.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Most connections at a time. Probes and scrapers are few; anyone else waits.
const CONNECTIONS_MAX: usize = 64;

/// Longest a client may take for its request head, and pause between two bind attempts.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// An answer.
pub(crate) type Answer = Response<Full<Bytes>>;

/// From path to answer.
pub(crate) type Handler = Arc<dyn Fn(&str) -> Answer + Send + Sync>;

/// Serves until `shutdown`. An address that is taken is tried again: it does not stop the proxy from proxying.
pub(crate) async fn serve(at: SocketAddr, what: &'static str, handler: Handler, shutdown: CancellationToken) {
    let mut told = false;
    let listener = loop {
        match TcpListener::bind(at).await {
            Ok(listener) => break listener,
            Err(error) if !told => {
                tracing::warn!(what, address = %at, error = %error, "cannot listen; trying again");
                told = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(HEAD_TIMEOUT) => {}
        }
    };
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = async {
                let slot = slots.clone().acquire_owned().await;
                (listener.accept().await, slot)
            } => accepted,
        };
        let (Ok((stream, _)), Ok(slot)) = accepted else {
            // Out of descriptors, most likely: give others time to close some.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (handler, shutdown) = (handler.clone(), shutdown.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = handler(request.uri().path());
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = shutdown.cancelled() => {}
                // A client that went away is nobody's error.
                _ = connection => {}
            }
            drop(slot);
        });
    }
}

/// An answer of one type and text.
pub(crate) fn answer(status: u16, content_type: &str, body: impl Into<Bytes>) -> Answer {
    Response::builder()
        .status(status)
        .header("Content-Type", content_type)
        .header("X-Content-Type-Options", "nosniff")
        .body(Full::new(body.into()))
        .expect("a valid response")
}
