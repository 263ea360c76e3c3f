//! Automatic compaction: which revision to compact to, and when to think of it next. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::AutoCompaction;

/// Samples of the revision within a period: how exact the period is kept.
const SAMPLES: u32 = 10;
/// How often compaction by number of revisions looks, as etcd.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);

/// Decides on compactions.
#[derive(Debug)]
pub(crate) struct Compactor {
    mode: AutoCompaction,
    samples: VecDeque<(Duration, i64)>,
    next: Duration,
}

impl Compactor {
    pub(crate) fn new(mode: AutoCompaction) -> Compactor {
        Compactor { mode, samples: VecDeque::new(), next: Duration::ZERO }
    }

    fn interval(&self) -> Option<Duration> {
        match self.mode {
            AutoCompaction::Off => None,
            AutoCompaction::Periodic(period) => Some(period / SAMPLES),
            AutoCompaction::Revision(_) => Some(REVISION_INTERVAL),
        }
    }

    /// When to call [`Compactor::due`] next; never while nothing changes, so that an idle store sleeps.
    pub(crate) fn deadline(&self, revision: i64, compacted: i64) -> Option<Duration> {
        self.interval()?;
        let idle = match self.mode {
            AutoCompaction::Revision(keep) => revision - keep <= compacted,
            _ => self.samples.is_empty() && revision <= compacted.max(1),
        };
        (!idle).then_some(self.next)
    }

    /// The revision to compact to, if it is time.
    pub(crate) fn due(&mut self, now: Duration, revision: i64, compacted: i64) -> Option<i64> {
        let interval = self.interval()?;
        if now < self.next {
            return None;
        }
        self.next = now + interval;
        let target = match self.mode {
            AutoCompaction::Off => return None,
            AutoCompaction::Revision(keep) => revision - keep,
            AutoCompaction::Periodic(period) => {
                if revision > self.samples.back().map_or(compacted.max(1), |(_, revision)| *revision) {
                    self.samples.push_back((now, revision));
                }
                let mut target = 0;
                while let Some((_, revision)) = self.samples.pop_front_if(|(at, _)| *at + period <= now) {
                    target = revision;
                }
                target
            }
        };
        (target > 0 && target > compacted).then_some(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_period_of_history_is_kept_and_an_idle_store_sleeps() {
        let mut compactor = Compactor::new(AutoCompaction::Periodic(s(100)));
        assert_eq!(compactor.deadline(1, -1), None);
        assert_eq!(compactor.deadline(5, -1), Some(s(0)));
        assert_eq!(compactor.due(s(0), 5, -1), None);
        assert_eq!(compactor.due(s(5), 6, -1), None);
        assert_eq!(compactor.deadline(6, -1), Some(s(10)));
        assert_eq!(compactor.due(s(10), 8, -1), None);
        assert_eq!(compactor.due(s(100), 8, -1), Some(5));
        assert_eq!(compactor.due(s(110), 8, 5), Some(8));
        assert_eq!(compactor.deadline(8, 8), None);
    }

    #[test]
    fn a_number_of_revisions_is_kept() {
        let mut compactor = Compactor::new(AutoCompaction::Revision(100));
        assert_eq!(compactor.deadline(90, -1), None);
        assert_eq!(compactor.due(s(0), 150, -1), Some(50));
        assert_eq!(compactor.deadline(160, 50), Some(s(300)));
        assert_eq!(compactor.due(s(299), 160, 50), None);
        assert_eq!(compactor.due(s(300), 160, 50), Some(60));
    }
}
