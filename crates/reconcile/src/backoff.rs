//! Exponential delays.

use std::time::Duration;

/// `base * 2^failures`, at most `max`.
pub fn exponential(base: Duration, max: Duration, failures: u32) -> Duration {
    let factor = 1u32.checked_shl(failures.min(31)).unwrap_or(u32::MAX);
    base.checked_mul(factor).map_or(max, |delay| delay.min(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_limit() {
        let at = |n| exponential(Duration::from_secs(10), Duration::from_secs(600), n).as_secs();
        assert_eq!([at(0), at(1), at(2), at(5), at(6), at(40)], [10, 20, 40, 320, 600, 600]);
    }
}
