//! Connecting to another member.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Address, CLUSTER, FROM, GroupInfo, MEMBERS_PATH, PROTOCOL_VERSION, TO, VERSION};
use crate::server::Stream;

/// How long connecting and the handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the list of members may take.
const DISCOVER_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence after which a connection is probed, and how long the probe may stay unanswered.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// What the other side may send ahead: little more than that it has ended.
const WINDOW_BYTES: u32 = 1 << 20;
/// Largest list of members, in bytes.
const MEMBERS_MAX_BYTES: usize = 1 << 20;

/// A body that is sent as it comes. An error ends the request without completing it.
pub(super) type Body = BoxBody<Bytes, io::Error>;

/// A body made of what goes into a channel.
pub(super) fn channel_body(capacity: usize) -> (mpsc::Sender<io::Result<Bytes>>, Body) {
    let (sender, receiver) = mpsc::channel(capacity);
    let frames = tokio_stream::StreamExt::map(ReceiverStream::new(receiver), |piece: io::Result<Bytes>| {
        piece.map(Frame::data)
    });
    (sender, BodyExt::boxed(StreamBody::new(frames)))
}

fn empty() -> Body {
    Empty::new().map_err(|never: Infallible| match never {}).boxed()
}

/// Connects, with TLS if the URL says so.
pub(super) async fn connect(
    url: &str,
    tls: Option<&Arc<rustls::ClientConfig>>,
) -> io::Result<SendRequest<Body>> {
    let connect = async {
        let address =
            Address::parse(url).ok_or_else(|| io::Error::other(format!("{url:?} is not a peer URL")))?;
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match (address.tls, tls) {
            (false, _) => Box::new(stream),
            (true, None) => {
                return Err(io::Error::other(format!("{url} needs TLS, which is not configured")));
            }
            (true, Some(tls)) => {
                let name = rustls::pki_types::ServerName::try_from(address.host).map_err(io::Error::other)?;
                Box::new(tokio_rustls::TlsConnector::from(tls.clone()).connect(name, stream).await?)
            }
        };
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(sender)
    };
    tokio::time::timeout(CONNECT_TIMEOUT, connect).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// A request of one member to another.
pub(super) fn request(path: &str, cluster: u64, from: u64, to: u64, body: Body) -> Request<Body> {
    Request::builder()
        .method(Method::POST)
        .uri(format!("http://peer{path}"))
        .header(VERSION, PROTOCOL_VERSION)
        .header(CLUSTER, format!("{cluster:x}"))
        .header(FROM, format!("{from:x}"))
        .header(TO, format!("{to:x}"))
        .body(body)
        .expect("fixed names and hexadecimal values are valid")
}

/// Why a peer does not listen, from its answer.
pub(super) fn check(response: &Response<Incoming>) -> Result<(), Refusal> {
    match response.status() {
        StatusCode::OK => Ok(()),
        StatusCode::GONE => Err(Refusal::Removed),
        status => Err(Refusal::Other(status)),
    }
}

/// Why a peer does not listen.
pub(super) enum Refusal {
    /// This member is no longer part of the group.
    Removed,
    Other(StatusCode),
}

/// Asks those at `urls`, one after the other, who belongs to their group.
///
/// # Errors
/// The last one's, if none answers.
pub async fn discover(urls: &[String], tls: Option<Arc<rustls::ClientConfig>>) -> io::Result<GroupInfo> {
    let mut last = io::Error::other("there is nobody to ask");
    for url in urls {
        let asked = tokio::time::timeout(DISCOVER_TIMEOUT, ask(url, tls.as_ref())).await;
        match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(info) => return Ok(info),
            Err(error) => last = io::Error::new(error.kind(), format!("{url}: {error}")),
        }
    }
    Err(last)
}

async fn ask(url: &str, tls: Option<&Arc<rustls::ClientConfig>>) -> io::Result<GroupInfo> {
    let mut sender = connect(url, tls).await?;
    let request = Request::builder()
        .uri(format!("http://peer{MEMBERS_PATH}"))
        .header(VERSION, PROTOCOL_VERSION)
        .body(empty())
        .expect("a constant");
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    if response.status() != StatusCode::OK {
        return Err(io::Error::other(format!("answers {}", response.status())));
    }
    let body = http_body_util::Limited::new(response.into_body(), MEMBERS_MAX_BYTES);
    let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
    GroupInfo::decode(bytes).map_err(io::Error::other)
}
