//! The cache of one resource: snapshot, recent events, watchers.
//!
//! Invariant: the map holds exactly the objects as of `revision`, every event after `ring_start` is in the
//! ring, and a watcher registered at a revision gets every later event once, in order, or is dropped.
//! The feed is the only writer.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use isopod_api::Value;
use isopod_api::status::Status;
use isopod_kv::{KeyValue, RangeRequest, Store};
use isopod_rules::kinds::Strategy;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::entry::{Entry, Event, Prepared};
use super::filter::{Change, Filter, Scope};
use super::ordered::Ordered;
use crate::limits;

/// Turns stored bytes into an object in the storage version.
/// The first argument is the key in the store.
pub type Decode = Arc<dyn Fn(&str, &[u8]) -> Result<Value, String> + Send + Sync>;

/// An event under a watcher's filter.
pub type Seen = (Change, Arc<Event>);

/// A consistent view of all objects at a revision.
#[derive(Clone)]
pub struct Snapshot {
    /// The objects.
    pub objects: Ordered<Entry>,
    /// Every change up to this revision is in it, none after.
    pub revision: i64,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot({} objects at {})", self.objects.len(), self.revision)
    }
}

/// What is fixed about a cached resource.
pub struct Spec {
    /// API group, for errors.
    pub group: String,
    /// Plural, for errors.
    pub resource: String,
    /// Start of its keys in the store, with a final slash.
    pub prefix: String,
    /// Whether keys are `namespace/name`.
    pub namespaced: bool,
    /// The kind's rules.
    pub strategy: &'static Strategy,
    /// Field that watches are filed by.
    pub index: Option<&'static str>,
    /// Decoder of stored objects.
    pub decode: Decode,
}

/// The cache of one resource.
pub struct Cache {
    /// What is fixed.
    pub spec: Spec,
    state: Mutex<State>,
    filling: tokio::sync::Mutex<()>,
    /// Writes under way in this process: what the feed will see need not be decoded again.
    pending: Mutex<HashMap<Box<str>, (Bytes, Prepared)>>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cache({})", self.spec.prefix)
    }
}

#[derive(Default)]
enum Phase {
    #[default]
    Cold,
    /// Being read from the store; changes that arrive meanwhile wait.
    Filling(Vec<Raw>),
    Ready,
}

/// A change as the store reports it.
#[derive(Debug, Clone)]
pub struct Raw {
    /// Key without the resource's prefix.
    pub key: String,
    /// Revision of the change.
    pub revision: i64,
    /// The new value; `None` for a delete.
    pub value: Option<Bytes>,
}

#[derive(Default)]
struct State {
    phase: Phase,
    objects: Ordered<Entry>,
    revision: i64,
    ring: VecDeque<Arc<Event>>,
    ring_bytes: usize,
    /// Every event after this revision is in the ring.
    ring_start: i64,
    /// Watches from this revision or an older one have been refused for good.
    forgotten: i64,
    watchers: HashMap<Scope, Vec<Watcher>>,
    pages: VecDeque<Snapshot>,
}

struct Watcher {
    filter: Filter,
    /// Events up to this revision are not for it.
    after: i64,
    sender: mpsc::Sender<Seen>,
}

/// A registered watch.
#[derive(Debug)]
pub struct Watch {
    /// Events that had happened already, oldest first.
    pub backlog: Vec<Seen>,
    /// Later ones; closed when the watcher lags too far or the cache starts anew.
    pub events: mpsc::Receiver<Seen>,
}

impl Cache {
    /// An empty, cold cache.
    pub fn new(spec: Spec) -> Cache {
        Cache {
            spec,
            state: Mutex::default(),
            filling: tokio::sync::Mutex::default(),
            pending: Mutex::default(),
        }
    }

    /// Whether the cache has been filled.
    pub fn is_ready(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Ready)
    }

    /// Fills the cache from the store unless that has been done. The feed must be running.
    pub async fn ensure(&self, store: &dyn Store) -> Result<(), Status> {
        if self.is_ready() {
            return Ok(());
        }
        let _turn = self.filling.lock().await;
        if self.is_ready() {
            return Ok(());
        }
        self.state.lock().phase = Phase::Filling(Vec::new());
        let filled = self.fill(store).await;
        if filled.is_err() {
            self.state.lock().phase = Phase::Cold;
        }
        filled.map_err(|e| Status::service_unavailable(format!("reading {}: {e}", self.spec.resource)))
    }

    async fn fill(&self, store: &dyn Store) -> Result<(), isopod_kv::Error> {
        let mut request = RangeRequest::prefix(self.spec.prefix.clone());
        request.limit = limits::STORE_PAGE_MAX;
        let mut entries = Vec::new();
        loop {
            let page = store.range(request.clone()).await?;
            let revision = page.header.as_ref().map_or(0, |h| h.revision);
            if request.revision == 0 {
                request.revision = revision;
            }
            for kv in &page.kvs {
                if let Some(entry) = self.entry_of(kv) {
                    entries.push(Arc::new(entry));
                }
            }
            match page.kvs.last() {
                Some(last) if page.more => request.key = isopod_kv::keys::successor(&last.key),
                _ => break,
            }
        }
        let mut state = self.state.lock();
        let Phase::Filling(waiting) = std::mem::replace(&mut state.phase, Phase::Ready) else {
            // The feed started anew meanwhile: what was read may miss changes.
            state.phase = Phase::Cold;
            return Err(isopod_kv::Error::WatchCanceled);
        };
        state.objects = Ordered::from_sorted(entries);
        state.revision = request.revision;
        state.ring_start = request.revision;
        for raw in waiting {
            if raw.revision > request.revision {
                let entry = self.decode_raw(&raw);
                state.apply(&self.spec, &raw.key, raw.revision, entry);
            }
        }
        Ok(())
    }

    /// Key without the resource's prefix; `None` for keys of other resources.
    pub fn suffix<'k>(&self, key: &'k [u8]) -> Option<&'k str> {
        std::str::from_utf8(key.strip_prefix(self.spec.prefix.as_bytes())?).ok()
    }

    /// The entry of a stored object; `None` (and a log line) if it cannot be decoded.
    pub fn entry_of(&self, kv: &KeyValue) -> Option<Entry> {
        let key = self.suffix(&kv.key)?;
        self.decode_raw(&Raw {
            key: key.to_owned(),
            revision: kv.mod_revision,
            value: Some(kv.value.clone()),
        })
    }

    fn decode_raw(&self, raw: &Raw) -> Option<Entry> {
        let value = raw.value.as_ref()?;
        if let Some((announced, prepared)) = self.pending.lock().remove(raw.key.as_str())
            && announced == *value
        {
            return Some(prepared.entry(&raw.key, raw.revision));
        }
        self.decode(&raw.key, value, raw.revision)
    }

    fn decode(&self, key: &str, value: &[u8], revision: i64) -> Option<Entry> {
        let store_key = format!("{}{key}", self.spec.prefix);
        match (self.spec.decode)(&store_key, value) {
            Ok(object) => Some(Prepared::new(&object, self.spec.strategy).entry(key, revision)),
            Err(error) => {
                tracing::error!(prefix = self.spec.prefix, key, %error, "stored object cannot be read");
                None
            }
        }
    }

    /// The entry of a state that the object no longer has: nothing announced can be meant by it.
    pub(super) fn decode_past(&self, kv: &KeyValue) -> Option<Entry> {
        self.decode(self.suffix(&kv.key)?, &kv.value, kv.mod_revision)
    }

    /// Keeps out everybody else who reads the store for this cache.
    pub(super) async fn filling(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.filling.lock().await
    }

    /// Revision after which all events are at hand; `None` while the cache is not filled.
    pub(super) fn ring_start(&self) -> Option<i64> {
        let state = self.state.lock();
        matches!(state.phase, Phase::Ready).then_some(state.ring_start)
    }

    /// Whether the events after a revision are known to be gone.
    pub(super) fn is_forgotten(&self, after: i64) -> bool {
        after <= self.state.lock().forgotten
    }

    /// Notes that the events after a revision are gone.
    pub(super) fn note_forgotten(&self, after: i64) {
        let mut state = self.state.lock();
        state.forgotten = state.forgotten.max(after);
    }

    /// Puts the events of `(after, until]` before those of the ring; false if the ring does not begin at `until`
    /// any more.
    pub(super) fn prepend(&self, after: i64, until: i64, events: Vec<Arc<Event>>) -> bool {
        let mut state = self.state.lock();
        if state.ring_start != until || !matches!(state.phase, Phase::Ready) {
            return false;
        }
        for event in events.into_iter().rev() {
            state.ring_bytes += event.weight();
            state.ring.push_front(event);
        }
        state.ring_start = after;
        true
    }

    /// Takes one change from the store.
    pub fn apply(&self, raw: Raw) {
        if let Phase::Cold = self.state.lock().phase {
            return;
        }
        let entry = self.decode_raw(&raw);
        let mut state = self.state.lock();
        match &mut state.phase {
            Phase::Cold => {}
            Phase::Filling(waiting) => waiting.push(raw),
            Phase::Ready => {
                // An object that cannot be decoded counts as absent.
                state.apply(&self.spec, &raw.key, raw.revision, entry);
            }
        }
    }

    /// Forgets everything and ends all watches, because events were missed.
    pub fn reset(&self) {
        *self.state.lock() = State::default();
    }

    /// The state now, which includes every change up to `progress` if the feed has come that far; `None`
    /// while the cache is not filled.
    pub fn snapshot(&self, progress: i64) -> Option<Snapshot> {
        let state = self.state.lock();
        let snapshot = Snapshot { objects: state.objects.clone(), revision: state.revision.max(progress) };
        matches!(state.phase, Phase::Ready).then_some(snapshot)
    }

    /// Revision of the newest change seen.
    pub fn revision(&self) -> i64 {
        self.state.lock().revision
    }

    /// One object as of the newest change seen; `None` also while the cache is not filled.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.state.lock().objects.get(key).cloned()
    }

    /// Keeps a snapshot for a client that will ask for its next page.
    pub fn keep_page(&self, snapshot: Snapshot) {
        let mut state = self.state.lock();
        if state.pages.iter().any(|p| p.revision == snapshot.revision) {
            return;
        }
        if state.pages.len() >= limits::PAGE_SNAPSHOTS_MAX {
            state.pages.pop_front();
        }
        state.pages.push_back(snapshot);
    }

    /// A snapshot kept for paging.
    pub fn page(&self, revision: i64) -> Option<Snapshot> {
        self.state.lock().pages.iter().find(|p| p.revision == revision).cloned()
    }

    /// Forgets what is older than a revision: snapshots kept for paging, events kept for clients that resume.
    pub fn forget(&self, before: i64) {
        let mut state = self.state.lock();
        state.pages.retain(|p| p.revision >= before);
        while state.ring.front().is_some_and(|e| e.revision <= before) {
            state.drop_oldest();
        }
        state.ring.shrink_to(limits::EVENT_RING_MIN);
    }

    /// Registers a watch for every change after `after`. What the cache does not have any more, or not yet,
    /// is refused.
    pub fn watch(&self, filter: Filter, after: i64) -> Result<Watch, Status> {
        let mut state = self.state.lock();
        if after < state.ring_start || !matches!(state.phase, Phase::Ready) {
            return Err(Status::too_old_resource_version(
                u64::try_from(after).unwrap_or(0),
                u64::try_from(state.ring_start).unwrap_or(0),
            ));
        }
        let start = state.ring.partition_point(|e| e.revision <= after);
        let backlog = state
            .ring
            .range(start..)
            .filter_map(|e| Some((filter.change(e, self.spec.strategy)?, Arc::clone(e))))
            .collect();
        let (sender, events) = mpsc::channel(limits::WATCHER_QUEUE_MAX);
        let scope = filter.scope(self.spec.namespaced, self.spec.index);
        let after = after.max(state.revision);
        let watchers = state.watchers.entry(scope).or_default();
        watchers.retain(|w| !w.sender.is_closed());
        watchers.push(Watcher { filter, after, sender });
        Ok(Watch { backlog, events })
    }

    /// Notes what is about to be written, so that the feed need not decode it again. The value must be the
    /// very bytes handed to the store.
    pub fn announce(&self, key: &str, value: Bytes, prepared: Prepared) {
        self.pending.lock().insert(key.into(), (value, prepared));
    }

    /// Takes back an announcement whose write did not happen.
    pub fn retract(&self, key: &str) {
        self.pending.lock().remove(key);
    }

    /// Number of objects and of watchers, for metrics.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.objects.len(), state.watchers.values().map(Vec::len).sum())
    }
}

impl State {
    fn apply(&mut self, spec: &Spec, key: &str, revision: i64, entry: Option<Entry>) {
        let now = entry.map(Arc::new);
        let before = match &now {
            Some(entry) => self.objects.insert(Arc::clone(entry)),
            None => self.objects.remove(key),
        };
        self.revision = self.revision.max(revision);
        if now.is_none() && before.is_none() {
            return;
        }
        let event = Arc::new(Event::new(revision, now, before));
        self.dispatch(spec, &event);
        self.remember(event);
    }

    fn remember(&mut self, event: Arc<Event>) {
        self.ring_bytes += event.weight();
        self.ring.push_back(event);
        while self.ring.len() > limits::EVENT_RING_MAX
            || (self.ring.len() > limits::EVENT_RING_MIN && self.ring_bytes > limits::EVENT_RING_BYTES_MAX)
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(old) = self.ring.pop_front() {
            self.ring_bytes -= old.weight();
            self.ring_start = old.revision;
        }
    }

    fn dispatch(&mut self, spec: &Spec, event: &Arc<Event>) {
        if self.watchers.is_empty() {
            return;
        }
        self.dispatch_scope(spec, &Scope::All, event);
        let key = event.key();
        if let Some((namespace, _)) = key.split_once('/') {
            self.dispatch_scope(spec, &Scope::Namespace(namespace.to_owned()), event);
        }
        self.dispatch_scope(spec, &Scope::Object(key.to_owned()), event);
        if let Some(field) = spec.index {
            let value = |e: &Option<Arc<Entry>>| e.as_ref().map(|e| e.field(spec.strategy, field).to_owned());
            let (now, before) = (value(&event.now), value(&event.before));
            if before.is_some() && before != now {
                self.dispatch_scope(spec, &Scope::Index(before.unwrap_or_default()), event);
            }
            if let Some(now) = now {
                self.dispatch_scope(spec, &Scope::Index(now), event);
            }
        }
    }

    /// Hands an event to the watchers filed under a scope; one that cannot take it is dropped, so that it
    /// never holds up the others.
    fn dispatch_scope(&mut self, spec: &Spec, scope: &Scope, event: &Arc<Event>) {
        let Some(watchers) = self.watchers.get_mut(scope) else { return };
        watchers.retain(|watcher| {
            if event.revision <= watcher.after {
                return !watcher.sender.is_closed();
            }
            match watcher.filter.change(event, spec.strategy) {
                Some(change) => watcher.sender.try_send((change, Arc::clone(event))).is_ok(),
                None => !watcher.sender.is_closed(),
            }
        });
        if watchers.is_empty() {
            self.watchers.remove(scope);
        }
    }
}
