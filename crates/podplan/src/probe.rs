//! The state machine of one probe of one container instance: when to probe, and when a run of results counts.
//!
//! Before the first verdict a startup probe is undecided, a liveness probe counts as passed, a readiness probe
//! as failed. After a startup probe succeeded it is never run again; after a liveness or startup probe failed
//! nothing is probed until the container is replaced.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Probe;

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Gates the others.
    Startup,
    /// Failure replaces the container.
    Liveness,
    /// Failure takes the pod out of Services.
    Readiness,
}

impl Kind {
    /// The name in event texts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// What one run of a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Passed; with a warning where something was odd (a redirect to another host).
    Success(Option<String>),
    /// Failed, with what was seen.
    Failure(String),
    /// Could not be run; counts as failed.
    Error(String),
}

/// One probe of one container instance.
#[derive(Clone, Debug)]
pub struct Machine {
    kind: Kind,
    delay: SignedDuration,
    period: SignedDuration,
    success_threshold: i32,
    failure_threshold: i32,
    last: Option<bool>,
    run: i32,
    verdict: Option<bool>,
}

impl Machine {
    /// A probe before its first run.
    #[must_use]
    pub fn new(kind: Kind, p: &Probe) -> Self {
        let seconds = |v: Option<i32>, default: i32| {
            SignedDuration::from_secs(i64::from(v.filter(|v| *v > 0).unwrap_or(default)))
        };
        Self {
            kind,
            delay: seconds(p.initial_delay_seconds, 0),
            period: seconds(p.period_seconds, 10),
            success_threshold: p.success_threshold.filter(|v| *v > 0).unwrap_or(1),
            failure_threshold: p.failure_threshold.filter(|v| *v > 0).unwrap_or(3),
            last: None,
            run: 0,
            verdict: None,
        }
    }

    /// When to run first, for a container started at `started`.
    #[must_use]
    pub fn first(&self, started: Timestamp) -> Timestamp {
        started.checked_add(self.delay).unwrap_or(Timestamp::MAX)
    }

    /// Time from one run to the next.
    #[must_use]
    pub fn period(&self) -> SignedDuration {
        self.period
    }

    /// The current verdict; `None` before the first.
    #[must_use]
    pub fn verdict(&self) -> Option<bool> {
        self.verdict
    }

    /// Takes one result in; the new verdict if it changed.
    pub fn record(&mut self, passed: bool) -> Option<bool> {
        if self.last == Some(passed) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(passed);
            self.run = 1;
        }
        let threshold = if passed { self.success_threshold } else { self.failure_threshold };
        if self.run < threshold || self.verdict == Some(passed) {
            return None;
        }
        self.verdict = Some(passed);
        self.verdict
    }

    /// Whether no further run can change anything.
    #[must_use]
    pub fn done(&self) -> bool {
        match self.kind {
            Kind::Startup => self.verdict.is_some(),
            Kind::Liveness => self.verdict == Some(false),
            Kind::Readiness => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(kind: Kind, failure: i32, success: i32, results: &str) -> String {
        let p =
            Probe { failure_threshold: Some(failure), success_threshold: Some(success), ..Probe::default() };
        let mut m = Machine::new(kind, &p);
        results
            .chars()
            .map(|c| match m.record(c == '+') {
                Some(true) => '+',
                Some(false) => '-',
                None => '.',
            })
            .collect()
    }

    #[test]
    fn thresholds() {
        assert_eq!(verdicts(Kind::Readiness, 3, 1, "--+--+---+"), "..+.....-+");
        assert_eq!(verdicts(Kind::Readiness, 1, 2, "+-++-"), ".-.+-");
        assert_eq!(verdicts(Kind::Liveness, 3, 1, "---"), "..-");
    }
}
