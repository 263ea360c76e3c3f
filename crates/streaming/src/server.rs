//! The HTTP server: takes a token, negotiates the protocol, upgrades the connection.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::backend::{Backend, Session};
use crate::command::Kind;
use crate::tokens::Tokens;
use crate::{Error, command, portforward, spdy, websocket};

const SPDY: &str = "SPDY/3.1";
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// Sessions at a time: each holds buffers and tasks.
const SESSIONS_MAX: usize = 1000;
/// Bytes in flight on an in-memory connection.
const DUPLEX_BYTES: usize = 64 * 1024;

/// The streaming server. Clones share everything.
#[derive(Clone)]
pub struct StreamingServer {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Arc<dyn Backend>,
    base_url: String,
    tokens: Mutex<Tokens>,
    sessions: Arc<tokio::sync::Semaphore>,
}

impl std::fmt::Debug for StreamingServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamingServer").field("base_url", &self.inner.base_url).finish_non_exhaustive()
    }
}

impl StreamingServer {
    /// A server whose URLs begin with `base_url`, such as `http://127.0.0.1:10010`.
    pub fn new(backend: Arc<dyn Backend>, base_url: &str) -> Self {
        Self {
            inner: Arc::new(Inner {
                backend,
                base_url: base_url.trim_end_matches('/').to_owned(),
                tokens: Mutex::default(),
                sessions: Arc::new(tokio::sync::Semaphore::new(SESSIONS_MAX)),
            }),
        }
    }

    /// A URL at which the session can be had once; none if too many are unused.
    pub fn url(&self, session: Session) -> Option<String> {
        let kind = match &session {
            Session::Exec(_) => "exec",
            Session::Attach(_) => "attach",
            Session::PortForward { .. } => "portforward",
        };
        let token = self.inner.tokens.lock().insert(session, Instant::now())?;
        Some(format!("{}/{kind}/{token}", self.inner.base_url))
    }

    /// A connection in memory.
    pub fn dial(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(DUPLEX_BYTES);
        let server = self.clone();
        tokio::spawn(async move { server.serve_connection(ours).await });
        theirs
    }

    /// Serves connections of a listener, which must be on loopback, until `shutdown` completes.
    pub async fn serve(&self, listener: tokio::net::TcpListener, shutdown: impl Future<Output = ()>) {
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                accepted = listener.accept() => match accepted {
                    Ok((socket, _)) => {
                        let _ = socket.set_nodelay(true);
                        let server = self.clone();
                        tokio::spawn(async move { server.serve_connection(socket).await });
                    }
                    Err(e) => {
                        tracing::warn!("accept a streaming connection: {e}");
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }

    async fn serve_connection(&self, io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let service = hyper::service::service_fn(|request| {
            let server = self.clone();
            async move { Ok::<_, std::convert::Infallible>(server.handle(request)) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        if let Err(e) = connection.await {
            tracing::debug!("streaming connection: {e}");
        }
    }

    fn handle(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let mut path = request.uri().path().trim_start_matches('/').split('/');
        let (kind, token) = (path.next().unwrap_or_default(), path.next().unwrap_or_default());
        let Some(upgrade) = Upgrade::of(request.headers()) else {
            return text(StatusCode::BAD_REQUEST, "unable to upgrade: missing upgrade headers in request");
        };
        let session = match self.inner.tokens.lock().take(token, Instant::now()) {
            Some(session) if session.path() == kind && path.next().is_none() => session,
            _ => return text(StatusCode::NOT_FOUND, "no such session"),
        };
        let Ok(permit) = self.inner.sessions.clone().try_acquire_owned() else {
            return text(StatusCode::TOO_MANY_REQUESTS, "too many streaming sessions");
        };
        let negotiated = match upgrade.negotiate(&session, request.headers()) {
            Ok(negotiated) => negotiated,
            Err(message) => return text(StatusCode::FORBIDDEN, &message),
        };
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        negotiated.fill(response.headers_mut());
        let backend = self.inner.backend.clone();
        let upgraded = hyper::upgrade::on(request);
        tokio::spawn(async move {
            let outcome = match upgraded.await {
                Ok(io) => negotiated.run(TokioIo::new(io), backend, session).await,
                Err(e) => Err(Error::protocol(format!("upgrade: {e}"))),
            };
            if let Err(e) = outcome {
                tracing::debug!("streaming session: {e}");
            }
            drop(permit);
        });
        response
    }
}

impl Session {
    fn path(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward { .. } => "portforward",
        }
    }
}

fn text(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{message}\n")));
    *response.status_mut() = status;
    response
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upgrade {
    WebSocket,
    Spdy,
}

/// What was agreed upon.
struct Negotiated {
    upgrade: Upgrade,
    protocol: String,
    /// The answer to a WebSocket client's key.
    accept: Option<String>,
}

/// The items of a header that may be given as a list, several times, or both.
fn items<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|item| !item.is_empty()).collect()
}

impl Upgrade {
    fn of(headers: &HeaderMap) -> Option<Self> {
        if !items(headers, &header::CONNECTION).iter().any(|item| item.eq_ignore_ascii_case("upgrade")) {
            return None;
        }
        let wanted = items(headers, &header::UPGRADE);
        if wanted.iter().any(|item| item.eq_ignore_ascii_case("websocket")) {
            Some(Self::WebSocket)
        } else if wanted.iter().any(|item| item.eq_ignore_ascii_case(SPDY)) {
            Some(Self::Spdy)
        } else {
            None
        }
    }

    fn negotiate(self, session: &Session, headers: &HeaderMap) -> Result<Negotiated, String> {
        let ports = matches!(session, Session::PortForward { .. });
        let (offered, known) = match (self, ports) {
            (Self::WebSocket, false) => {
                (items(headers, &header::SEC_WEBSOCKET_PROTOCOL), websocket::PROTOCOLS)
            }
            (Self::WebSocket, true) => {
                (items(headers, &header::SEC_WEBSOCKET_PROTOCOL), websocket::PORT_PROTOCOLS)
            }
            (Self::Spdy, false) => (items(headers, &STREAM_PROTOCOL), command::PROTOCOLS),
            (Self::Spdy, true) => (items(headers, &STREAM_PROTOCOL), &[portforward::PROTOCOL][..]),
        };
        let chosen = match offered.iter().find(|offer| known.contains(offer)) {
            Some(offer) => (*offer).to_owned(),
            // Clients from before there were versions name none.
            None if offered.is_empty() && self == Self::WebSocket && ports => "v4.channel.k8s.io".to_owned(),
            None if offered.is_empty() && !ports => "channel.k8s.io".to_owned(),
            None => {
                return Err(format!(
                    "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {known:?}"
                ));
            }
        };
        let accept = match self {
            Self::WebSocket => {
                let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or("missing Sec-WebSocket-Key")?;
                Some(derive_accept_key(key.as_bytes()))
            }
            Self::Spdy => None,
        };
        Ok(Negotiated { upgrade: self, protocol: chosen, accept })
    }
}

impl Negotiated {
    fn fill(&self, headers: &mut HeaderMap) {
        let value = |text: &str| HeaderValue::from_str(text).expect("names of protocols are plain text");
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        match &self.accept {
            Some(accept) => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::SEC_WEBSOCKET_ACCEPT, value(accept));
                headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value(&self.protocol));
            }
            None => {
                headers.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
                headers.insert(STREAM_PROTOCOL, value(&self.protocol));
            }
        }
    }

    async fn run(
        self,
        io: TokioIo<hyper::upgrade::Upgraded>,
        backend: Arc<dyn Backend>,
        session: Session,
    ) -> Result<(), Error> {
        let protocol = self.protocol.as_str();
        match (self.upgrade, session) {
            (Upgrade::WebSocket, Session::Exec(command)) => {
                websocket::serve(io, backend, Kind::Exec, command, protocol).await
            }
            (Upgrade::WebSocket, Session::Attach(command)) => {
                websocket::serve(io, backend, Kind::Attach, command, protocol).await
            }
            (Upgrade::WebSocket, Session::PortForward { sandbox, ports }) => {
                if protocol == websocket::TUNNEL {
                    let connection = spdy::Connection::serve(websocket::tunnel(io).await);
                    return portforward::serve(connection, backend, sandbox).await;
                }
                websocket::serve_ports(io, backend, sandbox, ports, protocol).await
            }
            (Upgrade::Spdy, Session::Exec(command)) => {
                command::serve(spdy::Connection::serve(io), backend, Kind::Exec, command, protocol).await
            }
            (Upgrade::Spdy, Session::Attach(command)) => {
                command::serve(spdy::Connection::serve(io), backend, Kind::Attach, command, protocol).await
            }
            (Upgrade::Spdy, Session::PortForward { sandbox, .. }) => {
                portforward::serve(spdy::Connection::serve(io), backend, sandbox).await
            }
        }
    }
}
