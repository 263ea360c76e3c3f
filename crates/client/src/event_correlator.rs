//! Keeps events few: the same message counts up on one Event, many similar messages become one combined Event,
//! and an object that produces too many is silenced for a while. Limits and keys are upstream's.
//!
//! Pure: time comes in with each call.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Records kept for each purpose; a quarter of upstream's, one process serving one component at a time.
const RECORDS_MAX: usize = 1024;
/// From this many different messages on, similar events are combined.
const SIMILAR_MAX: usize = 10;
/// Similar events further apart are not combined.
const SIMILAR_WITHIN: SignedDuration = SignedDuration::from_secs(600);
/// Events one source may send about one object at once …
const BURST: f64 = 25.0;
/// … and how many more a second: one in five minutes.
const PER_SECOND: f64 = 1.0 / 300.0;

/// What to do with an event.
#[derive(Debug)]
pub enum Verdict {
    /// Create it.
    Create(Box<Event>),
    /// It was seen before: the Event already there gets this count, message and last time.
    Update(Box<Event>),
    /// Too many; drop it.
    Drop,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key(String);

struct Bounded<V>(HashMap<Key, (V, Timestamp)>);

impl<V> Bounded<V> {
    fn get(&mut self, key: &Key, now: Timestamp, new: impl FnOnce() -> V) -> &mut V {
        if !self.0.contains_key(key) && self.0.len() >= RECORDS_MAX {
            self.drop_older_half();
        }
        let entry = self.0.entry(key.clone()).or_insert_with(|| (new(), now));
        entry.1 = now;
        &mut entry.0
    }

    fn drop_older_half(&mut self) {
        let mut times: Vec<_> = self.0.values().map(|(_, used)| *used).collect();
        times.sort_unstable();
        let middle = times[times.len() / 2];
        self.0.retain(|_, (_, used)| *used > middle);
    }
}

struct Similar {
    messages: HashSet<String>,
    last: Timestamp,
}

struct Observed {
    name: String,
    namespace: String,
    first: Option<Time>,
    count: i32,
}

struct Bucket {
    tokens: f64,
    filled: Timestamp,
}

/// The memory of one recorder.
pub struct Correlator {
    similar: Bounded<Similar>,
    observed: Bounded<Option<Observed>>,
    buckets: Bounded<Bucket>,
}

impl Default for Correlator {
    fn default() -> Self {
        Self {
            similar: Bounded(HashMap::new()),
            observed: Bounded(HashMap::new()),
            buckets: Bounded(HashMap::new()),
        }
    }
}

impl Correlator {
    /// Judges a new event at `now`.
    pub fn correlate(&mut self, event: Event, now: Timestamp) -> Verdict {
        let (mut event, key) = self.combine(event, now);
        let known = self.observed.get(&key, now, || None);
        let update = match known {
            Some(known) => {
                known.count += 1;
                event.count = Some(known.count);
                event.first_timestamp.clone_from(&known.first);
                event.metadata.name = Some(known.name.clone());
                event.metadata.namespace = Some(known.namespace.clone());
                true
            }
            None => {
                *known = Some(Observed {
                    name: event.metadata.name.clone().unwrap_or_default(),
                    namespace: event.metadata.namespace.clone().unwrap_or_default(),
                    first: event.first_timestamp.clone(),
                    count: 1,
                });
                false
            }
        };
        if !self.take_token(&source_key(&event), now) {
            return Verdict::Drop;
        }
        if update { Verdict::Update(Box::new(event)) } else { Verdict::Create(Box::new(event)) }
    }

    /// The Event that was counted up is gone; `event` was created in its stead.
    pub fn recreated(&mut self, event: &Event, now: Timestamp) {
        let key = message_key(event);
        *self.observed.get(&key, now, || None) = Some(Observed {
            name: event.metadata.name.clone().unwrap_or_default(),
            namespace: event.metadata.namespace.clone().unwrap_or_default(),
            first: event.first_timestamp.clone(),
            count: event.count.unwrap_or(1),
        });
    }

    fn combine(&mut self, mut event: Event, now: Timestamp) -> (Event, Key) {
        let group = group_key(&event);
        let similar = self.similar.get(&group, now, || Similar { messages: HashSet::new(), last: now });
        if now.duration_since(similar.last) > SIMILAR_WITHIN {
            similar.messages.clear();
        }
        similar.last = now;
        if similar.messages.len() < SIMILAR_MAX {
            similar.messages.insert(event.message.clone().unwrap_or_default());
        }
        if similar.messages.len() < SIMILAR_MAX {
            let key = message_key(&event);
            return (event, key);
        }
        let message = event.message.take().unwrap_or_default();
        event.message = Some(format!("(combined from similar events): {message}"));
        (event, group)
    }

    fn take_token(&mut self, source: &Key, now: Timestamp) -> bool {
        let bucket = self.buckets.get(source, now, || Bucket { tokens: BURST, filled: now });
        let elapsed = now.duration_since(bucket.filled).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + elapsed * PER_SECOND).min(BURST);
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

fn join(parts: &[Option<&str>]) -> String {
    let mut key = String::new();
    for part in parts {
        key.push_str(part.unwrap_or(""));
        key.push('\u{0}');
    }
    key
}

fn source_key(event: &Event) -> Key {
    let source = event.source.as_ref();
    let object = &event.involved_object;
    Key(join(&[
        source.and_then(|source| source.component.as_deref()),
        source.and_then(|source| source.host.as_deref()),
        object.kind.as_deref(),
        object.namespace.as_deref(),
        object.name.as_deref(),
        object.uid.as_deref(),
        object.api_version.as_deref(),
    ]))
}

fn group_key(event: &Event) -> Key {
    Key(source_key(event).0 + &join(&[event.type_.as_deref(), event.reason.as_deref()]))
}

fn message_key(event: &Event) -> Key {
    let object = &event.involved_object;
    Key(group_key(event).0 + &join(&[object.field_path.as_deref(), event.message.as_deref()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: usize, message: &str) -> Event {
        let mut event = Event { message: Some(message.into()), ..Event::default() };
        event.metadata.name = Some(format!("e{n}"));
        event
    }

    fn run(correlator: &mut Correlator, messages: impl Iterator<Item = String>) -> Vec<String> {
        let now = Timestamp::UNIX_EPOCH;
        messages
            .enumerate()
            .map(|(n, message)| match correlator.correlate(event(n, &message), now) {
                Verdict::Create(event) => {
                    format!(
                        "create {} {}",
                        event.metadata.name.unwrap_or_default(),
                        event.message.unwrap_or_default()
                    )
                }
                Verdict::Update(event) => {
                    format!("{} ×{}", event.metadata.name.unwrap_or_default(), event.count.unwrap_or(0))
                }
                Verdict::Drop => "drop".into(),
            })
            .collect()
    }

    #[test]
    fn the_same_message_counts_up() {
        let mut correlator = Correlator::default();
        let seen = run(&mut correlator, ["a", "a", "b", "a"].map(str::to_owned).into_iter());
        assert_eq!(seen, ["create e0 a", "e0 ×2", "create e2 b", "e0 ×3"]);
    }

    #[test]
    fn many_similar_messages_are_combined_then_silenced() {
        let mut correlator = Correlator::default();
        let seen = run(&mut correlator, (0..30).map(|n| format!("m{n}")));
        assert_eq!(seen[8], "create e8 m8");
        assert_eq!(seen[9], "create e9 (combined from similar events): m9");
        assert_eq!(seen[10], "e9 ×2");
        assert_eq!(seen[24], "e9 ×16");
        assert_eq!(seen[25], "drop");
    }
}
