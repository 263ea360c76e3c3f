//! Linearizability and durability by revisions.
//!
//! Every answer of etcd carries the revision of the state it comes from, and every write has one of its own. So the
//! order is not to be searched for: it is claimed, and only has to be checked. Each operation gets its place among
//! the revisions; its answer must be the model's at that place; and nothing may have a place before one that was
//! known when it began. Writes with an unknown outcome explain revisions that nobody else claims.

use std::collections::BTreeMap;

use isopod_kv::event::EventType;
use isopod_kv::response_op::Response;
use isopod_kv::{Event, ResponseHeader, TxnResponse};

use super::Violation;
use crate::history::{Answer, Call, History, Key, Operation, Outcome};
use crate::model::{FIRST_REVISION, Versions, evaluate};

/// A lease that ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expiry {
    pub(crate) lease: i64,
    pub(crate) revision: i64,
    /// Whether no operation explains the deletions as well.
    pub(crate) certain: bool,
}

/// Where an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It made this revision.
    At(i64),
    /// It saw the state of this revision.
    After(i64),
    /// Its answer does not say, or is wrong.
    Nowhere,
}

/// The newest revision known at some moment, and from where.
#[derive(Clone, Copy, Debug)]
struct Known {
    revision: i64,
    witness: Witness,
}

#[derive(Clone, Copy, Debug)]
enum Witness {
    Nobody,
    Operation(usize),
    Watch(usize),
}

/// Checks operations against each other and against the final history; the leases that expired.
pub(crate) fn check(history: &History, versions: &Versions, violations: &mut Vec<Violation>) -> Vec<Expiry> {
    let mut claims = BTreeMap::new();
    let places: Vec<Place> = history
        .operations
        .iter()
        .enumerate()
        .map(|(index, operation)| place(history, index, operation, versions, &mut claims, violations))
        .collect();
    let known = known_when_invoked(history, &places);
    let expiries = explain(history, versions, &claims, &known, violations);
    for (index, operation) in history.operations.iter().enumerate() {
        let known = known[index];
        let behind = match places[index] {
            Place::At(revision) => revision <= known.revision,
            Place::After(revision) => !operation.is_serializable() && revision < known.revision,
            Place::Nowhere => false,
        };
        if behind {
            let witness = describe(history, known.witness);
            violations.push(Violation::Stale {
                operation: operation.to_string(),
                seen: known.revision,
                witness,
            });
        }
    }
    check_sessions(history, &places, violations);
    expiries
}

/// Finds the place of an operation, and checks its answer there.
fn place(
    history: &History,
    index: usize,
    operation: &Operation,
    versions: &Versions,
    claims: &mut BTreeMap<i64, usize>,
    violations: &mut Vec<Violation>,
) -> Place {
    let Some(answer) = operation.answer() else { return Place::Nowhere };
    let Some(revision) = answer.revision() else { return Place::Nowhere };
    let got = plain(answer);
    if revision > versions.last() || revision < FIRST_REVISION {
        violations.push(Violation::Lost { operation: operation.to_string(), last: versions.last() });
        return Place::Nowhere;
    }
    let writes = !matches!(operation.call, Call::Range(_) | Call::Grant(_));
    let mut expected = None;
    if writes && revision > FIRST_REVISION {
        let (events, answer) = evaluate(versions, revision - 1, &operation.call);
        if !events.is_empty() && events == versions.events(revision) {
            if plain(&answer) == got {
                if let Some(first) = claims.insert(revision, index) {
                    let first = history.operations[first].to_string();
                    violations.push(Violation::Twice { revision, first, second: operation.to_string() });
                }
                return Place::At(revision);
            }
            expected = Some(answer);
        }
    }
    let (events, answer) = evaluate(versions, revision, &operation.call);
    if events.is_empty() {
        if plain(&answer) == got {
            return Place::After(revision);
        }
        expected.get_or_insert(answer);
    }
    violations.push(match expected {
        Some(expected) => Violation::Answer {
            operation: operation.to_string(),
            expected: format!("{:?}", plain(&expected)),
            got: format!("{got:?}"),
        },
        None => Violation::Lost { operation: operation.to_string(), last: versions.last() },
    });
    Place::Nowhere
}

/// An answer without what the model does not know: who answered, in which term.
fn plain(answer: &Answer) -> Answer {
    let mut answer = answer.clone();
    let keep = |header: &mut Option<ResponseHeader>| {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = Some(ResponseHeader { revision, ..Default::default() });
    };
    match &mut answer {
        Answer::Range(response) => keep(&mut response.header),
        Answer::Put(response) => keep(&mut response.header),
        Answer::Delete(response) => keep(&mut response.header),
        Answer::Txn(response) => {
            keep(&mut response.header);
            strip(response);
        }
        // The store chooses, and rounds up.
        Answer::Grant { id, ttl_s, .. } => (*id, *ttl_s) = (0, 0),
        Answer::KeepAlive { .. } | Answer::Revoke { .. } => {}
    }
    answer
}

/// Removes the headers of the answers within a transaction.
fn strip(response: &mut TxnResponse) {
    for op in &mut response.responses {
        match &mut op.response {
            Some(Response::ResponseRange(response)) => response.header = None,
            Some(Response::ResponsePut(response)) => response.header = None,
            Some(Response::ResponseDeleteRange(response)) => response.header = None,
            Some(Response::ResponseTxn(response)) => {
                response.header = None;
                strip(response);
            }
            None => {}
        }
    }
}

/// For each operation the newest revision that somebody had been told when it was invoked.
fn known_when_invoked(history: &History, places: &[Place]) -> Vec<Known> {
    // Sorted so that what happens at the same instant counts as concurrent: invocations come first.
    let mut moments: Vec<(u64, u8, usize, i64, Witness)> = Vec::new();
    for (index, operation) in history.operations.iter().enumerate() {
        moments.push((operation.invoked_ns, 0, index, 0, Witness::Nobody));
        if let Place::At(revision) | Place::After(revision) = places[index] {
            moments.push((operation.returned_ns, 1, index, revision, Witness::Operation(index)));
        }
    }
    for (index, watch) in history.watches.iter().enumerate() {
        for delivery in &watch.deliveries {
            let newest = delivery.events.last().and_then(|event| event.kv.as_ref());
            let revision = newest.map_or(delivery.revision, |kv| kv.mod_revision);
            moments.push((delivery.at_ns, 1, index, revision, Witness::Watch(index)));
        }
    }
    moments.sort_by_key(|(at, kind, index, revision, _)| (*at, *kind, *index, *revision));
    let mut newest = Known { revision: FIRST_REVISION, witness: Witness::Nobody };
    let mut known = vec![newest; history.operations.len()];
    for (_, kind, index, revision, witness) in moments {
        if kind == 0 {
            known[index] = newest;
        } else if revision > newest.revision {
            newest = Known { revision, witness };
        }
    }
    known
}

fn describe(history: &History, witness: Witness) -> String {
    match witness {
        Witness::Nobody => "nobody".to_owned(),
        Witness::Operation(index) => history.operations[index].to_string(),
        Witness::Watch(index) => format!("the watch of client {}", history.watches[index].client),
    }
}

/// Explains the revisions that no answer claims: by a lease that expired, or by an operation of unknown outcome.
fn explain(
    history: &History,
    versions: &Versions,
    claims: &BTreeMap<i64, usize>,
    known: &[Known],
    violations: &mut Vec<Violation>,
) -> Vec<Expiry> {
    let mut unknown: Vec<usize> = (0..history.operations.len())
        .filter(|index| history.operations[*index].outcome == Outcome::Unknown)
        .filter(|index| !matches!(history.operations[*index].call, Call::Range(_) | Call::KeepAlive(_)))
        .collect();
    let mut expiries = Vec::new();
    for revision in FIRST_REVISION + 1..=versions.last() {
        if claims.contains_key(&revision) {
            continue;
        }
        let found = unknown.iter().position(|index| {
            known[*index].revision < revision && makes(&history.operations[*index].call, versions, revision)
        });
        if let Some(lease) = expired(versions, revision) {
            expiries.push(Expiry { lease, revision, certain: found.is_none() });
        } else if let Some(found) = found {
            unknown.swap_remove(found);
        } else {
            let refused = history.operations.iter().find(|operation| {
                matches!(operation.outcome, Outcome::Refused(_)) && makes(&operation.call, versions, revision)
            });
            violations.push(match refused {
                Some(operation) => Violation::Resurrected { operation: operation.to_string(), revision },
                None => Violation::Invented { revision, events: list(versions.events(revision)) },
            });
        }
    }
    expiries
}

/// Events in a message.
fn list(events: &[Event]) -> String {
    let one = |event: &Event| {
        let kv = event.kv.clone().unwrap_or_default();
        match event.r#type == EventType::Delete as i32 {
            true => format!("delete {}", Key(&kv.key)),
            false => format!("put {} = {}", Key(&kv.key), Key(&kv.value)),
        }
    };
    events.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Whether a call makes exactly the changes of a revision.
fn makes(call: &Call, versions: &Versions, revision: i64) -> bool {
    // Most candidates are out by their first key, which is far cheaper than to evaluate them.
    if let (Call::Put(request), [first, ..]) = (call, versions.events(revision))
        && first.kv.as_ref().is_some_and(|kv| kv.key != request.key)
    {
        return false;
    }
    evaluate(versions, revision - 1, call).0 == versions.events(revision)
}

/// The lease whose end, with all its keys at once, explains a revision.
fn expired(versions: &Versions, revision: i64) -> Option<i64> {
    let events = versions.events(revision);
    let first = &events.first()?.kv.as_ref()?.key;
    let lease = versions.at(first, revision - 1)?.lease;
    (lease != 0 && makes(&Call::Revoke(lease), versions, revision)).then_some(lease)
}

/// A client that stays with one run of a member never sees it go back, whatever kind of read it uses.
fn check_sessions(history: &History, places: &[Place], violations: &mut Vec<Violation>) {
    let mut order: Vec<usize> = (0..history.operations.len()).collect();
    order.sort_by_key(|index| history.operations[*index].invoked_ns);
    let mut seen: BTreeMap<(u32, u64), i64> = BTreeMap::new();
    for index in order {
        let operation = &history.operations[index];
        let (Place::At(revision) | Place::After(revision)) = places[index] else { continue };
        let seen = seen.entry((operation.client, operation.session)).or_default();
        if revision < *seen {
            violations.push(Violation::Backwards { operation: operation.to_string(), seen: *seen });
        }
        *seen = revision.max(*seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    fn violations(operations: Vec<Operation>, events: &[Event]) -> Vec<Violation> {
        let history = History { operations, events: events.to_vec(), ..History::default() };
        let versions = Versions::new(events).unwrap();
        let mut violations = Vec::new();
        check(&history, &versions, &mut violations);
        violations
    }

    fn two_puts() -> Vec<Event> {
        vec![put_event("a", "1", 2, 2, 1), put_event("a", "2", 2, 3, 2)]
    }

    #[test]
    fn a_linearizable_history_passes() {
        let operations = vec![
            put(1, (0, 10), "a", "1", 2),
            put(2, (5, 15), "a", "2", 3),
            get(3, (8, 12), "a", Some(kv("a", "1", 2, 2, 1)), 2),
            get(3, (16, 17), "a", Some(kv("a", "2", 2, 3, 2)), 3),
            delete(4, (16, 18), "b", 0, 3),
        ];
        assert_eq!(violations(operations, &two_puts()), []);
    }

    #[test]
    fn a_lost_write_is_found() {
        let found = violations(vec![put(1, (0, 1), "a", "1", 2)], &[]);
        assert!(matches!(&found[..], [Violation::Lost { last: 1, .. }]), "{found:?}");
        // Another write has taken its revision.
        let other = [put_event("a", "other", 2, 2, 1)];
        let found =
            violations(vec![put(1, (0, 1), "a", "1", 2), put_unknown(2, (0, 1), "a", "other")], &other);
        assert!(matches!(&found[..], [Violation::Lost { .. }]), "{found:?}");
    }

    #[test]
    fn a_stale_read_is_found() {
        let read = get(3, (20, 25), "a", Some(kv("a", "1", 2, 2, 1)), 2);
        let operations = vec![put(1, (0, 10), "a", "1", 2), put(2, (5, 15), "a", "2", 3), read.clone()];
        let found = violations(operations.clone(), &two_puts());
        assert!(matches!(&found[..], [Violation::Stale { seen: 3, .. }]), "{found:?}");
        // The same read may be stale if it says so.
        let mut allowed = operations;
        allowed[2] = serializable(read);
        assert_eq!(violations(allowed, &two_puts()), []);
    }

    #[test]
    fn a_serializable_read_may_be_old_but_not_wrong_nor_from_the_future_nor_go_back() {
        let puts = || vec![put(1, (0, 10), "a", "1", 2), put(2, (30, 40), "a", "2", 3)];
        let old = serializable(get(3, (50, 55), "a", Some(kv("a", "1", 2, 2, 1)), 2));
        let new = serializable(get(3, (45, 46), "a", Some(kv("a", "2", 2, 3, 2)), 3));
        let with = |reads: &[&Operation]| {
            let mut operations = puts();
            operations.extend(reads.iter().map(|read| (*read).clone()));
            violations(operations, &two_puts())
        };
        assert_eq!(with(&[&old]), []);
        let found = with(&[&new, &old]);
        assert!(matches!(&found[..], [Violation::Backwards { seen: 3, .. }]), "{found:?}");
        let wrong = serializable(get(3, (50, 55), "a", Some(kv("a", "1", 2, 2, 1)), 3));
        assert!(matches!(&with(&[&wrong])[..], [Violation::Answer { .. }]));
        let future = serializable(get(3, (20, 25), "a", Some(kv("a", "2", 2, 3, 2)), 3));
        assert!(matches!(&with(&[&future])[..], [Violation::Stale { .. }]), "the write then began too late");
    }

    #[test]
    fn writes_keep_the_order_of_the_clock() {
        let operations = vec![put(1, (0, 10), "a", "2", 3), put(2, (20, 30), "a", "1", 2)];
        let found = violations(operations, &two_puts());
        assert!(matches!(&found[..], [Violation::Stale { .. }]), "{found:?}");
    }

    #[test]
    fn an_unknown_write_may_be_there_or_not_but_once_and_not_before_it_was_asked_for() {
        let unknown = put_unknown(1, (0, 10), "a", "1");
        assert_eq!(violations(vec![unknown.clone()], &[]), []);
        assert_eq!(violations(vec![unknown.clone()], &[put_event("a", "1", 2, 2, 1)]), []);
        let twice = [put_event("a", "1", 2, 2, 1), put_event("a", "1", 2, 3, 2)];
        assert!(matches!(&violations(vec![unknown], &twice)[..], [Violation::Invented { revision: 3, .. }]));
        let late =
            vec![get(2, (0, 5), "a", Some(kv("a", "1", 2, 2, 1)), 2), put_unknown(1, (6, 10), "a", "1")];
        let found = violations(late, &[put_event("a", "1", 2, 2, 1)]);
        assert!(matches!(&found[..], [Violation::Invented { revision: 2, .. }]), "{found:?}");
    }

    #[test]
    fn what_was_refused_must_not_happen() {
        let mut refused = put_unknown(1, (0, 10), "a", "1");
        refused.outcome = Outcome::Refused("no".to_owned());
        let found = violations(vec![refused], &[put_event("a", "1", 2, 2, 1)]);
        assert!(matches!(&found[..], [Violation::Resurrected { revision: 2, .. }]), "{found:?}");
    }

    #[test]
    fn two_answers_cannot_share_a_revision() {
        let operations = vec![put(1, (0, 10), "a", "1", 2), put(2, (0, 10), "a", "1", 2)];
        let found = violations(operations, &[put_event("a", "1", 2, 2, 1)]);
        assert!(matches!(&found[..], [Violation::Twice { revision: 2, .. }]), "{found:?}");
    }

    #[test]
    fn of_two_deletions_one_finds_nothing() {
        let events = [put_event("a", "1", 2, 2, 1), deleted("a", 3)];
        let operations =
            vec![put(1, (0, 1), "a", "1", 2), delete(1, (2, 9), "a", 0, 3), delete(2, (2, 9), "a", 1, 3)];
        assert_eq!(violations(operations, &events), []);
    }

    #[test]
    fn the_keys_of_a_lease_vanish_together() {
        let events = |keys: &[&str]| {
            let mut events = vec![leased("a", 7, 2), leased("b", 7, 3)];
            events.extend(keys.iter().map(|key| deleted(key, 4)));
            events
        };
        let grown = |event: &Event| {
            let kv = event.kv.clone().unwrap();
            let call = Call::Put(isopod_kv::PutRequest {
                lease: kv.lease,
                ..isopod_kv::PutRequest::new(kv.key, kv.value)
            });
            operation(1, (0, 1), call, None)
        };
        let operations: Vec<Operation> = events(&[]).iter().map(grown).collect();
        assert_eq!(violations(operations.clone(), &events(&["a", "b"])), []);
        let found = violations(operations, &events(&["a"]));
        assert!(matches!(&found[..], [Violation::Invented { revision: 4, .. }]), "{found:?}");
    }
}
