//! Watches: history as a source of events, and the index of who watches what.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;

use bytes::Bytes;
use isopod_kv::event::EventType;
use isopod_kv::watch_create_request::FilterType;
use isopod_kv::{Event, keys};

use crate::history::Record;
use crate::state::State;

/// A range of keys, as on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// The key, or the first key.
    pub key: Bytes,
    /// Empty for one key, a zero byte for no end.
    pub range_end: Bytes,
}

impl KeyRange {
    /// Whether the range contains a key.
    pub fn contains(&self, key: &[u8]) -> bool {
        keys::contains(&self.key, &self.range_end, key)
    }
}

/// Events that a watcher does not want, and whether it wants previous values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Leave out writes.
    pub no_put: bool,
    /// Leave out deletions.
    pub no_delete: bool,
    /// Give the version before.
    pub prev_kv: bool,
}

impl Filters {
    /// From the wire's list; unknown filters are ignored.
    pub fn new(filters: &[i32], prev_kv: bool) -> Filters {
        let has = |filter: FilterType| filters.contains(&(filter as i32));
        Filters { no_put: has(FilterType::NoPut), no_delete: has(FilterType::NoDelete), prev_kv }
    }

    fn wants(self, record: &Record) -> bool {
        if record.tombstone { !self.no_delete } else { !self.no_put }
    }
}

/// A step of a watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventBatch {
    /// Events in order; all of a revision or none.
    pub events: Vec<Event>,
    /// Where to go on: every event before this revision has been given.
    pub next_revision: i64,
}

impl State {
    /// Events of a range from a revision on, stopping after about `max_events`, or after having looked at about
    /// `max_scanned` changes. A batch without events whose `next_revision` is beyond the current revision says
    /// that the watcher has everything.
    ///
    /// # Errors
    /// The compacted revision, if `from` is older.
    pub fn events(
        &self,
        range: &KeyRange,
        filters: Filters,
        from: i64,
        max_events: usize,
        max_scanned: usize,
    ) -> Result<EventBatch, i64> {
        if from < self.compacted {
            return Err(self.compacted);
        }
        let mut batch = EventBatch { events: Vec::new(), next_revision: from.max(self.revision + 1) };
        if from > self.revision {
            return Ok(batch);
        }
        let start = self.log.partition_point(|record| record.kv.mod_revision < from);
        let mut last = from;
        for (scanned, record) in self.log.range(start..).enumerate() {
            let revision = record.kv.mod_revision;
            // A revision is never split: it is only left before its first event.
            if revision != last && (batch.events.len() >= max_events || scanned >= max_scanned) {
                batch.next_revision = revision;
                return Ok(batch);
            }
            last = revision;
            if range.contains(&record.kv.key) && filters.wants(record) {
                batch.events.push(self.event(record, filters.prev_kv));
            }
        }
        Ok(batch)
    }

    /// The changes from a revision on, each key once a change. For waking watchers.
    pub fn changed_keys(&self, from: i64) -> impl Iterator<Item = (&Bytes, i64)> {
        let start = self.log.partition_point(|record| record.kv.mod_revision < from);
        self.log.range(start..).map(|record| (&record.kv.key, record.kv.mod_revision))
    }

    fn event(&self, record: &Record, prev_kv: bool) -> Event {
        let previous = || self.keys.get(&record.kv.key).and_then(|history| history.before(record));
        let kind = if record.tombstone { EventType::Delete } else { EventType::Put };
        Event {
            r#type: kind as i32,
            kv: Some(record.kv.clone()),
            prev_kv: if prev_kv { previous().map(|previous| previous.kv.clone()) } else { None },
        }
    }
}

/// Who watches what. Asking for a key costs one look-up for each length of prefix that is watched, not one for each
/// watcher: API servers watch prefixes.
#[derive(Debug)]
pub struct WatchIndex<W> {
    keys: HashMap<Bytes, HashSet<W>>,
    prefixes: HashMap<Bytes, HashSet<W>>,
    /// Lengths of the prefixes, with how many distinct prefixes have each.
    prefix_lengths: BTreeMap<usize, usize>,
    /// Ranges that are not prefixes; rare.
    ranges: HashMap<KeyRange, HashSet<W>>,
}

impl<W> Default for WatchIndex<W> {
    fn default() -> Self {
        WatchIndex {
            keys: HashMap::new(),
            prefixes: HashMap::new(),
            prefix_lengths: BTreeMap::new(),
            ranges: HashMap::new(),
        }
    }
}

impl<W: Clone + Eq + Hash> WatchIndex<W> {
    /// Adds a watcher.
    pub fn insert(&mut self, range: &KeyRange, watcher: W) {
        if range.range_end.is_empty() {
            self.keys.entry(range.key.clone()).or_default().insert(watcher);
        } else if is_prefix(range) {
            let watchers = self.prefixes.entry(range.key.clone()).or_default();
            if watchers.is_empty() {
                *self.prefix_lengths.entry(range.key.len()).or_default() += 1;
            }
            watchers.insert(watcher);
        } else {
            self.ranges.entry(range.clone()).or_default().insert(watcher);
        }
    }

    /// Removes a watcher that was added with the same range.
    pub fn remove(&mut self, range: &KeyRange, watcher: &W) {
        if range.range_end.is_empty() {
            remove_from(&mut self.keys, &range.key, watcher);
        } else if is_prefix(range) {
            if remove_from(&mut self.prefixes, &range.key, watcher) {
                let length = range.key.len();
                let count = self.prefix_lengths.get_mut(&length).expect("every watched prefix is counted");
                *count -= 1;
                if *count == 0 {
                    self.prefix_lengths.remove(&length);
                }
            }
        } else {
            remove_from(&mut self.ranges, range, watcher);
        }
    }

    /// Whether nobody watches.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.prefixes.is_empty() && self.ranges.is_empty()
    }

    /// Calls `visit` for every watcher.
    pub fn all(&self, mut visit: impl FnMut(&W)) {
        let keys = self.keys.values().chain(self.prefixes.values()).chain(self.ranges.values());
        keys.flatten().for_each(&mut visit);
    }

    /// Calls `visit` for every watcher of a key.
    pub fn watchers(&self, key: &[u8], mut visit: impl FnMut(&W)) {
        if let Some(watchers) = self.keys.get(key) {
            watchers.iter().for_each(&mut visit);
        }
        for length in self.prefix_lengths.range(..=key.len()).map(|(length, _)| *length) {
            if let Some(watchers) = self.prefixes.get(&key[..length]) {
                watchers.iter().for_each(&mut visit);
            }
        }
        for (range, watchers) in &self.ranges {
            if range.contains(key) {
                watchers.iter().for_each(&mut visit);
            }
        }
    }
}

/// Whether the range covers exactly the keys with the prefix `key`. A range without an end is not one.
fn is_prefix(range: &KeyRange) -> bool {
    range.range_end[..] != *keys::FROM_KEY && keys::prefix_end(&range.key) == range.range_end
}

/// True if nobody is left under this name.
fn remove_from<N: Eq + Hash, W: Eq + Hash>(map: &mut HashMap<N, HashSet<W>>, name: &N, watcher: &W) -> bool {
    let Some(watchers) = map.get_mut(name) else { return false };
    watchers.remove(watcher);
    let empty = watchers.is_empty();
    if empty {
        map.remove(name);
    }
    empty
}
