//! Who is watching, and the watchers themselves.
//!
//! A watcher is a cursor into the state's history and a signal. When a change concerns it, the writer puts the
//! change's revision on the signal, if none is there yet, and wakes it; it then reads its events from history at its
//! own pace. No event is ever queued for a watcher: a slow one costs as much as a quick one, and misses nothing
//! unless a compaction overtakes it, of which it is told.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use isopod_kv::{Event, WatchCreateRequest};
use isopod_mvcc::{Filters, KeyRange, State, WatchIndex};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::shared::Shared;

/// Events given at a time; a revision with more is given whole.
const EVENTS_PER_STEP: usize = 1000;
/// Changes looked at under one hold of the state's lock.
const CHANGES_PER_STEP: usize = 20_000;

/// The watchers' register.
#[derive(Default)]
pub(crate) struct Hub {
    index: Mutex<WatchIndex<Arc<Signal>>>,
    next_id: AtomicU64,
}

/// How the writer reaches a watcher.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    id: u64,
    /// Revision of the first change that the watcher has not looked at; 0 if there is none. Set while the state is
    /// locked for writing, taken while it is locked for reading.
    from: AtomicI64,
    /// Whether everything up to the last look has been given to the client.
    idle: AtomicBool,
    notify: Notify,
}

impl PartialEq for Signal {
    fn eq(&self, other: &Signal) -> bool {
        self.id == other.id
    }
}

impl Eq for Signal {}

impl Hash for Signal {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.id.hash(hasher);
    }
}

impl Signal {
    pub(crate) fn wake(&self) {
        self.notify.notify_one();
    }

    /// Whether the watcher has given out everything that the state contains. To be asked with the state locked.
    pub(crate) fn is_current(&self) -> bool {
        // In this order: a watcher that takes the mark has said before that it is not idle.
        self.from.load(Ordering::SeqCst) == 0 && self.idle.load(Ordering::SeqCst)
    }
}

impl Hub {
    /// Marks everybody: the state has been replaced by a later one. The caller holds it for writing, and wakes those in
    /// `wake` afterwards. Each watcher goes on where it was, or hears that history has left it behind.
    pub(crate) fn mark_all(&self, wake: &mut Vec<Arc<Signal>>) {
        self.index.lock().all(|signal| {
            let _ = signal.from.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst);
            wake.push(signal.clone());
        });
    }

    /// Marks everybody whom the changes from `revision` on concern. The caller holds the state for writing, and
    /// wakes those in `wake` afterwards.
    pub(crate) fn mark(&self, state: &State, revision: i64, wake: &mut Vec<Arc<Signal>>) {
        let index = self.index.lock();
        if index.is_empty() {
            return;
        }
        for (key, revision) in state.changed_keys(revision) {
            index.watchers(key, |signal| {
                if signal.from.compare_exchange(0, revision, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                    wake.push(signal.clone());
                }
            });
        }
    }
}

/// One watch.
pub(crate) struct Watcher {
    shared: Arc<Shared>,
    range: KeyRange,
    filters: Filters,
    /// Everything before this revision has been given.
    cursor: i64,
    /// Whether the watcher has once caught up, so that all it has not seen is marked on its signal.
    synced: bool,
    signal: Arc<Signal>,
}

/// What a watcher gives.
#[derive(Debug)]
pub(crate) enum Step {
    /// Events, and the revision up to which there are no others.
    Events { events: Vec<Event>, revision: i64 },
    /// Nothing for now; everything up to the revision has been given.
    Idle { revision: i64 },
    /// History up to this revision is gone, and with it events that the watcher has not seen.
    Compacted(i64),
}

impl Watcher {
    /// Begins a watch; the revision at which it begins.
    pub(crate) fn new(shared: &Arc<Shared>, request: &WatchCreateRequest) -> (Watcher, i64) {
        // As etcd: no key and no end stand for the whole key space.
        let key = if request.key.is_empty() { bytes::Bytes::from_static(&[0]) } else { request.key.clone() };
        let range = KeyRange { key, range_end: request.range_end.clone() };
        let id = shared.hub.next_id.fetch_add(1, Ordering::Relaxed);
        let signal = Arc::new(Signal { id, ..Signal::default() });
        shared.hub.index.lock().insert(&range, signal.clone());
        crate::metrics::WATCHERS.inc();
        let mut watcher = Watcher {
            shared: shared.clone(),
            range,
            filters: Filters::new(&request.filters, request.prev_kv),
            cursor: request.start_revision,
            synced: false,
            signal,
        };
        let revision = shared.state.read().revision();
        if request.start_revision <= 0 {
            watcher.cursor = revision + 1;
        }
        (watcher, revision)
    }

    pub(crate) fn signal(&self) -> &Arc<Signal> {
        &self.signal
    }

    /// The next events, without waiting.
    pub(crate) fn step(&mut self) -> Step {
        loop {
            let state = self.shared.state.read();
            self.signal.idle.store(false, Ordering::SeqCst);
            let marked = self.signal.from.swap(0, Ordering::SeqCst);
            let current = state.revision();
            if self.synced && marked == 0 {
                self.cursor = self.cursor.max(current + 1);
                self.signal.idle.store(true, Ordering::SeqCst);
                return Step::Idle { revision: current };
            }
            // Between the cursor and the first mark nothing concerns this watcher.
            let from = if self.synced { self.cursor.max(marked) } else { self.cursor };
            let batch = match state.events(&self.range, self.filters, from, EVENTS_PER_STEP, CHANGES_PER_STEP)
            {
                Ok(batch) => batch,
                Err(compacted) => return Step::Compacted(compacted),
            };
            self.cursor = batch.next_revision;
            self.synced = batch.next_revision > current;
            if !batch.events.is_empty() {
                return Step::Events { events: batch.events, revision: current.min(self.cursor - 1) };
            }
        }
    }

    /// Waits until [`Watcher::step`] is worth another try.
    pub(crate) async fn wait(&self) {
        tokio::select! {
            () = self.signal.notify.notified() => {}
            () = self.shared.stopped.cancelled() => {}
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.hub.index.lock().remove(&self.range, &self.signal);
        crate::metrics::WATCHERS.dec();
    }
}
