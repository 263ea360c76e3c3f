//! Compaction: history before a revision goes.
//!
//! The command takes effect at once for readers; the memory comes back in steps ([`State::scrub`]), so that a large
//! compaction does not stop writers. Its cost is that of the changes dropped, not of the keys that exist.

use std::sync::Arc;

use isopod_kv::{CompactionResponse, Error};

use crate::history::Record;
use crate::state::State;

impl State {
    pub(crate) fn compact(&mut self, revision: i64) -> Result<CompactionResponse, Error> {
        if revision <= self.compacted {
            return Err(Error::Compacted);
        }
        if revision > self.revision {
            return Err(Error::FutureRevision);
        }
        self.compacted = revision;
        Ok(CompactionResponse { header: self.header() })
    }

    /// Whether compacted history still takes memory.
    pub fn needs_scrub(&self) -> bool {
        self.scrub_holds == 0 && self.log.front().is_some_and(|record| self.is_compacted(record))
    }

    /// Frees up to `budget` compacted changes. True if there is more to free.
    ///
    /// Does nothing while a snapshot is being read: it needs every version up to its revision.
    pub fn scrub(&mut self, budget: usize) -> bool {
        for _ in 0..budget {
            if !self.needs_scrub() {
                break;
            }
            let record = self.log.pop_front().expect("something needs to be freed");
            self.forget(&record);
        }
        if self.scrub_holds == 0 && !self.needs_scrub() {
            self.forget_before_the_boundary();
        }
        // After a burst the queue would keep the memory of its longest moment.
        if self.log.capacity() > 1024 && self.log.capacity() > 4 * self.log.len() {
            self.log.shrink_to(2 * self.log.len());
        }
        self.needs_scrub()
    }

    /// Drops what the changes of the compacted revision itself superseded. Those changes stay in the queue, and the
    /// changes they superseded may have left it at an earlier compaction, when they were still visible.
    fn forget_before_the_boundary(&mut self) {
        let boundary: Vec<Arc<Record>> =
            self.log.iter().take_while(|r| r.kv.mod_revision == self.compacted).cloned().collect();
        for record in boundary {
            self.forget(&record);
        }
    }

    fn is_compacted(&self, record: &Arc<Record>) -> bool {
        record.kv.mod_revision < self.compacted
    }

    /// Drops the versions that the key of a compacted change no longer needs.
    fn forget(&mut self, record: &Record) {
        let Some(history) = self.keys.get_mut(&record.kv.key) else { return };
        let versions = history.versions();
        let dead = history.dead(self.compacted);
        let freed: usize = versions[..dead].iter().map(|record| record.size()).sum();
        if dead == versions.len() {
            self.keys.remove(&record.kv.key);
        } else {
            history.drop_oldest(dead);
        }
        self.size -= freed;
    }
}
