//! Every bound of the API server, each with its reason.
//!
//! A client can make the server hold memory or a task only within these figures; beyond them it gets an
//! error `Status` at once (SECURITY.md, "resource exhaustion").

use std::time::Duration;

/// Largest request body in bytes. Upstream's limit: twice etcd's default request size, since a JSON object
/// shrinks when it is stored as protobuf.
pub const REQUEST_BODY_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Largest request header block in bytes, as Go's `net/http` defaults (1 MiB).
pub const HEADER_BYTES_MAX: usize = 1024 * 1024;
/// Deepest nesting of a decoded document; real manifests stay under 30, a recursive decoder needs a floor.
pub const JSON_DEPTH_MAX: usize = 120;
/// Most operations in one JSON patch; upstream's limit.
pub const JSON_PATCH_OPERATIONS_MAX: usize = 10_000;
/// A client must finish its TLS handshake within this time, so idle sockets cannot pile up.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client must finish sending its headers within this time (upstream's `ReadHeaderTimeout`).
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(32);
/// A client must finish sending a body within this time, so a slow sender cannot hold a seat for ever.
pub const BODY_READ_TIMEOUT: Duration = Duration::from_secs(34);
/// Longest a non-long-running request may take (upstream's `--request-timeout`).
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Read-only requests in flight, by default (upstream's `--max-requests-inflight`). With those that write they are
/// the seats that the priority levels share.
pub const INFLIGHT_READ_MAX: u32 = 400;
/// Mutating requests in flight, by default (upstream's `--max-mutating-requests-inflight`).
pub const INFLIGHT_WRITE_MAX: u32 = 200;
/// How long a request waits for a seat before it is told to retry: a quarter of its time, as upstream.
pub const SEAT_WAIT_MAX: Duration = Duration::from_secs(15);
/// Watches of one user at one address. A kubelet has up to four for each of its pods; more is a fault.
pub const WATCHES_PER_CLIENT_MAX: usize = 2_048;
/// Open connections; a descriptor each, well under the usual limit of open files.
pub const CONNECTIONS_MAX: usize = 16_384;
/// HTTP/2 streams a connection may hold open (upstream serves 250 by default; watches of a busy client
/// share one connection, so a little more).
pub const HTTP2_STREAMS_MAX: u32 = 1_000;
/// Largest response chunk that is built before it is handed to the socket.
pub const RESPONSE_CHUNK_BYTES: usize = 64 * 1024;
/// Responses above this size are compressed when the client accepts gzip (upstream's threshold).
pub const GZIP_BYTES_MIN: usize = 128 * 1024;
/// Events a watcher may lag behind before it is dropped; the client then resumes from its last revision.
pub const WATCHER_QUEUE_MAX: usize = 1_024;
/// Events kept per resource for clients that resume a watch.
pub const EVENT_RING_MAX: usize = 10_000;
/// Events kept per resource however large they are.
pub const EVENT_RING_MIN: usize = 100;
/// Bytes of objects kept alive per resource for resuming clients.
pub const EVENT_RING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Snapshots kept per resource for clients that page through a list.
pub const PAGE_SNAPSHOTS_MAX: usize = 16;
/// Longest a list waits for the cache to reach the revision it needs (upstream: 3 s).
pub const CACHE_WAIT_MAX: Duration = Duration::from_secs(3);
/// Shortest default life of a watch; the actual one is random in `[min, 2*min)` as upstream, so that the
/// watches of a restarted fleet spread out.
pub const WATCH_TIMEOUT_MIN: Duration = Duration::from_secs(1800);
/// Time between bookmarks on a watch that allows them.
pub const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// Tries of an update before the conflict is reported to the client.
pub const UPDATE_RETRIES_MAX: usize = 8;
/// Tries of a patch against a moving object (upstream: 5).
pub const PATCH_RETRIES_MAX: usize = 5;
/// Tries of a create with `generateName` when the random suffix is taken (upstream: 8).
pub const GENERATE_NAME_RETRIES_MAX: usize = 8;
/// Objects read from the store per request when a cache is filled, so one answer stays small.
pub const STORE_PAGE_MAX: i64 = 2_000;
/// Objects of a deletecollection deleted at the same time: enough for the store to commit them together.
pub const DELETE_COLLECTION_PARALLEL: usize = 16;
/// Time given to open requests when the server stops.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
