//! What comes in.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::client::{Body, channel_body};
use super::frame::Frames;
use super::{
    CLUSTER, FROM, GroupInfo, MEMBERS_PATH, MESSAGES_PATH, PROTOCOL_VERSION, SNAPSHOT_PATH, TO, VERSION,
};
use crate::engine::Engine;
use crate::member::{Input, PeerMessage, SnapshotReceiver};
use crate::server::handshake;

/// Connections of peers at once: a few for each member of a large group.
const CONNECTIONS_MAX: usize = 64;
/// What a peer may send ahead, in bytes.
const WINDOW_BYTES: u32 = 4 << 20;
/// Silence after which a connection is probed, and how long the probe may stay unanswered.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept: without file descriptors the next one fails too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Pieces of a snapshot that wait for the disk; each is as large as a frame of the connection.
const SNAPSHOT_QUEUE: usize = 16;
/// Snapshots taken in at once: of an old leader and of a new one.
const SNAPSHOTS_MAX: usize = 2;
/// Size of the list of headers, in bytes.
const HEADERS_MAX: u32 = 16 << 10;

/// Takes what peers send.
#[derive(Clone)]
pub(super) struct Server {
    engine: Arc<Engine>,
    tls: Option<tokio_rustls::TlsAcceptor>,
    shutdown: CancellationToken,
    slots: Arc<Semaphore>,
    snapshots: Arc<Semaphore>,
}

impl Server {
    pub(super) fn new(
        engine: Arc<Engine>,
        tls: Option<Arc<rustls::ServerConfig>>,
        shutdown: CancellationToken,
    ) -> Server {
        let tls = tls.map(|config| {
            let mut config = (*config).clone();
            config.alpn_protocols = vec![b"h2".to_vec()];
            tokio_rustls::TlsAcceptor::from(Arc::new(config))
        });
        Server {
            engine,
            tls,
            shutdown,
            slots: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS_MAX)),
        }
    }

    pub(super) async fn accept(self, listener: TcpListener) {
        loop {
            let slot = tokio::select! {
                slot = self.slots.clone().acquire_owned() => slot.expect("never closed"),
                () = self.shutdown.cancelled() => return,
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.shutdown.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let server = self.clone();
                    tokio::spawn(async move {
                        let shutdown = server.shutdown.clone();
                        tokio::select! {
                            () = server.connection(stream) => {}
                            () = shutdown.cancelled() => {}
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a peer's connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn connection(self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let Some((stream, _)) = handshake(stream, self.tls.clone()).await else { return };
        let service = hyper::service::service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(8)
            .max_header_list_size(HEADERS_MAX)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a peer's connection ended");
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        if header(&request, VERSION) != Some(PROTOCOL_VERSION) {
            return respond(StatusCode::BAD_REQUEST, "this member speaks another version");
        }
        if request.uri().path() == MEMBERS_PATH {
            let info = GroupInfo { cluster_id: self.engine.cluster_id(), members: self.engine.members() };
            return respond(StatusCode::OK, info.encode_to_vec());
        }
        let from = match self.check(&request) {
            Ok(from) => from,
            Err((status, reason)) => {
                tracing::warn!(reason, path = request.uri().path(), "a peer is turned away");
                return respond(status, reason);
            }
        };
        match request.uri().path() {
            MESSAGES_PATH => self.messages(from, request.into_body()),
            SNAPSHOT_PATH => self.snapshot(from, request.into_body()).await,
            _ => respond(StatusCode::NOT_FOUND, "there is nothing here"),
        }
    }

    /// Who asks, if it is of this group and means this member.
    fn check(&self, request: &Request<Incoming>) -> Result<u64, (StatusCode, &'static str)> {
        let number = |name| header(request, name).and_then(|text| u64::from_str_radix(text, 16).ok());
        if number(CLUSTER) != Some(self.engine.cluster_id()) {
            return Err((StatusCode::PRECONDITION_FAILED, "cluster ID mismatch"));
        }
        if number(TO) != Some(self.engine.member_id()) {
            return Err((StatusCode::PRECONDITION_FAILED, "another member lives here"));
        }
        let from = number(FROM).filter(|id| *id != 0 && *id != self.engine.member_id());
        let from = from.ok_or((StatusCode::BAD_REQUEST, "the sender does not say who it is"))?;
        if self.engine.shared().membership.read().is_removed(from) {
            return Err((StatusCode::GONE, "the sender has been removed from the group"));
        }
        Ok(from)
    }

    /// Takes messages as they come. The answer's body ends when they do.
    fn messages(self, from: u64, mut body: Incoming) -> Response<Body> {
        let (end, response_body) = channel_body(1);
        tokio::spawn(async move {
            let _end = end;
            let mut frames = Frames::default();
            while let Some(Ok(frame)) = body.frame().await {
                let Ok(data) = frame.into_data() else { continue };
                frames.push(&data);
                if let Err(reason) = self.take(from, &mut frames) {
                    tracing::warn!(peer = format!("{from:x}"), reason, "a peer is not listened to any more");
                    return;
                }
            }
        });
        Response::new(response_body)
    }

    fn take(&self, from: u64, frames: &mut Frames) -> Result<(), String> {
        // It may not know: whoever commits a removal sends it nothing more. When it connects again it is told.
        if self.engine.shared().membership.read().is_removed(from) {
            return Err("it has been removed from the group".to_owned());
        }
        while let Some((message, bytes)) = frames.next()? {
            if message.from() != from || message.to() != self.engine.member_id() {
                return Err("it speaks for another member, or to another one".to_owned());
            }
            // One that does not fit is lost, which Raft is used to.
            self.engine.shared().queue.push_input(Input::Message(message), bytes);
        }
        Ok(())
    }

    async fn snapshot(self, from: u64, mut body: Incoming) -> Response<Body> {
        let Ok(_slot) = self.snapshots.clone().try_acquire_owned() else {
            return respond(StatusCode::SERVICE_UNAVAILABLE, "other snapshots are on their way");
        };
        let (message, rest) = match announcement(&mut body).await {
            Ok((message, rest)) if message.from() == from && message.to() == self.engine.member_id() => {
                (message, rest)
            }
            Ok(_) => return respond(StatusCode::BAD_REQUEST, "it speaks for another member"),
            Err(reason) => return respond(StatusCode::BAD_REQUEST, reason),
        };
        let (pieces, receiver) = mpsc::channel(SNAPSHOT_QUEUE);
        let writer = tokio::task::spawn_blocking({
            let sink = self.engine.snapshot_receiver();
            move || receive(sink, receiver, message)
        });
        let mut next = Some(rest);
        let mut whole = true;
        while let Some(piece) = next {
            if pieces.send(piece).await.is_err() {
                break;
            }
            next = match body.frame().await {
                None => None,
                Some(Ok(frame)) => Some(frame.into_data().unwrap_or_default()),
                Some(Err(_)) => {
                    whole = false;
                    None
                }
            };
        }
        drop(pieces);
        match writer.await {
            Ok(Ok(input)) if whole => {
                self.engine.shared().queue.push_input(input, 0);
                respond(StatusCode::OK, "")
            }
            Ok(Err(reason)) => {
                tracing::warn!(peer = format!("{from:x}"), reason, "a snapshot is not taken");
                respond(StatusCode::BAD_REQUEST, reason)
            }
            _ => respond(StatusCode::BAD_REQUEST, "the snapshot is cut off"),
        }
    }
}

/// The message before a snapshot's content, and what of the content has come with it.
async fn announcement(body: &mut Incoming) -> Result<(PeerMessage, Bytes), String> {
    let mut frames = Frames::default();
    loop {
        if let Some((message, _)) = frames.next()? {
            return Ok((message, frames.rest()));
        }
        match body.frame().await {
            Some(Ok(frame)) => frames.push(&frame.into_data().unwrap_or_default()),
            _ => return Err("the snapshot is cut off".to_owned()),
        }
    }
}

/// Writes a snapshot, on a thread that may wait for the disk.
fn receive(
    mut sink: SnapshotReceiver,
    mut pieces: mpsc::Receiver<Bytes>,
    message: PeerMessage,
) -> Result<Input, String> {
    while let Some(piece) = pieces.blocking_recv() {
        sink.push(&piece).map_err(|error| error.to_string())?;
    }
    let snapshot = sink.finish(message).map_err(|error| error.to_string())?;
    Ok(Input::Snapshot(Box::new(snapshot)))
}

fn header<'a>(request: &'a Request<Incoming>, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

fn respond(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into()).map_err(|never: Infallible| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}
