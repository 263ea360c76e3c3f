//! The feed: one watch on the whole store, from which every cache gets its changes.
//!
//! Because one stream carries all resources, its revision alone says how far every cache has come, and a
//! consistent read waits for one number. When the stream breaks, caches start anew and their watchers end.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use isopod_kv::{RangeRequest, Store, WatchCreateRequest, WatchResponse, event};
use parking_lot::RwLock;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::resource::{Cache, Raw};
use crate::limits;

/// Shortest and longest pause before the watch on the store is tried again.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long a reader waits before it asks the store for progress: by then an event in this process would
/// have come, and what is missing is a change outside our keys.
const PROGRESS_AFTER: Duration = Duration::from_millis(20);

/// The feed and what it has reached.
pub struct Feed {
    store: Arc<dyn Store>,
    prefix: String,
    caches: RwLock<Vec<Arc<Cache>>>,
    progress: watch::Sender<i64>,
    ask_progress: Notify,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Feed({} at {})", self.prefix, *self.progress.borrow())
    }
}

impl Feed {
    /// A feed of all keys under `prefix` (with a final slash), not running yet.
    pub fn new(store: Arc<dyn Store>, prefix: String) -> Feed {
        Feed {
            store,
            prefix,
            caches: RwLock::default(),
            progress: watch::Sender::new(0),
            ask_progress: Notify::new(),
        }
    }

    /// Adds a cache; before the feed has run, or before the cache is filled.
    pub fn add(&self, cache: Arc<Cache>) {
        let mut caches = self.caches.write();
        let at = caches.partition_point(|c| c.spec.prefix < cache.spec.prefix);
        caches.insert(at, cache);
    }

    /// All caches.
    pub fn caches(&self) -> Vec<Arc<Cache>> {
        self.caches.read().clone()
    }

    /// Revision up to which every change has reached its cache.
    pub fn progress(&self) -> i64 {
        *self.progress.borrow()
    }

    /// Told of every step of the progress.
    pub fn subscribe(&self) -> watch::Receiver<i64> {
        self.progress.subscribe()
    }

    /// The store's revision at this moment.
    pub async fn current(&self) -> Result<i64, isopod_kv::Error> {
        let mut request = RangeRequest::key(self.prefix.clone());
        request.count_only = true;
        let response = self.store.range(request).await?;
        Ok(response.header.map_or(0, |h| h.revision))
    }

    /// Waits until every change up to `revision` has reached its cache; false if that takes too long.
    pub async fn wait(&self, revision: i64) -> bool {
        if self.progress() >= revision {
            return true;
        }
        let mut progress = self.progress.subscribe();
        let reached = async {
            loop {
                let step = tokio::time::timeout(PROGRESS_AFTER, progress.wait_for(|p| *p >= revision)).await;
                match step {
                    Ok(result) => return result.is_ok(),
                    Err(_) => self.ask_progress.notify_one(),
                }
            }
        };
        tokio::time::timeout(limits::CACHE_WAIT_MAX, reached).await.unwrap_or(false)
    }

    /// Follows the store until `shutdown`. `started` is told once the first watch stands.
    pub async fn run(
        self: Arc<Self>,
        shutdown: CancellationToken,
        started: tokio::sync::oneshot::Sender<()>,
    ) {
        let mut started = Some(started);
        let mut pause = RETRY_MIN;
        loop {
            let result = tokio::select! {
                () = shutdown.cancelled() => return,
                result = self.follow(&mut started) => result,
            };
            for cache in self.caches() {
                cache.reset();
            }
            if self.progress() > 0 && started.is_none() {
                pause = RETRY_MIN;
            }
            if let Err(error) = result {
                tracing::warn!(%error, "the watch on the store ended; caches start anew");
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
            }
        }
    }

    async fn follow(
        &self,
        started: &mut Option<tokio::sync::oneshot::Sender<()>>,
    ) -> Result<(), isopod_kv::Error> {
        let from = self.current().await?;
        let mut request = WatchCreateRequest::prefix(self.prefix.clone(), from + 1);
        request.progress_notify = true;
        let mut events = self.store.watch(request).await?;
        // A cache filled before this watch stood may have missed what came in between.
        for cache in self.caches() {
            cache.reset();
        }
        self.advance(from);
        if let Some(started) = started.take() {
            let _ = started.send(());
        }
        loop {
            tokio::select! {
                response = events.next() => match response {
                    Some(Ok(response)) => self.take(response),
                    Some(Err(error)) => return Err(error),
                    None => return Err(isopod_kv::Error::WatchCanceled),
                },
                () = self.ask_progress.notified() => events.request_progress(),
            }
        }
    }

    fn take(&self, response: WatchResponse) {
        let mut newest = 0;
        let caches = self.caches.read();
        for event in response.events {
            let Some(kv) = event.kv else { continue };
            newest = newest.max(kv.mod_revision);
            // The last cache whose prefix is not greater than the key is the only one it can belong to.
            let after = caches.partition_point(|c| c.spec.prefix.as_bytes() <= &kv.key[..]);
            let Some(cache) = after.checked_sub(1).map(|i| &caches[i]) else { continue };
            let Some(key) = cache.suffix(&kv.key) else { continue };
            let deleted = event.r#type == event::EventType::Delete as i32;
            let (key, value) = (key.to_owned(), (!deleted).then_some(kv.value));
            cache.apply(Raw { key, revision: kv.mod_revision, value });
        }
        drop(caches);
        // A response without events reports progress by its header.
        let reached = if newest > 0 { newest } else { response.header.map_or(0, |h| h.revision) };
        self.advance(reached);
    }

    fn advance(&self, revision: i64) {
        self.progress.send_if_modified(|p| {
            let later = revision > *p;
            if later {
                *p = revision;
            }
            later
        });
    }
}
