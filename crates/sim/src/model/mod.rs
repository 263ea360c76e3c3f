//! A second, simple implementation of etcd's model, to compare the real one with.
//!
//! It holds every version of every key, made from the events of the final history, and says what a request must
//! answer at a revision. It shares no code with the store.

mod evaluate;

use std::collections::BTreeMap;

use bytes::Bytes;
use isopod_kv::event::EventType;
use isopod_kv::{Event, KeyValue, keys};

pub use evaluate::evaluate;

/// The revision of a store that nothing was written to.
pub const FIRST_REVISION: i64 = 1;

/// Every version of every key.
#[derive(Clone, Debug, Default)]
pub struct Versions {
    keys: BTreeMap<Bytes, Vec<(i64, Option<KeyValue>)>>,
    /// Events of revision 2, 3 and so on.
    events: Vec<Vec<Event>>,
}

/// Why a list of events is no history.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEvents {
    /// An event without a key-value.
    #[error("an event after revision {0} has no key-value")]
    Empty(i64),
    /// The next revision is neither the last nor the one after it.
    #[error("revision {found} follows revision {last} in the final history")]
    Gap {
        /// The last good revision.
        last: i64,
        /// What came instead of it or its successor.
        found: i64,
    },
    /// A version whose counters do not follow from the versions before.
    #[error("the version of {key} at revision {revision} does not follow from the one before")]
    Counters {
        /// The key.
        key: String,
        /// The revision.
        revision: i64,
    },
}

impl Versions {
    /// Builds the versions and checks that the events are whole and consistent in themselves.
    ///
    /// # Errors
    /// The first event that does not fit.
    pub fn new(events: &[Event]) -> Result<Versions, BadEvents> {
        let mut versions = Versions::default();
        for event in events {
            let last = versions.last();
            let kv = event.kv.as_ref().ok_or(BadEvents::Empty(last))?;
            if kv.mod_revision == last + 1 {
                versions.events.push(Vec::new());
            } else if kv.mod_revision != last || last == FIRST_REVISION {
                return Err(BadEvents::Gap { last, found: kv.mod_revision });
            }
            versions.push(event, kv)?;
        }
        Ok(versions)
    }

    fn push(&mut self, event: &Event, kv: &KeyValue) -> Result<(), BadEvents> {
        let revision = kv.mod_revision;
        let history = self.keys.entry(kv.key.clone()).or_default();
        let before = history.last().and_then(|(_, kv)| kv.as_ref());
        let expected = if event.r#type == EventType::Delete as i32 {
            before.map(|_| tombstone(&kv.key, revision))
        } else {
            Some(successor(before, kv.key.clone(), kv.value.clone(), kv.lease, revision))
        };
        if expected.as_ref() != Some(kv) {
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            return Err(BadEvents::Counters { key, revision });
        }
        let live = (event.r#type != EventType::Delete as i32).then(|| kv.clone());
        history.push((revision, live));
        let event = Event { prev_kv: None, ..event.clone() };
        self.events.last_mut().expect("a revision was begun").push(event);
        Ok(())
    }

    /// The newest revision.
    pub fn last(&self) -> i64 {
        FIRST_REVISION + self.events.len() as i64
    }

    /// The events of a revision, in order; none if it does not exist.
    pub fn events(&self, revision: i64) -> &[Event] {
        usize::try_from(revision - FIRST_REVISION - 1)
            .ok()
            .and_then(|index| self.events.get(index))
            .map_or(&[], Vec::as_slice)
    }

    /// A key as it was at a revision.
    pub fn at(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        let history = self.keys.get(key)?;
        let end = history.partition_point(|(at, _)| *at <= revision);
        history[..end].last()?.1.as_ref()
    }

    /// The keys of a range that exist at a revision, in order.
    pub fn range<'a>(
        &'a self,
        key: &'a [u8],
        range_end: &'a [u8],
        revision: i64,
    ) -> impl Iterator<Item = &'a KeyValue> {
        self.keys
            .range::<[u8], _>((std::ops::Bound::Included(key), std::ops::Bound::Unbounded))
            .take_while(move |(candidate, _)| keys::contains(key, range_end, candidate))
            .filter_map(move |(key, _)| self.at(key, revision))
    }

    /// The keys attached to a lease at a revision, in order.
    pub fn attached(&self, lease: i64, revision: i64) -> Vec<Bytes> {
        self.range(&[0], keys::FROM_KEY, revision)
            .filter(|kv| kv.lease == lease)
            .map(|kv| kv.key.clone())
            .collect()
    }
}

/// What a write makes of a version.
fn successor(before: Option<&KeyValue>, key: Bytes, value: Bytes, lease: i64, revision: i64) -> KeyValue {
    KeyValue {
        key,
        value,
        lease,
        mod_revision: revision,
        create_revision: before.map_or(revision, |before| before.create_revision),
        version: before.map_or(1, |before| before.version + 1),
    }
}

/// The key-value of a deletion's event.
fn tombstone(key: &Bytes, revision: i64) -> KeyValue {
    KeyValue { key: key.clone(), mod_revision: revision, ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{deleted, put_event};

    #[test]
    fn versions_are_found_by_revision() {
        let events = [
            put_event("a", "1", 2, 2, 1),
            put_event("a", "2", 2, 3, 2),
            deleted("a", 4),
            put_event("b", "3", 5, 5, 1),
        ];
        let versions = Versions::new(&events).unwrap();
        assert_eq!(versions.last(), 5);
        assert_eq!(versions.at(b"a", 1), None);
        assert_eq!(&versions.at(b"a", 3).unwrap().value[..], b"2");
        assert_eq!(versions.at(b"a", 4), None);
        assert_eq!(versions.range(b"a", b"c", 3).count(), 1);
        assert_eq!(versions.events(4).len(), 1);
        assert!(versions.events(6).is_empty() && versions.events(0).is_empty());
    }

    #[test]
    fn what_does_not_follow_is_refused() {
        let gap = Versions::new(&[put_event("a", "1", 3, 3, 1)]).unwrap_err();
        assert_eq!(gap, BadEvents::Gap { last: 1, found: 3 });
        let counters = Versions::new(&[put_event("a", "1", 2, 2, 2)]).unwrap_err();
        assert!(matches!(counters, BadEvents::Counters { .. }));
        let nothing = Versions::new(&[deleted("a", 2)]).unwrap_err();
        assert!(matches!(nothing, BadEvents::Counters { .. }));
        let back = Versions::new(&[put_event("a", "1", 2, 2, 1), put_event("b", "1", 1, 1, 1)]).unwrap_err();
        assert_eq!(back, BadEvents::Gap { last: 2, found: 1 });
    }
}
