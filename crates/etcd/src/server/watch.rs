//! The Watch service: many watches on a stream.
//!
//! Each watch is a task that reads history at the pace of the client: all of a stream's tasks send into one short
//! queue, which the connection's flow control empties. Cancelling ends the task before it is confirmed, so nothing
//! of a watch follows its end.

use std::collections::HashMap;
use std::sync::Arc;

use hyper::Response;
use isopod_kv::watch_request::RequestUnion;
use isopod_kv::{Error, WatchCreateRequest, WatchRequest, WatchResponse, keys};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Status, Streaming};

use super::auth::Credentials;
use super::kv::own;
use super::rpc::Call;
use crate::engine::{Engine, Shared, Signal, Step, Watcher, compacted};

/// Responses that wait for the connection. They are large; history waits better.
const RESPONSE_QUEUE: usize = 16;
/// Watches on one stream; each is a task.
const WATCHES_MAX: usize = 100_000;
/// The ID of responses that concern no single watch.
const NO_WATCH: i64 = -1;

type Responses = mpsc::Sender<Result<WatchResponse, Status>>;

pub(super) async fn serve(call: Call<'_>) -> Response<Body> {
    let shutdown = call.shutdown.clone();
    let requires_leader = call.requires_leader();
    let credentials = call.credentials.clone();
    call.streaming(move |engine: Arc<Engine>, requests: Streaming<WatchRequest>| {
        let (responses, receiver) = mpsc::channel(RESPONSE_QUEUE);
        let session = Session {
            engine: engine.clone(),
            credentials: credentials.clone(),
            watches: HashMap::new(),
            next_id: 0,
            requires_leader,
            common: Arc::new(Common { engine, responses, state: Mutex::default() }),
        };
        tokio::spawn(session.run(requests, shutdown.clone()));
        ReceiverStream::new(receiver)
    })
    .await
}

/// One stream.
struct Session {
    engine: Arc<Engine>,
    credentials: Arc<Credentials>,
    watches: HashMap<i64, JoinHandle<()>>,
    next_id: i64,
    /// Whether the client would rather go elsewhere than watch a member that is cut off.
    requires_leader: bool,
    common: Arc<Common>,
}

/// What the tasks of a stream share.
struct Common {
    engine: Arc<Engine>,
    responses: Responses,
    state: Mutex<CommonState>,
}

#[derive(Default)]
struct CommonState {
    signals: HashMap<i64, Arc<Signal>>,
    /// Whether the client waits to hear how far the stream is.
    progress_wanted: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        for watch in self.watches.values() {
            watch.abort();
        }
    }
}

impl Session {
    async fn run(mut self, mut requests: Streaming<WatchRequest>, shutdown: CancellationToken) {
        let responses = self.common.responses.clone();
        let engine = self.engine.clone();
        let requires_leader = self.requires_leader;
        let mut leader_lost = std::pin::pin!(async move {
            match requires_leader {
                true => engine.leader_lost().await,
                false => std::future::pending().await,
            }
        });
        loop {
            let request = tokio::select! {
                request = requests.next() => request,
                () = &mut leader_lost => {
                    let _ = responses.send(Err(Error::NoLeader.into())).await;
                    return;
                }
                // The client has gone, though its half of the stream is open.
                () = responses.closed() => return,
                () = shutdown.cancelled() => {
                    let _ = responses.send(Err(Error::Stopped.into())).await;
                    return;
                }
            };
            let Some(Ok(request)) = request else { return };
            let going = match request.request_union {
                Some(RequestUnion::CreateRequest(create)) => self.create(create).await,
                Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id).await,
                Some(RequestUnion::ProgressRequest(_)) => {
                    self.common.state.lock().progress_wanted = true;
                    self.common.report_progress().await
                }
                None => true,
            };
            if !going {
                return;
            }
        }
    }

    /// False once the client has gone.
    async fn create(&mut self, mut create: WatchCreateRequest) -> bool {
        let id = match self.choose_id(&create) {
            Ok(id) => id,
            Err(reason) => return self.refuse(reason).await,
        };
        if let Err(error) = self.check(&create).await {
            return self.refuse(&error.to_string()).await;
        }
        own(&mut create.key);
        own(&mut create.range_end);
        let (watcher, revision) = Watcher::new(self.engine.shared(), &create);
        let created = WatchResponse {
            header: self.engine.shared().header_at(revision),
            watch_id: id,
            created: true,
            ..Default::default()
        };
        if self.common.responses.send(Ok(created)).await.is_err() {
            return false;
        }
        self.common.state.lock().signals.insert(id, watcher.signal().clone());
        let watch = Watch { id, watcher, common: self.common.clone(), fragment: create.fragment };
        let interval = create.progress_notify.then_some(self.engine.config().progress_interval);
        self.watches.insert(id, tokio::spawn(watch.run(interval)));
        true
    }

    /// Whether the client may read what it wants to watch.
    async fn check(&self, create: &WatchCreateRequest) -> Result<(), Error> {
        let caller = self.credentials.caller(&self.engine).await?;
        let key = if create.key.is_empty() { keys::FROM_KEY } else { &create.key };
        self.engine.with_auth(|auth| auth.check_read(&caller, key, &create.range_end))
    }

    fn choose_id(&mut self, create: &WatchCreateRequest) -> Result<i64, &'static str> {
        let unbounded = create.range_end[..] == *keys::FROM_KEY;
        if !create.range_end.is_empty() && !unbounded && create.range_end <= create.key {
            return Err("mvcc: watcher range is empty");
        }
        if self.watches.len() >= WATCHES_MAX {
            self.watches.retain(|_, watch| !watch.is_finished());
            if self.watches.len() >= WATCHES_MAX {
                return Err("etcdserver: too many watches on one stream");
            }
        }
        if create.watch_id != 0 {
            return match self.watches.contains_key(&create.watch_id) {
                true => Err("mvcc: duplicate watch ID"),
                false => Ok(create.watch_id),
            };
        }
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Ok(self.next_id - 1)
    }

    async fn refuse(&self, reason: &str) -> bool {
        let refused = WatchResponse {
            header: self.engine.shared().header(),
            watch_id: NO_WATCH,
            created: true,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..Default::default()
        };
        self.common.responses.send(Ok(refused)).await.is_ok()
    }

    async fn cancel(&mut self, id: i64) -> bool {
        let Some(watch) = self.watches.remove(&id) else { return true };
        watch.abort();
        let _ = watch.await;
        // One that history had left behind has said so itself.
        if self.common.state.lock().signals.remove(&id).is_none() {
            return true;
        }
        let canceled = WatchResponse {
            header: self.engine.shared().header(),
            watch_id: id,
            canceled: true,
            ..Default::default()
        };
        self.common.responses.send(Ok(canceled)).await.is_ok() && self.common.report_progress().await
    }
}

impl Common {
    fn shared(&self) -> &Arc<Shared> {
        self.engine.shared()
    }

    /// Answers a request for progress once every watch of the stream has given everything up to one revision. All
    /// of that is in the queue then, before the answer. False once the client has gone.
    async fn report_progress(&self) -> bool {
        let revision = {
            let mut common = self.state.lock();
            if !common.progress_wanted {
                return true;
            }
            let state = self.shared().state.read();
            if !common.signals.values().all(|signal| signal.is_current()) {
                // Whoever is behind asks again when it has caught up.
                return true;
            }
            common.progress_wanted = false;
            state.revision()
        };
        let progress = WatchResponse {
            header: self.shared().header_at(revision),
            watch_id: NO_WATCH,
            ..Default::default()
        };
        self.responses.send(Ok(progress)).await.is_ok()
    }
}

/// One watch.
struct Watch {
    id: i64,
    watcher: Watcher,
    common: Arc<Common>,
    fragment: bool,
}

impl Watch {
    async fn run(mut self, interval: Option<std::time::Duration>) {
        let mut quiet_since = Instant::now();
        while !self.common.shared().stopped.is_cancelled() {
            let going = match self.watcher.step() {
                Step::Events { events, revision } => {
                    quiet_since = Instant::now();
                    self.send(events, revision).await
                }
                Step::Compacted(revision) => {
                    self.common.state.lock().signals.remove(&self.id);
                    let response =
                        WatchResponse { watch_id: self.id, ..compacted(self.common.shared(), revision) };
                    let _ = self.common.responses.send(Ok(response)).await;
                    let _ = self.common.report_progress().await;
                    return;
                }
                Step::Idle { revision } => {
                    let going = self.common.report_progress().await;
                    if self.wait(interval.map(|interval| quiet_since + interval)).await {
                        quiet_since = Instant::now();
                        self.send(Vec::new(), revision).await
                    } else {
                        going
                    }
                }
            };
            if !going {
                return;
            }
        }
        let _ = self.common.responses.send(Err(Error::Stopped.into())).await;
    }

    /// Waits for news; true if there was none until the deadline.
    async fn wait(&self, deadline: Option<Instant>) -> bool {
        let Some(deadline) = deadline else {
            self.watcher.wait().await;
            return false;
        };
        tokio::select! {
            biased;
            () = self.watcher.wait() => false,
            () = tokio::time::sleep_until(deadline) => true,
        }
    }

    /// Sends events (none for progress); false once the client has gone.
    async fn send(&self, events: Vec<isopod_kv::Event>, revision: i64) -> bool {
        let response = WatchResponse {
            header: self.common.shared().header_at(revision),
            watch_id: self.id,
            events,
            ..Default::default()
        };
        let limit = self.common.engine.config().max_request_bytes;
        let fragments = if self.fragment { fragments(response, limit) } else { vec![response] };
        for fragment in fragments {
            if self.common.responses.send(Ok(fragment)).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// Splits a response whose events take more than `limit` bytes; all parts but the last are marked.
fn fragments(response: WatchResponse, limit: usize) -> Vec<WatchResponse> {
    if response.events.len() < 2 || response.encoded_len() <= limit {
        return vec![response];
    }
    let mut parts = Vec::new();
    let mut bytes = 0;
    let rest = WatchResponse { events: Vec::new(), ..response.clone() };
    let mut part = WatchResponse { fragment: true, ..rest.clone() };
    for event in response.events {
        let size = event.encoded_len();
        if bytes + size > limit && !part.events.is_empty() {
            parts.push(std::mem::replace(&mut part, WatchResponse { fragment: true, ..rest.clone() }));
            bytes = 0;
        }
        bytes += size;
        part.events.push(event);
    }
    part.fragment = false;
    parts.push(part);
    parts
}

#[cfg(test)]
mod tests {
    use isopod_kv::{Event, KeyValue};

    use super::*;

    #[test]
    fn large_responses_are_split_between_events() {
        let event = |size: usize| Event {
            kv: Some(KeyValue { value: vec![1; size].into(), ..Default::default() }),
            ..Default::default()
        };
        let split = |sizes: &[usize]| -> Vec<(usize, bool)> {
            let events = sizes.iter().map(|size| event(*size)).collect();
            let parts = fragments(WatchResponse { events, watch_id: 3, ..Default::default() }, 1000);
            assert!(parts.iter().all(|part| part.watch_id == 3));
            parts.iter().map(|part| (part.events.len(), part.fragment)).collect()
        };
        assert_eq!(split(&[]), [(0, false)]);
        assert_eq!(split(&[5000]), [(1, false)]);
        assert_eq!(split(&[300, 300]), [(2, false)]);
        assert_eq!(split(&[300, 300, 500, 2000, 10]), [(2, true), (1, true), (1, true), (1, false)]);
    }
}
