//! The kubelet's HTTPS server: what the API server and monitoring ask of a node.
//!
//! Every request but none is authenticated (client certificate or token) and authorised by the API server;
//! there is no anonymous access and no read-only port.

mod auth;
mod container_logs;
mod metrics;
mod pods;
mod stats;
mod streaming;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use isopod_pki::tls::{self, Clients};
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::Error;
use crate::kubelet::Kubelet;
use auth::Authenticator;

/// Bodies of all answers.
pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// Connections at once; more than one API server and its watchers of logs ever need.
const CONNECTIONS_MAX: usize = 2000;
/// Time for a TLS handshake, and for the head of a request.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(30);

/// Serves until shutdown.
pub(crate) async fn run(kubelet: Arc<Kubelet>, listener: TcpListener) -> Result<(), Error> {
    let tls = &kubelet.config.tls;
    let clients = Clients::Optional { hint_pem: tls.client_ca_pem.clone() };
    let config = tls::server_config(tls.serving.clone(), &clients, &["h2", "http/1.1"])
        .map_err(|e| Error::Tls(e.to_string()))?;
    let acceptor = TlsAcceptor::from(config);
    let auth = Arc::new(Authenticator::new(kubelet.client.clone(), &tls.client_ca_pem)?);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = tokio::select! {
            slot = slots.clone().acquire_owned() => slot.expect("the semaphore is never closed"),
            () = kubelet.shutdown.cancelled() => return Ok(()),
        };
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = kubelet.shutdown.cancelled() => return Ok(()),
        };
        let (kubelet, auth, acceptor) = (kubelet.clone(), auth.clone(), acceptor.clone());
        tokio::spawn(async move {
            let shutdown = kubelet.shutdown.clone();
            tokio::select! {
                () = connection(kubelet, auth, acceptor, stream, peer) => {}
                () = shutdown.cancelled() => {}
            }
            drop(slot);
        });
    }
}

async fn connection(
    kubelet: Arc<Kubelet>,
    auth: Arc<Authenticator>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
    let chain: Arc<Vec<CertificateDer<'static>>> = Arc::new(
        stream
            .get_ref()
            .1
            .peer_certificates()
            .unwrap_or_default()
            .iter()
            .map(|c| c.clone().into_owned())
            .collect(),
    );
    let service = service_fn(move |request| {
        let (kubelet, auth, chain) = (kubelet.clone(), auth.clone(), chain.clone());
        async move { Ok::<_, Infallible>(serve(&kubelet, &auth, &chain, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Some(HEAD));
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!(%peer, error, "connection");
    }
}

async fn serve(
    kubelet: &Arc<Kubelet>,
    auth: &Authenticator,
    chain: &[CertificateDer<'static>],
    request: Request<Incoming>,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let user = match auth.authenticate(chain, request.headers(), kubelet.now()).await {
        Ok(user) => user,
        Err(text) => {
            tracing::debug!(path, text, "unauthenticated");
            return plain(StatusCode::UNAUTHORIZED, "Unauthorized");
        }
    };
    let node = kubelet.config.node_name.as_str();
    if let Err(text) = auth.authorise(&user, node, request.method(), &path, kubelet.now()).await {
        return plain(StatusCode::FORBIDDEN, &text);
    }
    route(kubelet, &path, request).await
}

async fn route(kubelet: &Arc<Kubelet>, path: &str, request: Request<Incoming>) -> Response<Body> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let get = request.method() == Method::GET || request.method() == Method::HEAD;
    match parts[..] {
        ["healthz"] | ["healthz", "ping" | "syncloop"] if get => plain(StatusCode::OK, "ok"),
        ["pods"] if get => pods::all(kubelet),
        ["runningpods"] if get => pods::running(kubelet),
        ["configz"] if get => pods::configz(kubelet),
        ["stats", "summary"] => stats::summary(kubelet).await,
        ["metrics"] if get => metrics::own(),
        ["metrics", "resource"] if get => metrics::resource(kubelet).await,
        ["metrics", "cadvisor"] if get => metrics::cadvisor(kubelet).await,
        ["metrics", "probes"] if get => metrics::probes(kubelet),
        ["containerLogs", namespace, pod, container] if get => {
            container_logs::serve(kubelet, namespace, pod, container, &Query::of(&request)).await
        }
        ["exec" | "attach", namespace, pod, container] => {
            streaming::container(kubelet, parts[0], (namespace, pod, None), container, request).await
        }
        ["exec" | "attach", namespace, pod, uid, container] => {
            streaming::container(kubelet, parts[0], (namespace, pod, Some(uid)), container, request).await
        }
        ["portForward", namespace, pod] => {
            streaming::port_forward(kubelet, (namespace, pod, None), request).await
        }
        ["portForward", namespace, pod, uid] => {
            streaming::port_forward(kubelet, (namespace, pod, Some(uid)), request).await
        }
        ["run", namespace, pod, container] if request.method() == Method::POST => {
            streaming::run(kubelet, (namespace, pod, None), container, &Query::of(&request)).await
        }
        ["run", namespace, pod, uid, container] if request.method() == Method::POST => {
            streaming::run(kubelet, (namespace, pod, Some(uid)), container, &Query::of(&request)).await
        }
        _ => plain(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

/// A text answer.
pub(crate) fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut text = text.to_owned();
    if status != StatusCode::OK {
        text.push('\n');
    }
    answer(status, "text/plain; charset=utf-8", text.into())
}

/// An answer with a body at hand.
pub(crate) fn answer(status: StatusCode, kind: &str, body: Bytes) -> Response<Body> {
    Response::builder()
        .status(status)
        .header(http::header::CONTENT_TYPE, kind)
        .body(Full::new(body).map_err(|never| match never {}).boxed())
        .expect("status and header are valid")
}

/// A JSON answer.
pub(crate) fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(body) => answer(StatusCode::OK, "application/json", body.into()),
        Err(e) => plain(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    }
}

/// Query parameters.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let text = request.uri().query().unwrap_or_default();
        let decode = |s: &str| percent_decode(&s.replace('+', " "));
        Self(
            text.split('&')
                .filter(|p| !p.is_empty())
                .map(|p| p.split_once('=').unwrap_or((p, "")))
                .map(|(k, v)| (decode(k), decode(v)))
                .collect(),
        )
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == name).map(|(_, v)| v.clone()).collect()
    }

    /// Any of the names is set and not to a false value.
    pub(crate) fn flag(&self, names: &[&str]) -> bool {
        names.iter().any(|n| self.get(n).is_some_and(|v| !matches!(v, "" | "0" | "false")))
    }
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = bytes.get(i + 1..i + 3).and_then(|h| std::str::from_utf8(h).ok());
        match hex.filter(|_| bytes[i] == b'%').and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(b) => {
                out.push(b);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let r = Request::get("/x?command=sh&command=-c&command=a%20b%26+c&tty=1&stdin=0&bad=%zz")
            .body(())
            .unwrap();
        let q = Query::of(&r);
        assert_eq!(q.all("command"), ["sh", "-c", "a b& c"]);
        assert!(q.flag(&["tty"]) && !q.flag(&["stdin"]) && !q.flag(&["none"]));
        assert_eq!(q.get("bad"), Some("%zz"));
    }
}
