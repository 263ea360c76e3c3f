//! Waiting for a state, with a deadline and the last reason in the failure.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

#[allow(clippy::disallowed_methods, reason = "polls real processes, outside any runtime")]
fn pause() {
    std::thread::sleep(Duration::from_millis(50));
}

/// Calls `look` until it gives a value; fails with its last reason when `limit` has passed.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(reason) if Instant::now() > end => {
                bail!("{what}: not within {limit:?}: {reason:#}")
            }
            Err(_) => pause(),
        }
    }
}

/// Calls `look` until it is true.
pub fn eventually(what: &str, limit: Duration, mut look: impl FnMut() -> bool) -> Result<()> {
    until(what, limit, || if look() { Ok(()) } else { bail!("still not so") })
}
