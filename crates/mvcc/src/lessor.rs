//! When leases expire: the leader's view, kept beside the replicated state.
//!
//! Time is a [`Duration`] since any fixed moment, given by the caller. Expiry itself is a command that the caller
//! proposes, so members never disagree about it. A new leader, or a restarted member, begins every lease anew
//! ([`Lessor::start`]) with what its last checkpoint left of it: late is allowed, early is not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use isopod_kv::LeaseCheckpoint;

/// How often the remaining time of long leases is checkpointed; a restart prolongs a lease by no more than this.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);

/// Deadlines of leases.
#[derive(Debug, Default)]
pub struct Lessor {
    /// By lease: when it expires, and its place in the queue, which is later once its expiry has been proposed.
    deadlines: BTreeMap<i64, (Duration, Duration)>,
    queue: BTreeSet<(Duration, i64)>,
    next_checkpoint: Option<Duration>,
}

impl Lessor {
    /// Begins or renews a lease.
    pub fn start(&mut self, id: i64, ttl_s: i64, now: Duration) {
        self.remove(id);
        let ttl = Duration::from_secs(u64::try_from(ttl_s).unwrap_or(0));
        let deadline = now + ttl;
        self.deadlines.insert(id, (deadline, deadline));
        self.queue.insert((deadline, id));
        if ttl > CHECKPOINT_INTERVAL && self.next_checkpoint.is_none() {
            self.next_checkpoint = Some(now + CHECKPOINT_INTERVAL);
        }
    }

    /// Forgets a lease that was revoked.
    pub fn remove(&mut self, id: i64) {
        if let Some((_, queued)) = self.deadlines.remove(&id) {
            self.queue.remove(&(queued, id));
        }
    }

    /// Time left of a lease; none if it is unknown, zero if its expiry is due. Once due, a lease is not renewed any
    /// more: the revocation may be on its way.
    pub fn remaining(&self, id: i64, now: Duration) -> Option<Duration> {
        self.deadlines.get(&id).map(|(deadline, _)| deadline.saturating_sub(now))
    }

    /// When to look again; none while there is no lease.
    pub fn next_deadline(&self) -> Option<Duration> {
        let expiry = self.queue.first().map(|(deadline, _)| *deadline);
        match (expiry, self.next_checkpoint) {
            (Some(expiry), Some(checkpoint)) => Some(expiry.min(checkpoint)),
            (expiry, checkpoint) => expiry.or(checkpoint),
        }
    }

    /// Leases whose revocation is to be proposed, at most `limit`. Each is given again after `retry` unless it has
    /// been removed by then: a proposal may fail.
    pub fn expired(&mut self, now: Duration, limit: usize, retry: Duration) -> Vec<i64> {
        let due: Vec<_> = self.queue.range(..=(now, i64::MAX)).take(limit).copied().collect();
        for (queued, id) in &due {
            self.queue.remove(&(*queued, *id));
            self.queue.insert((now + retry, *id));
            self.deadlines.entry(*id).and_modify(|(_, queued)| *queued = now + retry);
        }
        due.into_iter().map(|(_, id)| id).collect()
    }

    /// The checkpoints to be proposed, if it is time for them: leases that outlive the next checkpoint.
    pub fn checkpoints(&mut self, now: Duration) -> Vec<LeaseCheckpoint> {
        if self.next_checkpoint.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let long = self.queue.range((now + CHECKPOINT_INTERVAL, i64::MAX)..);
        let checkpoints: Vec<_> = long
            .map(|(deadline, id)| LeaseCheckpoint {
                id: *id,
                remaining_ttl: (*deadline - now).as_secs() as i64,
            })
            .collect();
        self.next_checkpoint = (!checkpoints.is_empty()).then_some(now + CHECKPOINT_INTERVAL);
        checkpoints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn leases_expire_in_order_and_are_offered_again() {
        let mut lessor = Lessor::default();
        assert_eq!(lessor.next_deadline(), None);
        lessor.start(1, 10, s(0));
        lessor.start(2, 5, s(0));
        lessor.start(3, 5, s(1));
        assert_eq!(lessor.next_deadline(), Some(s(5)));
        assert_eq!(lessor.expired(s(4), 10, s(1)), Vec::<i64>::new());
        assert_eq!(lessor.expired(s(6), 1, s(1)), vec![2]);
        assert_eq!(lessor.expired(s(6), 10, s(1)), vec![3]);
        lessor.remove(3);
        assert_eq!(lessor.expired(s(7), 10, s(1)), vec![2]);
        lessor.remove(2);
        lessor.start(4, 1, s(0));
        assert_eq!(lessor.expired(s(2), 10, s(9)), vec![4]);
        assert_eq!(lessor.remaining(4, s(2)), Some(s(0)));
        lessor.remove(4);
        lessor.start(1, 10, s(7));
        assert_eq!(lessor.remaining(1, s(8)), Some(s(9)));
        assert_eq!(lessor.next_deadline(), Some(s(17)));
    }

    #[test]
    fn long_leases_are_checkpointed_and_short_ones_are_not() {
        let mut lessor = Lessor::default();
        lessor.start(1, 60, s(0));
        assert_eq!(lessor.next_deadline(), Some(s(60)));
        lessor.start(2, 3600, s(0));
        assert_eq!(lessor.checkpoints(s(299)), vec![]);
        assert_eq!(lessor.checkpoints(s(300)), vec![LeaseCheckpoint { id: 2, remaining_ttl: 3300 }]);
        assert_eq!(lessor.checkpoints(s(300)), vec![]);
        lessor.remove(2);
        assert_eq!(lessor.checkpoints(s(600)), vec![]);
        lessor.remove(1);
        assert_eq!(lessor.next_deadline(), None);
    }
}
