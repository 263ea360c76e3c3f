//! Exponential back-off of one thing that keeps failing (a crashing container, an image that cannot be pulled).
//!
//! As upstream's `flowcontrol.Backoff`: the delay doubles from `initial` to `max`, and is forgotten when the
//! last failure lies more than twice `max` back.

use jiff::{SignedDuration, Timestamp};

/// First delay after a failure, for restarts and for pulls.
pub const INITIAL: SignedDuration = SignedDuration::from_secs(10);
/// Longest delay, for restarts and for pulls.
pub const MAX: SignedDuration = SignedDuration::from_secs(300);

/// Back-off state of one thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackOff {
    delay: SignedDuration,
    updated: Option<Timestamp>,
}

impl BackOff {
    /// Current delay; zero before the first failure.
    #[must_use]
    pub fn delay(&self) -> SignedDuration {
        self.delay
    }

    /// When the thing that failed at `failed_at` may be tried again, or `None` if now.
    #[must_use]
    pub fn until(&self, failed_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let updated = self.updated?;
        if expired(failed_at, updated) {
            return None;
        }
        let until = failed_at.checked_add(self.delay).unwrap_or(Timestamp::MAX);
        (until > now).then_some(until)
    }

    /// As [`BackOff::until`], counted from the last call of [`BackOff::next`].
    #[must_use]
    pub fn until_since_update(&self, now: Timestamp) -> Option<Timestamp> {
        let updated = self.updated?;
        if expired(now, updated) {
            return None;
        }
        let until = updated.checked_add(self.delay).unwrap_or(Timestamp::MAX);
        (until > now).then_some(until)
    }

    /// Counts one more failure, at `at`.
    pub fn next(&mut self, at: Timestamp) {
        let fresh = self.updated.is_none_or(|updated| expired(at, updated));
        self.delay = if fresh { INITIAL } else { self.delay.saturating_mul(2).min(MAX) };
        self.updated = Some(at);
    }

    /// Forgets all failures.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

fn expired(at: Timestamp, updated: Timestamp) -> bool {
    at.duration_since(updated) > MAX.saturating_mul(2)
}

/// A duration as Go prints it (`10s`, `1m20s`, `5m0s`), since clients show it.
#[must_use]
pub fn go_duration(d: SignedDuration) -> String {
    let total = d.as_secs();
    let (hours, minutes, seconds) = (total / 3600, total / 60 % 60, total % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(s).unwrap()
    }

    #[test]
    fn doubles_to_the_limit_and_is_forgotten() {
        let mut b = BackOff::default();
        assert_eq!(b.until(at(0), at(0)), None);
        b.next(at(0));
        assert_eq!(b.until(at(5), at(6)), Some(at(15)));
        assert_eq!(b.until(at(5), at(15)), None);
        let mut seen = vec![];
        for i in 1..8 {
            b.next(at(i));
            seen.push(go_duration(b.delay()));
        }
        assert_eq!(seen, ["20s", "40s", "1m20s", "2m40s", "5m0s", "5m0s", "5m0s"]);
        assert_eq!(b.until(at(7 + 601), at(7 + 601)), None);
        b.next(at(7 + 601));
        assert_eq!(b.delay(), INITIAL);
    }
}
