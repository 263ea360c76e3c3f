//! A queue of keys to work on, as controllers use it.
//!
//! - A key is in the queue once, however often it is added; a key added while it is worked on comes again after.
//!   So one key is never worked on by two workers, and the queue is bounded by the number of keys there are.
//! - [`WorkQueue::add_rate_limited`] delays by 5 ms · 2ⁿ, at most 1,000 s, n being how often that key failed.
//! - No task runs behind it: the workers that wait also watch for delayed keys that come due.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::workqueue_metrics::Metrics;

/// Upstream's item-exponential limiter.
const BASE_DELAY: Duration = Duration::from_millis(5);
const MAX_DELAY: Duration = Duration::from_secs(1000);

/// What a key must be.
pub trait Key: Clone + Eq + Hash + Ord + Send + Sync + 'static {}
impl<K: Clone + Eq + Hash + Ord + Send + Sync + 'static> Key for K {}

struct State<K> {
    ready: VecDeque<K>,
    /// Keys that want work, with the time they became so: in `ready`, or worked on and to be done again.
    dirty: HashMap<K, Instant>,
    processing: HashMap<K, Instant>,
    /// Delayed keys by due time; `due` holds the earliest time of each.
    delayed: BTreeSet<(Instant, K)>,
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
    shut_down: bool,
}

struct Inner<K> {
    state: Mutex<State<K>>,
    wake: Notify,
    metrics: Metrics,
}

/// The queue; clones share it.
pub struct WorkQueue<K>(Arc<Inner<K>>);

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Key> WorkQueue<K> {
    /// An empty queue; `name` labels its metrics (`workqueue_*`).
    pub fn new(name: &str) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashMap::new(),
            processing: HashMap::new(),
            delayed: BTreeSet::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            shut_down: false,
        };
        Self(Arc::new(Inner { state: Mutex::new(state), wake: Notify::new(), metrics: Metrics::new(name) }))
    }

    /// Asks for work on `key`, at once.
    pub fn add(&self, key: K) {
        let mut state = self.0.state.lock();
        self.add_locked(&mut state, key);
    }

    fn add_locked(&self, state: &mut State<K>, key: K) {
        if state.shut_down || state.dirty.contains_key(&key) {
            return;
        }
        self.0.metrics.adds.inc();
        let worked_on = state.processing.contains_key(&key);
        state.dirty.insert(key.clone(), Instant::now());
        if !worked_on {
            state.ready.push_back(key);
            self.0.metrics.depth.set(state.ready.len() as i64);
            self.0.wake.notify_one();
        }
    }

    /// Asks for work on `key` after `delay`; of several delays of a key the shortest counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.0.state.lock();
        if state.shut_down {
            return;
        }
        self.0.metrics.retries.inc();
        let due = Instant::now() + delay;
        match state.due.get(&key).copied() {
            Some(earlier) if earlier <= due => return,
            Some(later) => {
                state.delayed.remove(&(later, key.clone()));
            }
            None => {}
        }
        state.due.insert(key.clone(), due);
        state.delayed.insert((due, key));
        self.0.wake.notify_one();
    }

    /// Asks for work on `key` after a pause that grows with every call until [`Self::forget`].
    pub fn add_rate_limited(&self, key: K) {
        let delay = {
            let mut state = self.0.state.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            let factor = 2u32.checked_pow((*failures).min(31)).unwrap_or(u32::MAX);
            *failures = failures.saturating_add(1);
            BASE_DELAY.saturating_mul(factor).min(MAX_DELAY)
        };
        self.add_after(key, delay);
    }

    /// Ends the record of failures of `key`.
    pub fn forget(&self, key: &K) {
        self.0.state.lock().failures.remove(key);
    }

    /// How often `key` was added rate limited since it was last forgotten.
    pub fn num_requeues(&self, key: &K) -> u32 {
        self.0.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// How many keys are ready.
    pub fn len(&self) -> usize {
        self.0.state.lock().ready.len()
    }

    /// Whether no key is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next key, or `None` once the queue is shut down and drained. [`Self::done`] must follow.
    pub async fn get(&self) -> Option<K> {
        loop {
            let next_due = {
                let mut state = self.0.state.lock();
                self.release_due(&mut state);
                if let Some(key) = self.take(&mut state) {
                    if !state.ready.is_empty() || !state.delayed.is_empty() {
                        self.0.wake.notify_one();
                    }
                    return Some(key);
                }
                if state.shut_down {
                    self.0.wake.notify_one();
                    return None;
                }
                state.delayed.first().map(|(due, _)| *due)
            };
            match next_due {
                None => self.0.wake.notified().await,
                Some(due) => tokio::select! {
                    () = self.0.wake.notified() => {}
                    () = tokio::time::sleep_until(due) => {}
                },
            }
        }
    }

    fn release_due(&self, state: &mut State<K>) {
        let now = Instant::now();
        while state.delayed.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, key)) = state.delayed.pop_first() else { break };
            state.due.remove(&key);
            self.add_locked(state, key);
        }
    }

    fn take(&self, state: &mut State<K>) -> Option<K> {
        let key = state.ready.pop_front()?;
        let now = Instant::now();
        let metrics = &self.0.metrics;
        if let Some(since) = state.dirty.remove(&key) {
            metrics.queue_duration.observe((now - since).as_secs_f64());
        }
        state.processing.insert(key.clone(), now);
        metrics.depth.set(state.ready.len() as i64);
        Some(key)
    }

    /// Ends the work on `key`; if it was added meanwhile it is ready again.
    pub fn done(&self, key: &K) {
        let mut state = self.0.state.lock();
        if let Some(since) = state.processing.remove(key) {
            self.0.metrics.work_duration.observe(since.elapsed().as_secs_f64());
        }
        if state.dirty.contains_key(key) {
            state.ready.push_back(key.clone());
            self.0.metrics.depth.set(state.ready.len() as i64);
            self.0.wake.notify_one();
        }
    }

    /// No more adds; workers get what is ready, then `None`.
    pub fn shut_down(&self) {
        let mut state = self.0.state.lock();
        state.shut_down = true;
        state.delayed.clear();
        state.due.clear();
        drop(state);
        self.0.wake.notify_one();
    }

    /// Sets the two gauges that grow while work goes on; called when metrics are gathered.
    pub fn update_metrics(&self) {
        let state = self.0.state.lock();
        let running: Vec<f64> =
            state.processing.values().map(|since| since.elapsed().as_secs_f64()).collect();
        self.0.metrics.unfinished.set(running.iter().sum());
        self.0.metrics.longest.set(running.iter().copied().fold(0.0, f64::max));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_added_during_work_comes_again_once() {
        let queue = WorkQueue::new("test-dedup");
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.get().await, Some("a"));
        queue.add("a");
        queue.add("a");
        assert!(queue.is_empty());
        queue.done(&"a");
        assert_eq!(queue.get().await, Some("a"));
        queue.done(&"a");
        assert!(queue.is_empty());
        queue.shut_down();
        assert_eq!(queue.get().await, None);
        assert_eq!(queue.get().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_shortest_delay_counts_and_failures_lengthen_it() {
        let queue = WorkQueue::new("test-delay");
        let start = Instant::now();
        queue.add_after("slow", Duration::from_secs(9));
        queue.add_after("slow", Duration::from_secs(3));
        queue.add_after("slow", Duration::from_secs(5));
        assert_eq!(queue.get().await, Some("slow"));
        assert_eq!(start.elapsed().as_secs(), 3);
        queue.done(&"slow");
        for expected in [5, 10, 20, 40] {
            let start = Instant::now();
            queue.add_rate_limited("flaky");
            assert_eq!(queue.get().await, Some("flaky"));
            assert_eq!(start.elapsed().as_millis(), expected);
            queue.done(&"flaky");
        }
        assert_eq!(queue.num_requeues(&"flaky"), 4);
        queue.forget(&"flaky");
        assert_eq!(queue.num_requeues(&"flaky"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn every_waiting_worker_gets_a_key() {
        let queue = WorkQueue::new("test-workers");
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.get().await })
            })
            .collect();
        tokio::task::yield_now().await;
        for n in 0..4 {
            queue.add_after(n, Duration::from_secs(1));
        }
        let mut got = Vec::new();
        for worker in workers {
            got.push(worker.await.expect("worker ends").expect("a key"));
        }
        got.sort_unstable();
        assert_eq!(got, [0, 1, 2, 3]);
    }
}
