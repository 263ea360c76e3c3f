//! Watchers, and the half of a watch that a member keeps for them.

use isopod_kv::Event;
use isopod_mvcc::{Filters, KeyRange, State};

use crate::history::Delivery;
use crate::random::Random;

/// Events given at a time: few, so that watches are often in the middle of something when a fault comes.
const EVENTS_PER_STEP: usize = 4;
/// Changes looked at a time.
const CHANGES_PER_STEP: usize = 50;
/// How many of a thousand looks that find nothing new report progress.
const PROGRESS_PERMILLE: u64 = 30;

/// A watcher.
pub(crate) struct Watcher {
    pub(crate) range: KeyRange,
    pub(crate) prev_kv: bool,
    /// Index of its record in the history.
    pub(crate) record: usize,
    /// The first revision not known to be complete; 0 for a watch that begins now.
    pub(crate) next: i64,
    /// Counts connections.
    pub(crate) generation: u64,
    pub(crate) connection: Option<Connection>,
}

/// The member's half.
pub(crate) struct Connection {
    pub(crate) member: u64,
    /// Everything before has been sent.
    pub(crate) cursor: i64,
    /// When the last response arrives: a stream keeps its order.
    pub(crate) last_ns: u64,
}

/// What a member sends.
pub(crate) enum Sent {
    /// A response.
    Delivery(Delivery),
    /// The end: history up to this revision is gone.
    Compacted(i64),
}

impl Connection {
    /// The next response, if there is something to say.
    pub(crate) fn next(
        &mut self,
        state: &State,
        range: &KeyRange,
        prev_kv: bool,
        random: &mut Random,
        skips: bool,
    ) -> Option<Sent> {
        let filters = Filters { prev_kv, ..Filters::default() };
        loop {
            if self.cursor > state.revision() {
                let progress = random.permille(PROGRESS_PERMILLE);
                return progress.then(|| {
                    Sent::Delivery(Delivery { at_ns: 0, revision: state.revision(), events: Vec::new() })
                });
            }
            let batch = match state.events(range, filters, self.cursor, EVENTS_PER_STEP, CHANGES_PER_STEP) {
                Ok(batch) => batch,
                Err(compacted) => return Some(Sent::Compacted(compacted)),
            };
            self.cursor = batch.next_revision;
            let mut events = batch.events;
            if skips {
                events.retain(|_| !random.permille(20));
            }
            if let Some(last) = events.last() {
                let revision = last_revision(last);
                return Some(Sent::Delivery(Delivery { at_ns: 0, revision, events }));
            }
        }
    }
}

fn last_revision(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}
