//! An informer: the watch of one kind, its cache, and those who want to know of changes.
//!
//! Handlers run on the informer's task after the store was changed and must return at once; what they usually do
//! is put a key into a [`crate::WorkQueue`], which is bounded by the number of objects. A [`Subscription`] is the
//! same as a stream: it yields keys that changed since last asked for, each once, whatever happened in between.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::Resource;
use kube::runtime::watcher::{self, Event};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::key::ObjectKey;
use crate::store::Store;

/// First and greatest pause after a failed list or watch. The first is short, since at start the API server of
/// the same process is ready within tens of milliseconds.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What happened to an object.
#[derive(Debug)]
pub enum Change<K> {
    /// It is new to this cache.
    Added(Arc<K>),
    /// It was replaced by a newer version.
    Updated {
        /// Before.
        old: Arc<K>,
        /// After.
        new: Arc<K>,
    },
    /// It is gone; this was its last known state.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The newest known state.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(object) | Self::Deleted(object) | Self::Updated { new: object, .. } => object,
        }
    }
}

impl<K: Resource> Change<K> {
    /// The object's key.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::of(&**self.object())
    }
}

type Handler<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

struct Shared<K> {
    store: Store<K>,
    /// Held while changes are handed out, so that a new handler sees every object exactly once.
    handlers: Mutex<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
}

/// A handle on a running watch; clones share it. The watch ends with the token of its factory.
pub struct Informer<K>(Arc<Shared<K>>);

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> Informer<K> {
    /// The cache.
    pub fn store(&self) -> Store<K> {
        self.0.store.clone()
    }

    /// Whether the first list is complete.
    pub fn has_synced(&self) -> bool {
        *self.0.synced.borrow()
    }

    /// Waits until the first list is complete.
    pub async fn wait_synced(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.0.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Adds an index to the cache; see [`Store::add_index`].
    pub fn add_index(&self, name: &str, values: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) {
        self.0.store.add_index(name, values);
    }
}

impl<K: Resource + Send + Sync + 'static> Informer<K> {
    /// Calls `handler` for every object there is, as added, and for every change after. It runs on the
    /// informer's task, in order, and must neither block nor call this informer's `on_change`.
    pub fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let mut handlers = self.0.handlers.lock();
        for object in self.0.store.list() {
            handler(&Change::Added(object));
        }
        handlers.push(Box::new(handler));
    }

    /// Keys that changed, level-triggered: bounded by the number of objects, however slow the reader.
    pub fn subscribe(&self) -> Subscription {
        let shared = Arc::new(Dirty::default());
        let weak = Arc::downgrade(&shared);
        self.on_change(move |change| {
            if let Some(dirty) = weak.upgrade() {
                dirty.keys.lock().insert(change.key());
                dirty.wake.notify_one();
            }
        });
        Subscription(shared)
    }

    /// Runs a watch into a new informer until `shutdown`.
    pub(crate) fn spawn<S>(stream: S, slim: fn(&mut K), shutdown: CancellationToken) -> Self
    where
        S: Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
        K: Debug,
    {
        let informer = Self(Arc::new(Shared {
            store: Store::default(),
            handlers: Mutex::new(Vec::new()),
            synced: watch::channel(false).0,
        }));
        let task = Reflect { informer: informer.clone(), slim, listed: HashSet::new() };
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = task.run(stream) => {}
            }
        });
        informer
    }

    fn dispatch(&self, change: &Change<K>, handlers: &[Handler<K>]) {
        for handler in handlers {
            handler(change);
        }
    }

    fn apply(&self, object: K) {
        let key = ObjectKey::of(&object);
        let handlers = self.0.handlers.lock();
        let known = self.0.store.get(&key);
        if known.is_some_and(|known| known.meta().resource_version == object.meta().resource_version) {
            return;
        }
        let new = Arc::new(object);
        let change = match self.0.store.insert(&key, new.clone()) {
            None => Change::Added(new),
            Some(old) => Change::Updated { old, new },
        };
        self.dispatch(&change, &handlers);
    }

    fn delete(&self, key: &ObjectKey, last: Option<K>) {
        let handlers = self.0.handlers.lock();
        if let Some(old) = self.0.store.remove(key) {
            self.dispatch(&Change::Deleted(last.map_or(old, Arc::new)), &handlers);
        }
    }
}

/// The task that turns watch events into changes.
struct Reflect<K> {
    informer: Informer<K>,
    slim: fn(&mut K),
    /// Keys seen by the list under way; whatever is not among them at its end was deleted meanwhile.
    listed: HashSet<ObjectKey>,
}

impl<K: Resource + Debug + Send + Sync + 'static> Reflect<K> {
    async fn run(mut self, stream: impl Stream<Item = watcher::Result<Event<K>>> + Send) {
        let mut stream = std::pin::pin!(stream);
        let mut pause = RETRY_MIN;
        while let Some(item) = stream.next().await {
            match item {
                Ok(event) => {
                    pause = RETRY_MIN;
                    self.handle(event);
                }
                Err(error) => {
                    if pause > Duration::from_secs(1) {
                        warn!(
                            kind = std::any::type_name::<K>(),
                            error = &error as &dyn std::error::Error,
                            "watch"
                        );
                    } else {
                        debug!(
                            kind = std::any::type_name::<K>(),
                            error = &error as &dyn std::error::Error,
                            "watch"
                        );
                    }
                    tokio::time::sleep(jittered(pause)).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }

    fn handle(&mut self, event: Event<K>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(mut object) => {
                (self.slim)(&mut object);
                self.listed.insert(ObjectKey::of(&object));
                self.informer.apply(object);
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                for key in self.informer.0.store.keys() {
                    if !listed.contains(&key) {
                        self.informer.delete(&key, None);
                    }
                }
                self.informer.0.synced.send_replace(true);
            }
            Event::Apply(mut object) => {
                (self.slim)(&mut object);
                self.informer.apply(object);
            }
            Event::Delete(mut object) => {
                (self.slim)(&mut object);
                self.informer.delete(&ObjectKey::of(&object), Some(object));
            }
        }
    }
}

/// Spreads retries of many informers over ±20 %.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.8..1.2))
}

#[derive(Default)]
struct Dirty {
    keys: Mutex<BTreeSet<ObjectKey>>,
    wake: Notify,
}

/// Keys that changed since last asked for.
pub struct Subscription(Arc<Dirty>);

impl Subscription {
    /// The next changed key; its object may have changed again, or be gone, by the time it is looked up.
    pub async fn next(&mut self) -> ObjectKey {
        loop {
            if let Some(key) = self.0.keys.lock().pop_first() {
                return key;
            }
            self.0.wake.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc;
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(name: &str, version: &str) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata.namespace = Some("ns".into());
        map.metadata.name = Some(name.into());
        map.metadata.resource_version = Some(version.into());
        map
    }

    #[tokio::test]
    async fn a_new_list_removes_what_it_does_not_name() {
        let (mut events, stream) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let informer = Informer::spawn(stream, |_| {}, stop.clone());
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = log.clone();
        informer.on_change(move |change: &Change<ConfigMap>| {
            let what = match change {
                Change::Added(_) => "added",
                Change::Updated { .. } => "updated",
                Change::Deleted(_) => "deleted",
            };
            sink.lock().push(format!("{what} {}", change.key()));
        });
        let mut send = |event| events.try_send(Ok(event)).expect("room in the channel");
        send(Event::Init);
        send(Event::InitApply(object("one", "1")));
        send(Event::InitApply(object("two", "1")));
        send(Event::InitDone);
        informer.wait_synced().await;
        let mut changed = informer.subscribe();
        send(Event::Apply(object("one", "2")));
        send(Event::Init);
        send(Event::InitApply(object("one", "2")));
        send(Event::InitDone);
        let mut seen = BTreeSet::new();
        while informer.store().len() > 1 || seen.len() < 2 {
            seen.insert(changed.next().await.to_string());
        }
        assert_eq!(*log.lock(), ["added ns/one", "added ns/two", "updated ns/one", "deleted ns/two"]);
        stop.cancel();
    }
}
