//! Leases: one that was renewed lives on for its time.
//!
//! That its keys vanish all at once is part of explaining the revisions; see [`super::order`].

use super::Violation;
use super::order::Expiry;
use crate::history::{Answer, Call, History};

const SECOND_NS: u64 = 1_000_000_000;

pub(crate) fn check(history: &History, expiries: &[Expiry], violations: &mut Vec<Violation>) {
    for expiry in expiries.iter().filter(|expiry| expiry.certain) {
        let Some(until) = alive_until(history, expiry.lease) else { continue };
        let Some(known) = known_at(history, expiry.revision) else { continue };
        if known < until {
            violations.push(Violation::Expired {
                lease: expiry.lease,
                revision: expiry.revision,
                known_us: known / 1000,
                until_us: until / 1000,
            });
        }
    }
}

/// Until when a lease was promised to live, counted from when the renewal was asked for, on a clock as quick as one
/// can be.
fn alive_until(history: &History, lease: i64) -> Option<u64> {
    let share = 1000u64.saturating_sub(history.skew_permille);
    history
        .operations
        .iter()
        .filter_map(|operation| {
            let ttl_s = match (&operation.call, operation.answer()?) {
                (Call::Grant(_), Answer::Grant { id, ttl_s, .. }) if *id == lease => *ttl_s,
                (Call::KeepAlive(id), Answer::KeepAlive { ttl_s }) if *id == lease => *ttl_s,
                _ => return None,
            };
            Some(operation.invoked_ns + ttl_s.max(0) as u64 * (SECOND_NS / 1000) * share)
        })
        .max()
}

/// When somebody first knew that a revision exists.
fn known_at(history: &History, revision: i64) -> Option<u64> {
    let answers = history.operations.iter().filter_map(|operation| {
        let answer = operation.answer()?;
        (answer.revision()? >= revision).then_some(operation.returned_ns)
    });
    let deliveries = history.watches.iter().flat_map(|watch| &watch.deliveries);
    let deliveries =
        deliveries.filter(|delivery| delivery.revision >= revision).map(|delivery| delivery.at_ns);
    answers.chain(deliveries).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Operation;
    use crate::testing::*;

    fn judged(keep_alive_s: u64, known_s: u64) -> Vec<Violation> {
        let at = |seconds: u64| (seconds * SECOND_NS, seconds * SECOND_NS + 1);
        let grant = Call::Grant(isopod_kv::LeaseGrantRequest { id: 7, ttl: 10 });
        let operations: Vec<Operation> = vec![
            operation(1, at(0), grant, Some(Answer::Grant { revision: 1, id: 7, ttl_s: 10 })),
            operation(1, at(keep_alive_s), Call::KeepAlive(7), Some(Answer::KeepAlive { ttl_s: 10 })),
            get(2, at(known_s), "a", None, 3),
        ];
        let history = History { operations, skew_permille: 100, ..History::default() };
        let mut violations = Vec::new();
        check(&history, &[Expiry { lease: 7, revision: 3, certain: true }], &mut violations);
        violations
    }

    #[test]
    fn a_lease_may_expire_after_its_time_and_not_before() {
        assert_eq!(judged(5, 15), []);
        // A clock may be a tenth quicker.
        assert_eq!(judged(5, 14), []);
        assert!(matches!(judged(5, 13)[..], [Violation::Expired { lease: 7, revision: 3, .. }]));
    }
}
