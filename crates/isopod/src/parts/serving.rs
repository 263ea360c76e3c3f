//! Health and metrics of a part that runs apart, over TLS and on loopback unless told otherwise.
//!
//! Health is open, as upstream has it. Everything else is for whom the API server knows (by client certificate or
//! token) and lets read it (SubjectAccessReview); its answers are remembered for a short time.

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Args;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use isopod_client::{Clock, SystemClock};
use isopod_pki::tls::{Clients, ServingCertificate};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::delegated::Delegated;

/// Paths that need no credentials, and what is below them.
const OPEN: [&str; 3] = ["/healthz", "/livez", "/readyz"];
/// Connections at once: whoever scrapes or probes needs one.
const CONNECTIONS_MAX: usize = 64;
/// A client must finish its handshake, and its headers, within this time.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Life of a certificate that is made for this process alone.
const OWN_LIFE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Upstream's flags that are supported.
#[derive(Args, Debug, Clone)]
pub(crate) struct ServingFlags {
    /// Address of health and metrics
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind_address: IpAddr,
    /// Port of health and metrics, 0 for none [default: 10259 of the scheduler, 10257 of the controller manager]
    #[arg(long)]
    secure_port: Option<u16>,
    /// Serving certificate [default: one that is made at start and signed by nobody]
    #[arg(long, requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// CA of client certificates [default: that of the API server]
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
}

/// Starts to serve; what is wrong with the flags is an error at once.
pub(crate) async fn start(
    flags: &ServingFlags,
    default_port: u16,
    client: kube::Client,
    shutdown: CancellationToken,
) -> Result<()> {
    let port = flags.secure_port.unwrap_or(default_port);
    if port == 0 {
        return Ok(());
    }
    let leaf = match (&flags.tls_cert_file, &flags.tls_private_key_file) {
        (Some(cert), Some(key)) => super::leaf("tls-cert-file", cert, "tls-private-key-file", key)?,
        _ => {
            let names = ["localhost".to_owned()];
            let identity = isopod_pki::Identity::server("localhost", names, [flags.bind_address]);
            isopod_pki::Leaf::self_signed(&identity, OWN_LIFE, SystemClock.now())?
        }
    };
    let ca = flags.client_ca_file.as_deref().map(|path| super::read("client-ca-file", path)).transpose()?;
    let delegated = Arc::new(Delegated::new(client, ca)?);
    let clients = Clients::Optional { hint_pem: String::new() };
    let tls = isopod_pki::tls::server_config(ServingCertificate::new(&leaf)?, &clients, &["http/1.1"])?;
    let address = SocketAddr::new(flags.bind_address, port);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} (--bind-address, --secure-port)"))?;
    info!(%address, "serving health and metrics");
    tokio::spawn(accept(listener, TlsAcceptor::from(tls), delegated, shutdown));
    Ok(())
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    delegated: Arc<Delegated>,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, most likely.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (acceptor, delegated, shutdown) = (acceptor.clone(), Arc::clone(&delegated), shutdown.clone());
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = connection(stream, acceptor, delegated) => {}
            }
        });
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, delegated: Arc<Delegated>) {
    let Ok(Ok(stream)) = tokio::time::timeout(CLIENT_TIMEOUT, acceptor.accept(stream)).await else { return };
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let chain: Arc<[_]> = chain.iter().map(|c| c.clone().into_owned()).collect();
    let service = service_fn(move |request: Request<Incoming>| {
        let (chain, delegated) = (Arc::clone(&chain), Arc::clone(&delegated));
        async move { Ok::<_, Infallible>(answer(&request, &chain, &delegated).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CLIENT_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "a connection ended with an error");
    }
}

fn text(code: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = code;
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response.headers_mut().insert("x-content-type-options", http::HeaderValue::from_static("nosniff"));
    response
}

async fn answer(
    request: &Request<Incoming>,
    chain: &[rustls::pki_types::CertificateDer<'static>],
    delegated: &Delegated,
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let open =
        OPEN.iter().any(|open| path.strip_prefix(open).is_some_and(|r| r.is_empty() || r.starts_with('/')));
    if !open {
        let user = match delegated.authenticate(chain, request.headers()).await {
            Ok(user) => user,
            Err(why) => {
                debug!(why, "credentials refused");
                return text(StatusCode::UNAUTHORIZED, "Unauthorized\n");
            }
        };
        let verb = request.method().as_str().to_ascii_lowercase();
        if !delegated.authorise(&user, &verb, path).await {
            let why = format!("Forbidden: User {:?} cannot {verb} path {path:?}\n", user.name);
            return text(StatusCode::FORBIDDEN, why);
        }
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
    }
    match path {
        "/healthz" | "/livez" | "/readyz" | "/healthz/ping" | "/livez/ping" | "/readyz/ping" => {
            text(StatusCode::OK, "ok")
        }
        "/metrics" => {
            let encoded = prometheus::TextEncoder::new().encode_to_string(&prometheus::gather());
            text(StatusCode::OK, encoded.unwrap_or_default())
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}
