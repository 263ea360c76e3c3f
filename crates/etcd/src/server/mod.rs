//! etcd's gRPC API before an [`Engine`].
//!
//! One HTTP service answers a connection, whether it speaks HTTP/2 (gRPC) or HTTP/1.1 (health, version, metrics, as
//! etcd answers them on its client port too). Requests are bounded in size, handshakes and heads in time; watches
//! are held back by the client's own flow control.

mod auth;
mod cluster;
mod concurrency;
mod counted;
mod health;
mod http;
mod kv;
mod lease;
mod maintenance;
mod rpc;
mod watch;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use self::counted::Counted;
use crate::engine::Engine;

/// Connections at once over all listeners. Clients multiplex over few; beyond this somebody leaks them.
const CONNECTIONS_MAX: usize = 10_000;
/// Requests at once on a connection. An API server keeps one for every watch.
const STREAMS_MAX: u32 = 10_000;
/// What a client may send ahead on one stream, in bytes.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// What a client may send ahead on a connection, in bytes. The transport also bounds small frames by half of this,
/// and takes more of them for an attack: a thousand small requests at once must not end the connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an HTTP/1.1 client may take over its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Size of the list of headers, in bytes.
const HEADERS_MAX: u32 = 64 << 10;
/// Idle time after which a connection is probed; etcd's default is two hours, which outlives many firewalls.
const PING_INTERVAL: Duration = Duration::from_secs(60);
/// How long a probe may stay unanswered.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long open requests may take after the end has been asked for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept: without file descriptors the next one fails too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where a member listens.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For clients: the gRPC API, with TLS if there is a TLS configuration.
    pub client: Vec<TcpListener>,
    /// For `/health`, `/livez`, `/readyz`, `/version` and `/metrics`, in plain HTTP: meant for loopback.
    pub metrics: Vec<TcpListener>,
}

/// Serves until `shutdown`; then open requests are given a few seconds. The engine goes on.
///
/// `tls` decides about client certificates; its list of application protocols is replaced.
///
/// # Errors
/// None at present: what fails on one connection ends only that.
pub async fn serve(
    engine: Arc<Engine>,
    listeners: Listeners,
    tls: Option<Arc<rustls::ServerConfig>>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    crate::metrics::announce();
    let tls = tls.map(|config| {
        let mut config = (*config).clone();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        tokio_rustls::TlsAcceptor::from(Arc::new(config))
    });
    let server = Server {
        engine,
        shutdown: shutdown.clone(),
        slots: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        graceful: Arc::new(GracefulShutdown::new()),
    };
    let mut tasks = tokio::task::JoinSet::new();
    for listener in listeners.client {
        tasks.spawn(server.clone().accept(listener, tls.clone(), true));
    }
    for listener in listeners.metrics {
        tasks.spawn(server.clone().accept(listener, None, false));
    }
    while tasks.join_next().await.is_some() {}
    // Nobody accepts any more; the last reference to the watchers of connections is ours.
    if let Some(graceful) = Arc::into_inner(server.graceful) {
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await;
    }
    Ok(())
}

#[derive(Clone)]
struct Server {
    engine: Arc<Engine>,
    shutdown: CancellationToken,
    slots: Arc<Semaphore>,
    graceful: Arc<GracefulShutdown>,
}

impl Server {
    async fn accept(self, listener: TcpListener, tls: Option<tokio_rustls::TlsAcceptor>, api: bool) {
        loop {
            let slot = tokio::select! {
                slot = self.slots.clone().acquire_owned() => slot.expect("never closed"),
                () = self.shutdown.cancelled() => return,
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.shutdown.cancelled() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let watcher = self.graceful.watcher();
            let (engine, tls, shutdown) = (self.engine.clone(), tls.clone(), self.shutdown.clone());
            tokio::spawn(async move {
                let _slot = slot;
                let _ = stream.set_nodelay(true);
                if let Some((stream, common_name)) = handshake(stream, tls).await {
                    let context = Context { engine, api, shutdown, common_name };
                    connection(stream, context, watcher).await;
                }
            });
        }
    }
}

/// A connection, with or without TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Takes a connection; with TLS also the name in the client's certificate, if it was asked for one.
pub(crate) async fn handshake(
    stream: TcpStream,
    tls: Option<tokio_rustls::TlsAcceptor>,
) -> Option<(Box<dyn Stream>, Option<String>)> {
    let Some(tls) = tls else { return Some((Box::new(Counted(stream)), None)) };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let common_name = certificate.and_then(|certificate| auth::common_name(certificate));
            Some((Box::new(Counted(stream)), common_name))
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

/// What the requests of a connection share.
#[derive(Clone)]
struct Context {
    engine: Arc<Engine>,
    /// Whether gRPC is answered.
    api: bool,
    shutdown: CancellationToken,
    /// The client's, from its certificate.
    common_name: Option<String>,
}

async fn connection(
    stream: Box<dyn Stream>,
    context: Context,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let service = hyper::service::service_fn(move |request| {
        let context = context.clone();
        async move { Ok::<_, Infallible>(answer(context, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "connection ended");
    }
}

async fn answer(context: Context, request: hyper::Request<Incoming>) -> hyper::Response<Body> {
    let grpc = request
        .headers()
        .get(hyper::header::CONTENT_TYPE)
        .is_some_and(|content_type| content_type.as_bytes().starts_with(b"application/grpc"));
    if context.api && grpc {
        let credentials = auth::Credentials::new(request.headers(), context.common_name);
        rpc::dispatch(&context.engine, request, credentials, context.shutdown).await
    } else {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        http::answer(&context.engine, method, uri).await
    }
}
