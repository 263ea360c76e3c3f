//! The Watch service as a stream of messages: several watches on it, identifiers, cancellation, progress.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use isopod_etcd::{Config, Engine, Listeners, open, serve};
use isopod_kv::grpc::{channels, method};
use isopod_kv::watch_request::RequestUnion;
use isopod_kv::{
    CompactionRequest, PutRequest, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest,
    WatchRequest, WatchResponse,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic_prost::ProstCodec;

struct Stream {
    engine: Arc<Engine>,
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
    shutdown: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Stream {
    async fn open(change: impl FnOnce(&mut Config)) -> Stream {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path());
        change(&mut config);
        let engine = open(config).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let listeners = Listeners { client: vec![listener], metrics: Vec::new() };
        tokio::spawn(serve(engine.clone(), listeners, None, shutdown.clone()));
        let channel = channels(&[endpoint], None).unwrap().remove(0);
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.unwrap();
        let (requests, receiver) = mpsc::channel(100);
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        let path = http::uri::PathAndQuery::from_static(method::WATCH);
        let outgoing = tonic::Request::new(ReceiverStream::new(receiver));
        let responses = grpc.streaming(outgoing, path, codec).await.unwrap().into_inner();
        Stream { engine, requests, responses, shutdown, _dir: dir }
    }

    async fn send(&self, request: RequestUnion) {
        self.requests.send(WatchRequest { request_union: Some(request) }).await.unwrap();
    }

    async fn create(&self, watch_id: i64, key: &str, start_revision: i64) {
        let create =
            WatchCreateRequest { watch_id, ..WatchCreateRequest::prefix(key.to_owned(), start_revision) };
        self.send(RequestUnion::CreateRequest(create)).await;
    }

    async fn cancel(&self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })).await;
    }

    async fn progress(&self) {
        self.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    }

    async fn put(&self, key: &str) {
        self.engine.put(PutRequest::new(key.to_owned(), "x")).await.unwrap();
    }

    /// The next response in a line.
    async fn next(&mut self) -> String {
        let response = tokio::time::timeout(Duration::from_secs(20), self.responses.next()).await.unwrap();
        let response = response.unwrap().unwrap();
        let mut line = format!("{} at {}", response.watch_id, response.header.unwrap().revision);
        for (flag, name) in [
            (response.created, " created"),
            (response.canceled, " canceled"),
            (response.fragment, " fragment"),
        ] {
            line.push_str(if flag { name } else { "" });
        }
        if response.compact_revision != 0 {
            line.push_str(&format!(" compacted {}", response.compact_revision));
        }
        for event in response.events {
            line.push_str(&format!(" {}", String::from_utf8_lossy(&event.kv.unwrap().key)));
        }
        if !response.cancel_reason.is_empty() {
            line.push_str(&format!(": {}", response.cancel_reason));
        }
        line
    }
}

#[tokio::test]
async fn many_watches_on_one_stream() {
    let mut stream = Stream::open(|_| {}).await;
    stream.put("a1").await;
    stream.put("b1").await;
    for (id, key) in [(0, "a"), (7, "b"), (0, "b"), (7, "c")] {
        stream.create(id, key, 0).await;
    }
    let created = [stream.next().await, stream.next().await, stream.next().await, stream.next().await];
    assert_eq!(created[..3], ["0 at 3 created", "7 at 3 created", "1 at 3 created"]);
    assert_eq!(created[3], "-1 at 3 created canceled: mvcc: duplicate watch ID");
    stream.put("a2").await;
    assert_eq!(stream.next().await, "0 at 4 a2");
    stream.put("b2").await;
    let mut both = [stream.next().await, stream.next().await];
    both.sort();
    assert_eq!(both, ["1 at 5 b2", "7 at 5 b2"]);
    stream.cancel(7).await;
    assert_eq!(stream.next().await, "7 at 5 canceled");
    stream.put("b3").await;
    assert_eq!(stream.next().await, "1 at 6 b3");
    let create = WatchCreateRequest { range_end: "a".into(), ..WatchCreateRequest::key("b", 0) };
    stream.send(RequestUnion::CreateRequest(create)).await;
    assert_eq!(stream.next().await, "-1 at 6 created canceled: mvcc: watcher range is empty");
    stream.shutdown.cancel();
}

#[tokio::test]
async fn progress_comes_after_all_events_before_it() {
    let mut stream = Stream::open(|_| {}).await;
    stream.progress().await;
    assert_eq!(stream.next().await, "-1 at 1");
    for round in 0..20i64 {
        stream.put(&format!("a{round}")).await;
    }
    stream.create(0, "a", 2).await;
    stream.create(0, "b", 0).await;
    stream.progress().await;
    let mut seen = 0;
    let mut created = 0;
    loop {
        let line = stream.next().await;
        if line.ends_with("created") {
            created += 1;
        } else if line.starts_with("0 at") {
            seen += line.split(' ').count() - 3;
        } else {
            assert_eq!(line, "-1 at 21");
            break;
        }
    }
    assert_eq!((created, seen), (2, 20));
    for round in 0..50i64 {
        stream.put("b").await;
        stream.put("other").await;
        stream.progress().await;
        let revision = 23 + round * 2;
        let first = stream.next().await;
        assert!(first.starts_with("1 at "), "{first}");
        assert!(first.ends_with(" b"), "{first}");
        assert_eq!(stream.next().await, format!("-1 at {revision}"));
    }
    stream.shutdown.cancel();
}

#[tokio::test]
async fn a_compacted_watch_ends_alone_and_large_events_are_split() {
    let mut stream = Stream::open(|config| config.max_request_bytes = 4000).await;
    for key in ["a1", "a2", "a3"] {
        let put = PutRequest::new(key, vec![b'x'; 3000]);
        stream.engine.put(put).await.unwrap();
    }
    let create = WatchCreateRequest { fragment: true, ..WatchCreateRequest::prefix("a", 2) };
    stream.send(RequestUnion::CreateRequest(create)).await;
    assert_eq!(stream.next().await, "0 at 4 created");
    let parts = [stream.next().await, stream.next().await, stream.next().await];
    assert_eq!(parts, ["0 at 4 fragment a1", "0 at 4 fragment a2", "0 at 4 a3"]);
    stream.engine.compact(CompactionRequest { revision: 4, physical: true }).await.unwrap();
    stream.create(0, "a", 2).await;
    assert_eq!(stream.next().await, "1 at 4 created");
    let ended = stream.next().await;
    assert_eq!(ended, "1 at 4 canceled compacted 4: etcdserver: mvcc: required revision has been compacted");
    stream.cancel(1).await;
    stream.progress().await;
    assert_eq!(stream.next().await, "-1 at 4");
    stream.put("a4").await;
    assert_eq!(stream.next().await, "0 at 5 a4");
    stream.shutdown.cancel();
}

#[tokio::test]
async fn a_quiet_watch_is_told_how_far_it_is() {
    let mut stream = Stream::open(|config| config.progress_interval = Duration::from_millis(50)).await;
    let create = WatchCreateRequest { progress_notify: true, ..WatchCreateRequest::prefix("a", 0) };
    stream.send(RequestUnion::CreateRequest(create)).await;
    assert_eq!(stream.next().await, "0 at 1 created");
    assert_eq!(stream.next().await, "0 at 1");
    stream.put("b").await;
    while stream.next().await != "0 at 2" {}
    stream.shutdown.cancel();
}
