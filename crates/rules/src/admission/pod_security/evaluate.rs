//! Which checks a level and version consist of, and their evaluation.

use std::fmt;

use isopod_api::Value;

use super::subject::Subject;
use super::{LATEST_MINOR, Level, LevelVersion, baseline, restricted};

/// What a pod violates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Short.
    pub reason: String,
    /// By whom.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() {
            f.write_str(&self.reason)
        } else {
            write!(f, "{} ({})", self.reason, self.detail)
        }
    }
}

/// A check: looks at a pod under the rules of a minor version.
pub(super) struct Check {
    /// The first minor version that has it.
    pub(super) since: u32,
    /// The restricted check (by its first version) that takes its place at that level.
    pub(super) replaced_since: Option<u32>,
    pub(super) run: fn(&Subject<'_>) -> Option<Violation>,
}

/// What the pod, or pod template, violates; baseline checks first, each level's in order of name.
pub fn evaluate(policy: LevelVersion, pod: &Value) -> Vec<Violation> {
    if policy.level == Level::Privileged {
        return Vec::new();
    }
    let minor = policy.minor.unwrap_or(LATEST_MINOR).min(LATEST_MINOR);
    let subject = Subject::new(pod, minor);
    let is_restricted = policy.level == Level::Restricted;
    let replaced = |check: &&Check| is_restricted && check.replaced_since.is_some_and(|since| minor >= since);
    let baseline = baseline::CHECKS.iter().filter(|check| !replaced(check));
    let restricted = restricted::CHECKS.iter().filter(|_| is_restricted);
    baseline
        .chain(restricted)
        .filter(|check| minor >= check.since)
        .filter_map(|check| (check.run)(&subject))
        .collect()
}
