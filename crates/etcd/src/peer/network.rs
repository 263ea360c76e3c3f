//! What goes out: a queue and a connection for each peer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::client::conn::http2::SendRequest;
use isopod_kv::Member;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use http_body_util::BodyExt;

use super::client::{self, Body, Refusal};
use super::{MESSAGES_PATH, SNAPSHOT_PATH, frame};
use crate::engine::{Shared, Transport};
use crate::member::{Input, OutgoingSnapshot, PeerMessage};

/// Messages that may wait for a peer. Beyond this it is too slow, and Raft sends again what it needs.
const QUEUE_MAX: usize = 2048;
/// Bytes of messages that may wait for a peer.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Messages handed to the connection ahead of its flow control.
const BODY_QUEUE: usize = 8;
/// Pieces of a snapshot that wait for the connection; each is a megabyte or so.
const SNAPSHOT_QUEUE: usize = 2;
/// Pause after a failed connection, at first and at most.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);
/// How long a peer may take to put a snapshot in its place once it has all of it.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(600);

type Tls = Option<Arc<rustls::ClientConfig>>;

/// The other members, as reached from here.
pub(super) struct Network {
    shared: Arc<Shared>,
    tls: Tls,
    shutdown: CancellationToken,
    runtime: tokio::runtime::Handle,
    peers: Mutex<BTreeMap<u64, Peer>>,
}

struct Peer {
    queue: mpsc::Sender<Bytes>,
    queued_bytes: Arc<AtomicUsize>,
    urls: watch::Sender<Vec<String>>,
    task: AbortHandle,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Network {
    /// To be called within a runtime.
    pub(super) fn new(shared: Arc<Shared>, tls: Tls, shutdown: CancellationToken) -> Network {
        let runtime = tokio::runtime::Handle::current();
        let network = Network { shared, tls, shutdown, runtime, peers: Mutex::default() };
        network.set_members(network.shared.membership.read().list());
        network
    }

    fn start(&self, id: u64, urls: Vec<String>) -> Peer {
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        let (urls, urls_seen) = watch::channel(urls);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let link = Link {
            id,
            shared: self.shared.clone(),
            tls: self.tls.clone(),
            urls: urls_seen,
            messages,
            queued_bytes: queued_bytes.clone(),
        };
        let shutdown = self.shutdown.clone();
        let task = self.runtime.spawn(async move {
            tokio::select! {
                () = link.run() => {}
                () = shutdown.cancelled() => {}
            }
        });
        Peer { queue, queued_bytes, urls, task: task.abort_handle() }
    }
}

impl Transport for Network {
    fn send(&self, to: u64, message: PeerMessage) -> bool {
        let peers = self.peers.lock();
        let Some(peer) = peers.get(&to) else { return false };
        let frame = frame::encode(&message);
        let length = frame.len();
        if peer.queued_bytes.load(Ordering::Relaxed) > QUEUE_BYTES_MAX {
            return false;
        }
        peer.queued_bytes.fetch_add(length, Ordering::Relaxed);
        let sent = peer.queue.try_send(frame).is_ok();
        if !sent {
            peer.queued_bytes.fetch_sub(length, Ordering::Relaxed);
        }
        sent
    }

    fn send_snapshot(&self, snapshot: OutgoingSnapshot) {
        let to = snapshot.to();
        let urls = self.peers.lock().get(&to).map(|peer| peer.urls.borrow().clone()).unwrap_or_default();
        let (shared, tls, shutdown) = (self.shared.clone(), self.tls.clone(), self.shutdown.clone());
        self.runtime.spawn(async move {
            let delivered = tokio::select! {
                sent = send_snapshot(&shared, tls, urls, snapshot) => sent,
                () = shutdown.cancelled() => return,
            };
            if let Err(error) = &delivered {
                tracing::warn!(peer = format!("{to:x}"), error, "a snapshot was not delivered");
            }
            shared.queue.push_input(Input::SnapshotSent { to, delivered: delivered.is_ok() }, 0);
            // Nothing was freed while it was read.
            shared.queue.nudge();
        });
    }

    fn set_members(&self, members: Vec<Member>) {
        let mut peers = self.peers.lock();
        let others = || members.iter().filter(|member| member.id != self.shared.member_id);
        peers.retain(|id, _| others().any(|member| member.id == *id));
        for Member { id, peer_urls, .. } in others() {
            match peers.get(id) {
                Some(peer) => {
                    peer.urls.send_if_modified(|urls| {
                        let changed = urls != peer_urls;
                        urls.clone_from(peer_urls);
                        changed
                    });
                }
                None => {
                    peers.insert(*id, self.start(*id, peer_urls.clone()));
                }
            }
        }
    }
}

/// The connection to one peer.
struct Link {
    id: u64,
    shared: Arc<Shared>,
    tls: Tls,
    urls: watch::Receiver<Vec<String>>,
    messages: mpsc::Receiver<Bytes>,
    queued_bytes: Arc<AtomicUsize>,
}

impl Link {
    async fn run(mut self) {
        let mut back_off = BACK_OFF_MIN;
        let mut attempt = 0;
        let mut silent = false;
        loop {
            let urls = self.urls.borrow_and_update().clone();
            let connected = match urls.get(attempt % urls.len().max(1)) {
                Some(url) => client::connect(url, self.tls.as_ref()).await,
                None => Err(std::io::Error::other("it has no peer URL")),
            };
            attempt += 1;
            let peer = format!("{:x}", self.id);
            match connected {
                Ok(sender) => match self.talk(sender).await {
                    Ok(()) => {
                        silent = false;
                        back_off = BACK_OFF_MIN;
                    }
                    Err(Refusal::Removed) => {
                        tracing::warn!(peer, "a peer says that this member has been removed");
                        self.shared.removed.cancel();
                    }
                    Err(Refusal::Other(status)) if !silent => {
                        silent = true;
                        tracing::warn!(peer, %status, "a peer does not listen");
                    }
                    Err(Refusal::Other(_)) => {}
                },
                Err(error) if !silent => {
                    silent = true;
                    tracing::warn!(peer, %error, "cannot reach a peer");
                }
                Err(_) => {}
            }
            self.drop_queue();
            self.shared.queue.push_input(Input::Unreachable { peer: self.id }, 0);
            tokio::select! {
                () = tokio::time::sleep(back_off) => {}
                // It has moved.
                changed = self.urls.changed() => if changed.is_err() { return },
            }
            back_off = (back_off * 2).min(BACK_OFF_MAX);
        }
    }

    /// Sends messages until the connection ends. `Ok` if it was one at all.
    async fn talk(&mut self, mut sender: SendRequest<Body>) -> Result<(), Refusal> {
        let (body, request_body) = client::channel_body(BODY_QUEUE);
        let (cluster, id) = (self.shared.cluster_id, self.shared.member_id);
        let request = client::request(MESSAGES_PATH, cluster, id, self.id, request_body);
        let unavailable = |_| Refusal::Other(hyper::StatusCode::SERVICE_UNAVAILABLE);
        let response = sender.send_request(request).await.map_err(unavailable)?;
        client::check(&response)?;
        tracing::debug!(peer = format!("{:x}", self.id), "connected to a peer");
        // What gathered meanwhile is old.
        self.drop_queue();
        let mut end = std::pin::pin!(response.into_body().collect());
        loop {
            let message = tokio::select! {
                message = self.messages.recv() => message,
                _ = &mut end => return Ok(()),
                changed = self.urls.changed() => if changed.is_ok() { return Ok(()) } else { None },
            };
            let Some(message) = message else { return Ok(()) };
            self.queued_bytes.fetch_sub(message.len(), Ordering::Relaxed);
            tokio::select! {
                sent = body.send(Ok(message)) => if sent.is_err() { return Ok(()) },
                _ = &mut end => return Ok(()),
            }
        }
    }

    fn drop_queue(&mut self) {
        while let Ok(message) = self.messages.try_recv() {
            self.queued_bytes.fetch_sub(message.len(), Ordering::Relaxed);
        }
    }
}

async fn send_snapshot(
    shared: &Arc<Shared>,
    tls: Tls,
    urls: Vec<String>,
    mut snapshot: OutgoingSnapshot,
) -> Result<(), String> {
    let to = snapshot.to();
    let mut sender = None;
    let mut failure = "it has no peer URL".to_owned();
    for url in urls {
        match client::connect(&url, tls.as_ref()).await {
            Ok(connected) => sender = Some(connected),
            Err(error) => failure = format!("{url}: {error}"),
        }
    }
    let mut sender = sender.ok_or(failure)?;
    let (body, request_body) = client::channel_body(SNAPSHOT_QUEUE);
    // The state is read on a thread of its own: it takes its lock.
    let reader = tokio::task::spawn_blocking(move || {
        let mut next = Some(frame::encode(snapshot.message()));
        while let Some(piece) = next {
            if body.blocking_send(Ok(piece)).is_err() {
                return;
            }
            next = snapshot.next_chunk();
        }
        if !snapshot.is_whole() {
            let _ = body.blocking_send(Err(std::io::Error::other("the state was replaced meanwhile")));
        }
    });
    let request = client::request(SNAPSHOT_PATH, shared.cluster_id, shared.member_id, to, request_body);
    let answer = tokio::time::timeout(SNAPSHOT_TIMEOUT, sender.send_request(request)).await;
    let response = answer.map_err(|_| "it takes too long")?.map_err(|error| error.to_string())?;
    let _ = reader.await;
    client::check(&response).map_err(|_| format!("it answers {}", response.status()))
}
