//! Requests that another server answers: kubelets (log, exec, attach, port-forward) and what is proxied to.
//!
//! A connection to a backend serves one request. An upgraded connection is piped only after the backend has
//! answered 101; any other answer is relayed as an ordinary one, so that a connection is never taken for
//! upgraded that is not (CVE-2018-1002105). Redirects are passed on to the client, never followed.

pub(crate) mod kubelet;
pub(crate) mod proxy;
mod proxy_tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use isopod_api::status::Status;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::audit::Record;
use crate::body::{Body, BoxError, RequestBody};

/// Longest a connection and its TLS handshake may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest text of a backend's error that is shown to the client.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// Headers that concern one connection and are not passed on.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Where to, and how.
pub(crate) struct Backend {
    /// Address dialled.
    pub address: SocketAddr,
    /// TLS, and the name the certificate must carry.
    pub tls: Option<(Arc<rustls::ClientConfig>, ServerName<'static>)>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Backend {
    async fn dial(&self) -> Result<Box<dyn Stream>, String> {
        let connect = async {
            let stream = TcpStream::connect(self.address)
                .await
                .map_err(|e| format!("dial tcp {}: {e}", self.address))?;
            let _ = stream.set_nodelay(true);
            let Some((config, name)) = &self.tls else { return Ok(Box::new(stream) as Box<dyn Stream>) };
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
            let stream = connector.connect(name.clone(), stream).await.map_err(|e| format!("tls: {e}"))?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        };
        match tokio::time::timeout(DIAL_TIMEOUT, connect).await {
            Ok(result) => result,
            Err(_) => Err(format!("dial tcp {}: i/o timeout", self.address)),
        }
    }

    /// Sends one request and gives the answer; its connection ends with the answer's body, or lives on in
    /// the upgraded stream.
    async fn send(&self, request: Request<RequestBody>) -> Result<Response<Incoming>, String> {
        let stream = self.dial().await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to a backend ended with an error");
            }
        });
        sender.send_request(request).await.map_err(|e| e.to_string())
    }
}

/// Whether the client asks for another protocol on its connection.
pub(crate) fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
        && headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .any(|v| v.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")))
}

/// Copies headers for the backend: nothing of this connection, nothing that says who the client is.
pub(crate) fn forwarded_headers(headers: &HeaderMap, upgrade: bool) -> HeaderMap {
    let mut out = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        if HOP_BY_HOP.contains(&name.as_str()) || is_identity(name) {
            continue;
        }
        if *name == header::SEC_WEBSOCKET_PROTOCOL {
            if let Some(value) = without_token(value) {
                out.append(name.clone(), value);
            }
            continue;
        }
        out.append(name.clone(), value.clone());
    }
    if upgrade && let Some(protocol) = headers.get(header::UPGRADE) {
        out.insert(header::UPGRADE, protocol.clone());
        out.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    }
    out
}

/// Protocols that a WebSocket client offers, but for the one that carries its bearer token (browsers cannot set
/// headers): the backend must not learn it.
fn without_token(value: &header::HeaderValue) -> Option<header::HeaderValue> {
    let text = value.to_str().ok()?;
    let kept: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|p| !p.starts_with("base64url.bearer.authorization.k8s.io."))
        .collect();
    (!kept.is_empty()).then(|| header::HeaderValue::from_str(&kept.join(", ")).ok())?
}

fn is_identity(name: &HeaderName) -> bool {
    let name = name.as_str();
    name == "authorization" || name.starts_with("impersonate-") || name.starts_with("x-remote-")
}

/// Sends an upgrade request on and, once the backend has switched protocols, pipes bytes both ways.
pub(crate) async fn upgrade(
    backend: &Backend,
    request: Request<RequestBody>,
    client: OnUpgrade,
    shutdown: CancellationToken,
    audit: Option<Arc<Record>>,
) -> Result<Response<Body>, Status> {
    let mut answer = backend.send(request).await.map_err(|e| dial_error(&e))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(relay(answer));
    }
    let upstream = hyper::upgrade::on(&mut answer);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answer.headers().clone();
    tokio::spawn(async move {
        // The stream's end is recorded when the record is let go.
        let _audit = audit;
        let (Ok(client), Ok(upstream)) = tokio::join!(client, upstream) else { return };
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut client, &mut upstream) => {}
            () = shutdown.cancelled() => {}
        }
    });
    Ok(response)
}

/// The failure to reach a backend, as upstream words it.
pub(crate) fn dial_error(error: &str) -> Status {
    Status::failure(500, "", format!("error dialing backend: {error}"))
}

/// Passes an answer on as it is.
pub(crate) fn relay(answer: Response<Incoming>) -> Response<Body> {
    let (parts, body) = answer.into_parts();
    let mut response = Response::new(stream_body(body));
    *response.status_mut() = parts.status;
    for (name, value) in &parts.headers {
        if !HOP_BY_HOP.contains(&name.as_str()) {
            response.headers_mut().append(name.clone(), value.clone());
        }
    }
    response
}

fn stream_body(body: Incoming) -> Body {
    let stream = futures::stream::unfold(body, |mut body| async move {
        loop {
            match body.frame().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some((Ok(data), body));
                    }
                }
                Err(error) => return Some((Err(BoxError::from(error)), body)),
            }
        }
    });
    Body::stream(stream)
}

/// The start of a backend's error text.
async fn error_text(body: Incoming) -> String {
    let limited = http_body_util::Limited::new(body, ERROR_BYTES_MAX);
    match limited.collect().await {
        Ok(collected) => String::from_utf8_lossy(&collected.to_bytes()).trim().to_owned(),
        Err(_) => "the backend's error could not be read".to_owned(),
    }
}

/// A body without bytes.
pub(crate) fn no_body() -> RequestBody {
    http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("impersonate-user", "a"),
            ("x-remote-user", "a"),
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ] {
            headers.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        assert!(wants_upgrade(&headers));
        let mut names: Vec<_> = forwarded_headers(&headers, true).keys().map(ToString::to_string).collect();
        names.sort();
        assert_eq!(names, ["connection", "upgrade", "x-stream-protocol-version"]);
        assert_eq!(forwarded_headers(&headers, false).len(), 1);
    }

    #[test]
    fn a_token_among_the_protocols_stays_here() {
        let mut headers = http::HeaderMap::new();
        let offered = "base64url.bearer.authorization.k8s.io.c2VjcmV0, v5.channel.k8s.io";
        headers.insert(http::header::SEC_WEBSOCKET_PROTOCOL, http::HeaderValue::from_static(offered));
        let sent = super::forwarded_headers(&headers, false);
        let kept = sent.get(http::header::SEC_WEBSOCKET_PROTOCOL).and_then(|v| v.to_str().ok());
        assert_eq!(kept, Some("v5.channel.k8s.io"));
    }
}
