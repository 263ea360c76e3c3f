//! Connections: accept, TLS, HTTP/1.1 and HTTP/2, graceful shutdown.

use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::PeerAddress;
use crate::body::BoxError;
use crate::layers::PeerCertificates;
use crate::limits;
use crate::server::ApiServer;

/// Pause after a failed accept: out of descriptors, most likely.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

impl ApiServer {
    /// Serves connections until `shutdown`, then lets open requests finish for a while. `tls` should offer
    /// `h2` and `http/1.1` by ALPN and ask for (not require) client certificates.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        shutdown: CancellationToken,
    ) {
        let acceptor = TlsAcceptor::from(tls);
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
            let _ = stream.set_nodelay(true);
            let (server, acceptor, shutdown) = (Arc::clone(&self), acceptor.clone(), shutdown.clone());
            connections.spawn(async move {
                let _place = place;
                let handshake = tokio::time::timeout(limits::TLS_HANDSHAKE_TIMEOUT, acceptor.accept(stream));
                let outcome = tokio::select! {
                    outcome = handshake => outcome,
                    () = shutdown.cancelled() => return,
                };
                let stream = match outcome {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "TLS handshake failed");
                        return;
                    }
                    Err(_) => return,
                };
                let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                let peer = PeerCertificates(chain.iter().map(|c| c.clone().into_owned()).collect());
                server.connection_from(stream, peer, Some(from), shutdown).await;
            });
        }
        drop(listener);
        // Watches would keep their connections open for as long as they may.
        self.stop();
        connections.close();
        if tokio::time::timeout(limits::SHUTDOWN_GRACE, connections.wait()).await.is_err() {
            tracing::warn!("some requests were still open when the server stopped");
        }
    }

    /// Serves one connection from an unknown address.
    pub async fn connection<S>(
        self: Arc<Self>,
        stream: S,
        peer: PeerCertificates,
        shutdown: CancellationToken,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.connection_from(stream, peer, None, shutdown).await;
    }

    /// Serves one connection.
    async fn connection_from<S>(
        self: Arc<Self>,
        stream: S,
        peer: PeerCertificates,
        from: Option<SocketAddr>,
        shutdown: CancellationToken,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(move |mut request: http::Request<Incoming>| {
            let server = Arc::clone(&self);
            request.extensions_mut().insert(peer.clone());
            if let Some(from) = from {
                request.extensions_mut().insert(PeerAddress(from));
            }
            async move {
                let request = request.map(|b| b.map_err(|e| -> BoxError { e.into() }).boxed_unsync());
                Ok::<_, std::convert::Infallible>(server.handle(request).await)
            }
        });
        let builder = builder();
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "a connection ended with an error");
        }
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_READ_TIMEOUT)
        .max_buf_size(limits::HEADER_BYTES_MAX)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::HTTP2_STREAMS_MAX)
        .max_header_list_size(u32::try_from(limits::HEADER_BYTES_MAX).unwrap_or(u32::MAX))
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .keep_alive_interval(std::time::Duration::from_secs(30))
        .keep_alive_timeout(std::time::Duration::from_secs(15));
    builder
}
