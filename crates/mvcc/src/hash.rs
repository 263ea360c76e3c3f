//! A checksum of the state at a revision, by which members compare themselves.
//!
//! It covers what a reader could see, not how it is held: members whose memory has been freed to a different degree
//! agree. (The number is not upstream's: members of ours are compared with each other.)

use std::ops::Bound;

use bytes::Bytes;
use isopod_kv::Error;

use crate::history::Record;
use crate::state::State;

/// A checksum in steps; see [`crate::RangeCursor`] for why.
#[derive(Debug)]
pub struct HashCursor {
    revision: i64,
    compacted: i64,
    after: Option<Bytes>,
    crc: u32,
}

impl HashCursor {
    /// Begins a checksum of the versions from the last compaction to `revision` (0 for the current one).
    ///
    /// # Errors
    /// A revision that is compacted or not reached.
    pub fn new(state: &State, revision: i64) -> Result<HashCursor, Error> {
        let revision = state.check_revision(revision)?;
        Ok(HashCursor { revision, compacted: state.compacted, after: None, crc: 0 })
    }

    /// Takes at most `budget` keys. True when done.
    ///
    /// # Errors
    /// [`Error::Compacted`] if a compaction has come in between.
    pub fn advance(&mut self, state: &State, budget: usize) -> Result<bool, Error> {
        if state.compacted != self.compacted {
            return Err(Error::Compacted);
        }
        let start = match &self.after {
            Some(after) => Bound::Excluded(&after[..]),
            None => Bound::Unbounded,
        };
        let mut last = None;
        let mut crc = self.crc;
        for (key, history) in state.keys.range::<[u8], _>((start, Bound::Unbounded)).take(budget) {
            let dead = history.dead(self.compacted);
            for record in &history.versions()[dead..] {
                if record.kv.mod_revision <= self.revision {
                    crc = append(crc, record);
                }
            }
            last = Some(key.clone());
        }
        self.crc = crc;
        let done = last.is_none();
        self.after = last.or(self.after.take());
        Ok(done)
    }

    /// The revision and the compacted revision that the checksum covers, and the checksum.
    pub fn finish(&self) -> (i64, i64, u32) {
        (self.revision, self.compacted, self.crc)
    }
}

impl State {
    /// The checksum in one step.
    ///
    /// # Errors
    /// A revision that is compacted or not reached.
    pub fn hash(&self, revision: i64) -> Result<u32, Error> {
        let mut cursor = HashCursor::new(self, revision)?;
        while !cursor.advance(self, usize::MAX)? {}
        Ok(cursor.crc)
    }
}

fn append(crc: u32, record: &Record) -> u32 {
    let kv = &record.kv;
    let mut fixed = [0u8; 6 * 8];
    let numbers = [
        kv.mod_revision,
        i64::from(record.sub),
        kv.create_revision,
        kv.version,
        kv.lease,
        // The lengths keep "ab" + "c" apart from "a" + "bc".
        ((kv.key.len() as i64) << 32) | kv.value.len() as i64,
    ];
    for (slot, number) in fixed.chunks_exact_mut(8).zip(numbers) {
        slot.copy_from_slice(&number.to_le_bytes());
    }
    let crc = crc32c::crc32c_append(crc, &fixed);
    crc32c::crc32c_append(crc32c::crc32c_append(crc, &kv.key), &kv.value)
}
