//! The part of the log that Raft may still ask for: what is not applied yet, and as much before that as lets a
//! follower catch up without a snapshot. What is on disk is the business of [`crate::wal`].

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, StorageError};

use crate::wal::HardState;

/// Raft's view of the log.
pub(crate) struct Log {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Position of the entry before the first one here.
    base: (u64, u64),
    /// As at the start; Raft keeps its own afterwards.
    hard: HardState,
    /// Position of the state, and who belongs to the group there: what a snapshot has.
    applied: (u64, u64),
    conf: ConfState,
}

impl Log {
    pub(crate) fn new(base: (u64, u64), conf: ConfState) -> Log {
        Log { entries: VecDeque::new(), bytes: 0, base, hard: HardState::default(), applied: base, conf }
    }

    pub(crate) fn set_hard_state(&mut self, hard: HardState) {
        self.hard = hard;
    }

    pub(crate) fn set_applied(&mut self, index: u64, term: u64) {
        self.applied = (index, term);
    }

    pub(crate) fn set_conf(&mut self, conf: ConfState) {
        self.conf = conf;
    }

    pub(crate) fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    pub(crate) fn first(&self) -> u64 {
        self.base.0 + 1
    }

    pub(crate) fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.base.0 { Some(self.base.1) } else { self.get(index).map(|entry| entry.term) }
    }

    pub(crate) fn get(&self, index: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(index.checked_sub(self.first())?).ok()?)
    }

    /// Adds entries; the first replaces the one of its index, if there is one, and all that follow.
    pub(crate) fn append(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            assert!(entry.index >= self.first() && entry.index <= self.last() + 1, "entries are contiguous");
            while self.last() >= entry.index {
                self.bytes -= self.entries.pop_back().map_or(0, |entry| entry.data.len());
            }
            self.bytes += entry.data.len();
            self.entries.push_back(entry);
        }
    }

    /// Begins anew after a position.
    pub(crate) fn reset(&mut self, base: (u64, u64)) {
        (self.entries, self.bytes, self.base) = (VecDeque::new(), 0, base);
        self.applied = base;
    }

    /// Drops applied entries beyond a number and a size, but none that a follower who keeps up still needs.
    pub(crate) fn trim(&mut self, count: usize, bytes: usize, needed: u64) {
        while let Some(entry) = self.entries.front() {
            let spare = self.entries.len() > count || self.bytes > bytes;
            // A follower that makes the log twice as long as it should be gets a snapshot.
            let wanted = entry.index >= needed
                && self.entries.len() <= 2 * count
                && self.bytes <= bytes.saturating_mul(2);
            if !spare || wanted || entry.index > self.applied.0 {
                break;
            }
            self.base = (entry.index, entry.term);
            self.bytes -= entry.data.len();
            self.entries.pop_front();
        }
    }
}

impl raft::Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let HardState { term, vote, commit } = self.hard;
        let hard = raft::eraftpb::HardState { term, vote, commit, ..Default::default() };
        Ok(RaftState::new(hard, self.conf.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 || low > high {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let limit = max_size.into().unwrap_or(u64::MAX);
        let range = (low - self.first()) as usize..(high - self.first()) as usize;
        let mut size = 0;
        let mut entries = Vec::new();
        for entry in self.entries.range(range) {
            size += entry.data.len() as u64 + ENTRY_OVERHEAD_BYTES;
            if size > limit && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let missing = if index < self.base.0 { StorageError::Compacted } else { StorageError::Unavailable };
        self.term_of(index).ok_or(Error::Store(missing))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let (index, term) = self.applied;
        if index == 0 || index < request_index {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (index, term);
        metadata.set_conf_state(self.conf.clone());
        Ok(snapshot)
    }
}

/// What an entry is counted with beyond its data.
const ENTRY_OVERHEAD_BYTES: u64 = 32;

#[cfg(test)]
mod tests {
    use raft::Storage;

    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![0; 100].into(), ..Entry::default() }
    }

    fn log() -> Log {
        let mut log = Log::new((3, 1), ConfState::default());
        log.append((4..=10).map(|index| entry(index, 2)));
        log
    }

    #[test]
    fn a_later_entry_replaces_the_tail() {
        let mut log = log();
        log.append([entry(7, 3)]);
        assert_eq!((log.last(), log.term_of(7), log.term_of(8), log.bytes), (7, Some(3), None, 400));
        assert_eq!((log.term_of(3), log.term_of(2)), (Some(1), None));
    }

    #[test]
    fn what_is_applied_goes_unless_a_follower_needs_it() {
        let mut log = log();
        log.set_applied(8, 2);
        log.trim(4, usize::MAX, u64::MAX);
        assert_eq!(log.first(), 7);
        log.trim(0, usize::MAX, 8);
        assert_eq!(log.first(), 9, "twice the number is the end of patience");
        log.trim(0, 0, u64::MAX);
        assert_eq!(log.first(), 9, "what is not applied stays");
    }

    #[test]
    fn entries_are_given_in_pieces() {
        let log = log();
        let get = |low, high, max: u64| {
            log.entries(low, high, max, GetEntriesContext::empty(false)).map(|entries| entries.len())
        };
        assert_eq!(get(4, 11, u64::MAX), Ok(7));
        assert_eq!(get(4, 11, 0), Ok(1));
        assert_eq!(get(4, 11, 300), Ok(2));
        assert_eq!(get(3, 5, 300), Err(Error::Store(StorageError::Compacted)));
        assert_eq!(get(9, 12, 300), Err(Error::Store(StorageError::Unavailable)));
    }
}
