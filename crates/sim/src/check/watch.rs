//! What etcd promises a watcher: events ordered, unique, without a gap, a revision never split, also across breaks
//! of the connection; and progress reports that are true.

use isopod_kv::{Event, keys};

use super::Violation;
use crate::history::{History, Key, Watch};
use crate::model::Versions;

/// How a watch broke its promise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// An event is not the next one of the history.
    #[error("expected the events of revision {expected}, got those of revision {got}")]
    Order {
        /// The revision whose events come next; 0 if none do.
        expected: i64,
        /// The revision of the event that came.
        got: i64,
    },
    /// The events of a revision are not those of the history, or not all of them.
    #[error("the events of revision {revision} are split or differ from the history")]
    Events {
        /// The revision.
        revision: i64,
    },
    /// A previous version that is not the one before.
    #[error("an event of revision {revision} has the wrong previous version")]
    Previous {
        /// The revision.
        revision: i64,
    },
    /// Progress up to a revision was reported, but events up to it had not been given.
    #[error("progress up to revision {reported}, but the events of revision {missing} are missing")]
    Progress {
        /// The revision reported.
        reported: i64,
        /// The oldest that was not given.
        missing: i64,
    },
}

pub(crate) fn check(history: &History, versions: &Versions, violations: &mut Vec<Violation>) {
    for watch in &history.watches {
        if let Err(problem) = check_watch(watch, versions, history.compacted) {
            violations.push(Violation::Watch {
                client: watch.client,
                key: Key(&watch.key).to_string(),
                start: watch.start_revision,
                problem,
            });
        }
    }
}

/// Follows the deliveries and the history side by side.
fn check_watch(watch: &Watch, versions: &Versions, compacted: i64) -> Result<(), Problem> {
    // Every event of the range before this revision has been given.
    let mut next = watch.start_revision;
    for delivery in &watch.deliveries {
        let mut events = &delivery.events[..];
        if events.is_empty() {
            if let Some(missing) =
                next_of_range(watch, versions, next).filter(|next| *next <= delivery.revision)
            {
                return Err(Problem::Progress { reported: delivery.revision, missing });
            }
            next = next.max(delivery.revision + 1);
        }
        while let Some(first) = events.first() {
            let got = revision_of(first);
            let expected = next_of_range(watch, versions, next);
            if expected != Some(got) {
                return Err(Problem::Order { expected: expected.unwrap_or_default(), got });
            }
            let count = events.iter().take_while(|event| revision_of(event) == got).count();
            let (of_revision, rest) = events.split_at(count);
            check_revision(watch, versions, compacted, of_revision)?;
            events = rest;
            next = got + 1;
        }
    }
    Ok(())
}

fn check_revision(watch: &Watch, versions: &Versions, compacted: i64, got: &[Event]) -> Result<(), Problem> {
    let revision = revision_of(&got[0]);
    let expected: Vec<&Event> = of_range(watch, versions, revision).collect();
    let same = expected.len() == got.len()
        && expected
            .iter()
            .zip(got)
            .all(|(expected, got)| (expected.r#type, &expected.kv) == (got.r#type, &got.kv));
    if !same {
        return Err(Problem::Events { revision });
    }
    for event in got {
        let key = event.kv.as_ref().map_or(&[][..], |kv| &kv.key);
        let before = versions.at(key, revision - 1).filter(|_| watch.prev_kv);
        // A version before the compacted revision is gone, which is no lie.
        let gone = revision <= compacted && event.prev_kv.is_none();
        if before != event.prev_kv.as_ref() && !gone {
            return Err(Problem::Previous { revision });
        }
    }
    Ok(())
}

fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

fn of_range<'a>(watch: &'a Watch, versions: &'a Versions, revision: i64) -> impl Iterator<Item = &'a Event> {
    versions.events(revision).iter().filter(|event| {
        event.kv.as_ref().is_some_and(|kv| keys::contains(&watch.key, &watch.range_end, &kv.key))
    })
}

/// The first revision from `from` on with events for the watch.
fn next_of_range(watch: &Watch, versions: &Versions, from: i64) -> Option<i64> {
    (from.max(1)..=versions.last()).find(|revision| of_range(watch, versions, *revision).next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Delivery;
    use crate::testing::*;

    fn events() -> Vec<Event> {
        vec![
            put_event("a", "1", 2, 2, 1),
            put_event("x", "1", 3, 3, 1),
            put_event("a", "2", 2, 4, 2),
            put_event("b", "1", 4, 4, 1),
            deleted("a", 5),
        ]
    }

    fn run(start: i64, deliveries: &[(i64, &[Event])]) -> Result<(), Problem> {
        let deliveries = deliveries
            .iter()
            .map(|(revision, events)| Delivery { at_ns: 0, revision: *revision, events: events.to_vec() })
            .collect();
        let watch = Watch {
            key: "a".into(),
            range_end: "c".into(),
            start_revision: start,
            deliveries,
            ..Watch::default()
        };
        check_watch(&watch, &Versions::new(&events()).unwrap(), 0)
    }

    #[test]
    fn a_whole_history_passes_in_any_portions() {
        let all = events();
        let (first, both, last) = (&all[..1], &all[2..4], &all[4..]);
        assert_eq!(run(2, &[(2, first), (4, both), (5, last), (5, &[])]), Ok(()));
        assert_eq!(run(2, &[(2, first), (3, &[]), (5, &all[2..])]), Ok(()));
        assert_eq!(run(5, &[(5, last)]), Ok(()));
        assert_eq!(run(6, &[(5, &[])]), Ok(()));
    }

    #[test]
    fn gaps_repetitions_and_disorder_are_found() {
        let all = events();
        let (first, both, last) = (&all[..1], &all[2..4], &all[4..]);
        assert_eq!(run(2, &[(2, first), (5, last)]), Err(Problem::Order { expected: 4, got: 5 }));
        assert_eq!(run(2, &[(2, first), (2, first)]), Err(Problem::Order { expected: 4, got: 2 }));
        assert_eq!(run(2, &[(4, both)]), Err(Problem::Order { expected: 2, got: 4 }));
        assert_eq!(run(2, &[(3, &all[1..2])]), Err(Problem::Order { expected: 2, got: 3 }));
    }

    #[test]
    fn a_split_revision_is_found() {
        let all = events();
        assert_eq!(run(3, &[(4, &all[2..3]), (4, &all[3..4])]), Err(Problem::Events { revision: 4 }));
        assert_eq!(run(3, &[(4, &[all[3].clone(), all[2].clone()])]), Err(Problem::Events { revision: 4 }));
    }

    #[test]
    fn untrue_progress_is_found() {
        let all = events();
        assert_eq!(run(2, &[(2, &all[..1]), (4, &[])]), Err(Problem::Progress { reported: 4, missing: 4 }));
        assert_eq!(run(2, &[(2, &[]), (2, &all[..1])]), Err(Problem::Progress { reported: 2, missing: 2 }));
    }

    #[test]
    fn previous_versions_are_checked() {
        let mut second = events()[4].clone();
        second.prev_kv = Some(kv("a", "1", 2, 2, 1));
        let deliveries = vec![Delivery { at_ns: 0, revision: 5, events: vec![second.clone()] }];
        let mut watch =
            Watch { key: "a".into(), start_revision: 5, prev_kv: true, deliveries, ..Watch::default() };
        let versions = Versions::new(&events()).unwrap();
        assert_eq!(check_watch(&watch, &versions, 0), Err(Problem::Previous { revision: 5 }));
        watch.deliveries[0].events[0].prev_kv = None;
        assert_eq!(check_watch(&watch, &versions, 4), Err(Problem::Previous { revision: 5 }));
        assert_eq!(check_watch(&watch, &versions, 5), Ok(()));
        watch.deliveries[0].events[0].prev_kv = Some(kv("a", "2", 2, 4, 2));
        assert_eq!(check_watch(&watch, &versions, 0), Ok(()));
    }
}
