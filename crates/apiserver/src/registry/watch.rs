//! Watches: initial events, changes, bookmarks, and their encodings.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use isopod_api::Value;
use isopod_api::status::Status;
use rand::Rng as _;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Resource;
use crate::body::{Body, BoxError};
use crate::cache::resource::Seen;
use crate::cache::{Change, Entry, Feed, Filter};
use crate::context::Ctx;
use crate::limits;
use crate::negotiate::{self, Accept, Media, Target};
use crate::options::ListOptions;
use crate::respond::{self, Answer};
use crate::server::ApiServer;
use crate::table;

/// Annotation of the bookmark that ends the initial events of a streamed list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";
/// Bookmarks are sent this long before a watch times out, so that the client can resume cheaply.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

impl ApiServer {
    /// Serves a watch.
    pub async fn watch(
        self: &Arc<Self>,
        ctx: Arc<Ctx>,
        resource: &Arc<Resource>,
        filter: Filter,
        options: ListOptions,
    ) -> Answer {
        let mut accept = respond::accept(&ctx)?;
        if accept.media == Media::Yaml {
            accept.media = Media::Json;
        }
        let cache = &resource.stored.cache;
        let encoder = Encoder { ctx, resource: Arc::clone(resource), accept };
        let mut start = BytesMut::new();
        let from_scratch =
            options.send_initial_events.unwrap_or(options.resource_version.is_none_or(|v| v == 0));
        let (watch, mut seen) = if from_scratch {
            let at_least = if options.resource_version == Some(0) { Some(0) } else { None };
            let at_least = at_least.or(options.resource_version);
            let snapshot = self.snapshot(resource, at_least).await?;
            let watch = cache.watch(filter.clone(), snapshot.revision);
            let prefix = filter.key_prefix();
            for entry in snapshot.objects.with_prefix(&prefix) {
                if filter.matches(entry, resource.stored.strategy) {
                    encoder.entry(&mut start, Change::Added, entry);
                }
            }
            if options.send_initial_events == Some(true) && options.bookmarks {
                encoder.bookmark(&mut start, snapshot.revision, true);
            }
            (watch, snapshot.revision)
        } else {
            let registry = self.registry();
            cache.ensure(&*registry.store).await?;
            let after = match options.resource_version {
                Some(revision) if revision > 0 => revision,
                _ => self.snapshot(resource, None).await?.revision,
            };
            let mut watch = cache.watch(filter.clone(), after);
            if watch.is_err() && cache.recall(&*registry.store, after).await {
                watch = cache.watch(filter.clone(), after);
            }
            (watch, after)
        };
        let watch = match watch {
            Ok(watch) => watch,
            Err(status) => {
                let mut bytes = BytesMut::new();
                encoder.error(&mut bytes, &status);
                return Ok(encoder.response(Body::full(bytes.freeze())));
            }
        };
        for (change, event) in &watch.backlog {
            encoder.event(&mut start, *change, event);
            seen = event.revision;
        }
        let life = options.timeout_seconds.map_or_else(
            || limits::WATCH_TIMEOUT_MIN.mul_f64(1.0 + rand::rng().random_range(0.0..1.0)),
            Duration::from_secs,
        );
        let stream = Stream {
            start: start.freeze(),
            events: watch.events,
            feed: Arc::clone(&self.registry().feed),
            deadline: Instant::now() + life,
            bookmark: options.bookmarks.then(|| Instant::now() + next_bookmark(life)),
            shutdown: self.shutdown().clone(),
            seen,
            encoder: encoder.clone(),
        };
        let body = futures::stream::unfold(stream, Stream::next);
        Ok(encoder.response(Body::stream(body)))
    }
}

fn next_bookmark(left: Duration) -> Duration {
    if left > limits::BOOKMARK_INTERVAL + LAST_BOOKMARK {
        limits::BOOKMARK_INTERVAL
    } else {
        left.saturating_sub(LAST_BOOKMARK)
    }
}

/// A watch being served.
struct Stream {
    start: Bytes,
    events: mpsc::Receiver<Seen>,
    feed: Arc<Feed>,
    deadline: Instant,
    bookmark: Option<Instant>,
    shutdown: CancellationToken,
    /// Newest revision the client has been told of.
    seen: i64,
    encoder: Encoder,
}

impl Stream {
    /// The next chunk: all events at hand, up to a size.
    async fn next(mut self) -> Option<(Result<Bytes, BoxError>, Stream)> {
        if !self.start.is_empty() {
            let start = std::mem::take(&mut self.start);
            return Some((Ok(start), self));
        }
        let mut out = BytesMut::new();
        let far = self.deadline + Duration::from_secs(3600);
        tokio::select! {
            biased;
            seen = self.events.recv() => {
                // Without more events the cache has dropped this watcher: the stream ends and the client
                // resumes from the last revision it has seen.
                self.take(&mut out, seen?);
            }
            () = self.shutdown.cancelled() => return None,
            () = sleep_until(self.deadline) => return None,
            () = sleep_until(self.bookmark.unwrap_or(far)) => {
                // Everything up to the feed's progress is in the queue already: drain it, then say so.
                let reached = self.feed.progress();
                while let Ok(seen) = self.events.try_recv() {
                    self.take(&mut out, seen);
                }
                self.seen = self.seen.max(reached);
                self.encoder.bookmark(&mut out, self.seen, false);
                let left = self.deadline.saturating_duration_since(Instant::now());
                self.bookmark = (left > LAST_BOOKMARK).then(|| Instant::now() + next_bookmark(left));
                return Some((Ok(out.freeze()), self));
            }
        }
        while out.len() < limits::RESPONSE_CHUNK_BYTES {
            let Ok(seen) = self.events.try_recv() else { break };
            self.take(&mut out, seen);
        }
        Some((Ok(out.freeze()), self))
    }

    fn take(&mut self, out: &mut BytesMut, (change, event): Seen) {
        self.encoder.event(out, change, &event);
        self.seen = self.seen.max(event.revision);
    }
}

/// Turns changes into frames of the watch's media type.
#[derive(Clone)]
struct Encoder {
    ctx: Arc<Ctx>,
    resource: Arc<Resource>,
    accept: Accept,
}

impl Encoder {
    fn response(&self, body: Body) -> http::Response<Body> {
        respond::with_body(200, negotiate::watch_content_type(self.accept.media), body)
    }

    /// Whether cached JSON can be copied as it is.
    fn is_raw(&self) -> bool {
        self.accept.media == Media::Json
            && self.accept.target == Target::Object
            && self.resource.is_storage_version()
    }

    fn event(&self, out: &mut BytesMut, change: Change, event: &crate::cache::Event) {
        match (change, &event.now) {
            (Change::Deleted, _) if self.is_raw() => self.raw(out, change.name(), event.gone()),
            (Change::Deleted, _) => match serde_json::from_slice(event.gone()) {
                Ok(object) => self.value(out, change.name(), object),
                Err(error) => tracing::error!(%error, "a deleted object cannot be shown"),
            },
            (_, Some(entry)) => self.entry(out, change, entry),
            (_, None) => {}
        }
    }

    fn entry(&self, out: &mut BytesMut, change: Change, entry: &Entry) {
        if self.is_raw() {
            self.raw(out, change.name(), entry.json.bytes());
        } else {
            self.value(out, change.name(), entry.object());
        }
    }

    fn raw(&self, out: &mut BytesMut, name: &str, json: &[u8]) {
        out.put_slice(b"{\"type\":\"");
        out.put_slice(name.as_bytes());
        out.put_slice(b"\",\"object\":");
        out.put_slice(json);
        out.put_slice(b"}\n");
    }

    /// An object in the storage version.
    fn value(&self, out: &mut BytesMut, name: &str, object: Value) {
        let shown = match &self.accept.target {
            Target::Object => self.resource.to_version(object),
            Target::Metadata(version) => respond::partial_metadata(&object, version),
            Target::Table(version) => {
                let revision = object["metadata"]["resourceVersion"].clone();
                let row = table::row(&self.ctx, &self.resource, object, version);
                table::table(&self.resource, vec![row], json!({"resourceVersion": revision}), version)
            }
        };
        self.frame(out, name, &shown);
    }

    fn frame(&self, out: &mut BytesMut, name: &str, object: &Value) {
        if self.accept.media == Media::Protobuf {
            proto_frame(out, name, &respond::encode_proto(object, &self.resource));
        } else {
            self.raw(out, name, object.to_string().as_bytes());
        }
    }

    fn bookmark(&self, out: &mut BytesMut, revision: i64, initial_end: bool) {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let object = match &self.accept.target {
            Target::Metadata(version) => {
                json!({"kind": "PartialObjectMetadata", "metadata": metadata,
                    "apiVersion": isopod_api::object::api_version("meta.k8s.io", version)})
            }
            Target::Table(version) => {
                let row = json!({"cells": [], "object": {"kind": "PartialObjectMetadata",
                    "apiVersion": isopod_api::object::api_version("meta.k8s.io", version), "metadata": metadata}});
                table::table(
                    &self.resource,
                    vec![row],
                    json!({"resourceVersion": revision.to_string()}),
                    version,
                )
            }
            Target::Object => json!({"kind": self.resource.facts.kind,
                "apiVersion": self.resource.api_version(), "metadata": metadata}),
        };
        self.frame(out, "BOOKMARK", &object);
    }

    fn error(&self, out: &mut BytesMut, status: &Status) {
        self.frame(out, "ERROR", &status.to_value());
    }
}

/// A length-delimited `metav1.WatchEvent` whose object is `raw`.
fn proto_frame(out: &mut BytesMut, name: &str, raw: &[u8]) {
    fn varint(out: &mut Vec<u8>, mut value: usize) {
        while value >= 0x80 {
            out.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }
    fn bytes(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
        out.push(tag << 3 | 2);
        varint(out, value.len());
        out.extend_from_slice(value);
    }
    let mut extension = Vec::with_capacity(raw.len() + 8);
    bytes(&mut extension, 1, raw);
    let mut event = Vec::with_capacity(extension.len() + 32);
    bytes(&mut event, 1, name.as_bytes());
    bytes(&mut event, 2, &extension);
    out.put_u32(u32::try_from(event.len()).unwrap_or(u32::MAX));
    out.put_slice(&event);
}
