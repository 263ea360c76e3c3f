//! What a controller has asked for and not yet seen in its cache.
//!
//! Between a create and the arrival of the created object the cache is out of date; a controller that looks at it
//! then would create once more. It records what it expects, and does nothing for a key until that is seen, or
//! until five minutes have passed, since an event that never comes must not block it for good.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Upstream's time to live of an expectation.
const TIMEOUT: Duration = Duration::from_secs(5 * 60);

struct Expected {
    creations: i64,
    deletions: HashSet<String>,
    since: Instant,
}

impl Expected {
    fn fulfilled(&self) -> bool {
        self.creations <= 0 && self.deletions.is_empty()
    }
}

/// Expectations by key of the controlling object.
pub struct Expectations<K>(Mutex<HashMap<K, Expected>>);

impl<K> Default for Expectations<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Clone> Expectations<K> {
    /// Nothing is expected.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets, before the calls are made, how many creations and which deletions (by uid) are to be seen.
    pub fn expect(&self, key: K, creations: usize, deletions: impl IntoIterator<Item = String>) {
        let expected = Expected {
            creations: i64::try_from(creations).unwrap_or(i64::MAX),
            deletions: deletions.into_iter().collect(),
            since: Instant::now(),
        };
        self.0.lock().insert(key, expected);
    }

    /// A creation was seen, or the call for it failed.
    pub fn creation_observed(&self, key: &K) {
        if let Some(expected) = self.0.lock().get_mut(key) {
            expected.creations -= 1;
        }
    }

    /// A deletion was seen, or the call for it failed.
    pub fn deletion_observed(&self, key: &K, uid: &str) {
        if let Some(expected) = self.0.lock().get_mut(key) {
            expected.deletions.remove(uid);
        }
    }

    /// Whether the cache may be trusted for `key`: all was seen, nothing was expected, or it took too long.
    pub fn satisfied(&self, key: &K) -> bool {
        self.0
            .lock()
            .get(key)
            .is_none_or(|expected| expected.fulfilled() || expected.since.elapsed() > TIMEOUT)
    }

    /// Forgets a key whose object is gone.
    pub fn forget(&self, key: &K) {
        self.0.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn satisfied_when_seen_or_overdue() {
        let expectations = Expectations::new();
        assert!(expectations.satisfied(&"rs"));
        expectations.expect("rs", 2, ["uid".to_owned()]);
        expectations.creation_observed(&"rs");
        expectations.creation_observed(&"rs");
        assert!(!expectations.satisfied(&"rs"));
        expectations.deletion_observed(&"rs", "uid");
        assert!(expectations.satisfied(&"rs"));
        expectations.expect("rs", 1, []);
        assert!(!expectations.satisfied(&"rs"));
        tokio::time::advance(TIMEOUT + Duration::from_secs(1)).await;
        assert!(expectations.satisfied(&"rs"));
    }
}
