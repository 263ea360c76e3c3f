//! Zones: how many of their nodes are well, and how fast the others may be tainted.

use jiff::Timestamp;

use crate::meta::until;

/// How a zone fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneState {
    /// Most nodes are ready.
    Normal,
    /// Too many are not.
    Partial,
    /// None is ready.
    Full,
}

/// The state of a zone by its counts.
pub fn state(ready: usize, unready: usize, threshold: f64) -> ZoneState {
    let total = (ready + unready).max(1);
    #[allow(clippy::cast_precision_loss, reason = "node counts are far below 2^52")]
    let share = unready as f64 / total as f64;
    if ready == 0 && unready > 0 {
        ZoneState::Full
    } else if unready > 2 && share >= threshold {
        ZoneState::Partial
    } else {
        ZoneState::Normal
    }
}

/// A token bucket of one token, filled at a rate.
#[derive(Clone, Copy, Debug)]
pub struct Limiter {
    per_second: f64,
    tokens: f64,
    at: Timestamp,
}

impl Limiter {
    /// A full bucket.
    pub fn new(per_second: f64, now: Timestamp) -> Self {
        Self { per_second, tokens: 1.0, at: now }
    }
    /// Changes the rate; tokens saved up stay.
    pub fn set_rate(&mut self, per_second: f64, now: Timestamp) {
        self.fill(now);
        self.per_second = per_second;
    }
    fn fill(&mut self, now: Timestamp) {
        let elapsed = until(now, self.at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.per_second).min(1.0);
        self.at = self.at.max(now);
    }
    /// Takes a token if there is one.
    pub fn take(&mut self, now: Timestamp) -> bool {
        self.fill(now);
        // A hair below one still counts: the sum of many small fills is not exact.
        if self.per_second <= 0.0 || self.tokens < 0.999_999 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::plus_seconds;

    #[test]
    fn states() {
        for (ready, unready, want) in [
            (0, 1, ZoneState::Full),
            (10, 2, ZoneState::Normal),
            (1, 2, ZoneState::Normal),
            (4, 6, ZoneState::Partial),
            (0, 0, ZoneState::Normal),
        ] {
            assert_eq!(state(ready, unready, 0.55), want, "{ready} {unready}");
        }
    }

    #[test]
    fn one_token_every_ten_seconds() {
        let mut limiter = Limiter::new(0.1, Timestamp::UNIX_EPOCH);
        let taken: Vec<i64> =
            (0..=20).filter(|s| limiter.take(plus_seconds(Timestamp::UNIX_EPOCH, *s))).collect();
        assert_eq!(taken, [0, 10, 20]);
        limiter.set_rate(0.0, plus_seconds(Timestamp::UNIX_EPOCH, 20));
        assert!(!limiter.take(plus_seconds(Timestamp::UNIX_EPOCH, 99)));
    }
}
