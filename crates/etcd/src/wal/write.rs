//! Appending to the log.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use prost::Message;
use raft::eraftpb::{Entry, EntryType};

use super::{
    HardState, Meta, Scan, WAL_MAGIC, WAL_VERSION, append_prelude, append_record, kind, segment_name,
};
use crate::storage::{File, Storage, is_full};

/// Under which name a file is prepared.
const TEMPORARY: &str = "wal.tmp";
/// By how much space is reserved ahead of the writer, in bytes.
const ALLOCATION_BYTES: u64 = 4 << 20;
/// Beyond this the buffer of an unusually large batch is given back, in bytes.
const BUFFER_KEPT_BYTES: usize = 1 << 20;

/// Why a batch is not in the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    /// No space. The log is as before; the same batch may succeed later.
    #[error("no space left for the log")]
    Full,
    /// The state of the file is unknown: nothing may be appended until a restart has read it again.
    #[error("the log cannot be written: {0}")]
    Failed(Arc<io::Error>),
}

/// Settings of the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WalOptions {
    pub(crate) segment_bytes: u64,
    pub(crate) fsync: bool,
}

/// The log, open for appending.
pub(crate) struct Wal {
    storage: Arc<dyn Storage>,
    options: WalOptions,
    meta: Meta,
    /// Files, oldest first: name, sequence, first index. The last one is written.
    segments: VecDeque<(String, u64, u64)>,
    file: Box<dyn File>,
    /// Where the next record goes, and how far space is reserved.
    offset: u64,
    allocated: u64,
    buffer: Vec<u8>,
    last_index: u64,
    /// As last written.
    hard: HardState,
    /// Whether the file is of an older format, so that the next record needs another one.
    outdated: bool,
    /// Set when the file's state is unknown.
    failed: Option<Arc<io::Error>>,
    /// Bytes of records ever written to the files that exist, by file.
    closed_bytes: VecDeque<u64>,
}

impl Wal {
    /// Begins a log whose first entry will have the index `meta.first_index`.
    pub(crate) fn create(storage: Arc<dyn Storage>, options: WalOptions, meta: Meta) -> io::Result<Wal> {
        let (name, file, offset) = new_segment(&storage, 1, &meta)?;
        let last_index = meta.first_index - 1;
        Ok(Wal {
            storage,
            options,
            segments: [(name, 1, meta.first_index)].into(),
            hard: meta.hard_state(),
            outdated: false,
            meta,
            file,
            offset,
            allocated: offset,
            buffer: Vec::new(),
            last_index,
            failed: None,
            closed_bytes: VecDeque::new(),
        })
    }

    /// Goes on with a log that was read, cutting off what was never synced.
    pub(crate) fn resume(storage: Arc<dyn Storage>, options: WalOptions, scan: Scan) -> io::Result<Wal> {
        let (name, _, _) = scan.segments.last().expect("a log has a file");
        let mut file = storage.open(name)?;
        let mut allocated = scan.length;
        if scan.torn {
            file.truncate(scan.end)?;
            allocated = scan.end;
        }
        // The last entries may have reached the kernel but not the disk before the process ended. They are about to
        // be served.
        file.sync()?;
        // How much of the total lies in which file no longer matters: all of it is replayed at a start.
        let mut closed_bytes = VecDeque::from(vec![0; scan.segments.len() - 1]);
        if let Some(newest) = closed_bytes.back_mut() {
            *newest = scan.bytes - scan.end;
        }
        Ok(Wal {
            storage,
            options,
            meta: scan.meta,
            segments: scan.segments.into(),
            file,
            offset: scan.end,
            allocated,
            buffer: Vec::new(),
            last_index: scan.last_index,
            hard: scan.hard,
            outdated: scan.version < WAL_VERSION,
            failed: None,
            closed_bytes,
        })
    }

    /// Appends entries, the first of which may replace an earlier one, and the hard state if it is given, and syncs:
    /// when this returns, they are durable.
    ///
    /// # Errors
    /// Nothing of it is in the log then, or (after [`AppendError::Failed`]) it is unknown what is.
    pub(crate) fn append(&mut self, entries: &[Entry], hard: Option<HardState>) -> Result<(), AppendError> {
        self.write(|buffer, batch| {
            for entry in entries {
                append_entry(buffer, batch, entry);
            }
            if let Some(HardState { term, vote, commit }) = hard {
                append_numbers(buffer, kind::HARD_STATE, batch, &[term, vote, commit]);
            }
        })?;
        if let Some(last) = entries.last() {
            self.last_index = last.index;
        }
        self.hard = hard.unwrap_or(self.hard);
        Ok(())
    }

    /// Says, durably, that a checkpoint of this position is about to get its name.
    ///
    /// # Errors
    /// As [`Wal::append`].
    pub(crate) fn announce_install(&mut self, index: u64, term: u64) -> Result<(), AppendError> {
        self.write(|buffer, batch| append_numbers(buffer, kind::INSTALL, batch, &[index, term]))
    }

    /// Begins anew after a checkpoint that came from elsewhere: the entries before `first_index` are in it.
    ///
    /// # Errors
    /// The old files are still there then.
    pub(crate) fn begin_at(&mut self, first_index: u64) -> Result<(), AppendError> {
        self.last_index = first_index - 1;
        self.meta.origin = None;
        let old: Vec<_> = self.segments.iter().map(|(name, ..)| name.clone()).collect();
        self.begin_segment()?;
        self.segments.drain(..old.len());
        self.closed_bytes.clear();
        let removed = old.iter().try_for_each(|name| self.storage.remove(name));
        if let Err(error) = removed.and_then(|()| self.storage.sync_dir()) {
            // They are removed at the next start.
            tracing::warn!(%error, "cannot remove a log file that a checkpoint has replaced");
        }
        Ok(())
    }

    fn write(&mut self, encode: impl Fn(&mut Vec<u8>, u32)) -> Result<(), AppendError> {
        if let Some(error) = &self.failed {
            return Err(AppendError::Failed(error.clone()));
        }
        self.encode(&encode);
        let empty = self.segments.back().is_some_and(|(_, _, first)| *first == self.last_index + 1);
        let full = self.offset + self.buffer.len() as u64 > self.options.segment_bytes;
        if (full && !empty) || self.outdated {
            self.begin_segment()?;
            // Records name their batch by its offset, which is another one now.
            self.encode(&encode);
        }
        self.reserve()?;
        match self.file.write_at(self.offset, &self.buffer) {
            Ok(()) => {}
            Err(error) if is_full(&error) => return Err(self.undo()),
            Err(error) => return Err(self.fail(error)),
        }
        if self.options.fsync {
            let started = std::time::Instant::now();
            self.file.sync().map_err(|error| self.fail(error))?;
            crate::metrics::WAL_FSYNC.observe(started.elapsed().as_secs_f64());
        }
        self.offset += self.buffer.len() as u64;
        if self.buffer.capacity() > BUFFER_KEPT_BYTES {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    fn encode(&mut self, encode: impl Fn(&mut Vec<u8>, u32)) {
        self.buffer.clear();
        let batch = u32::try_from(self.offset).expect("a file is closed long before 4 GiB");
        encode(&mut self.buffer, batch);
    }

    /// Closes the file and begins the next one.
    fn begin_segment(&mut self) -> Result<(), AppendError> {
        let (_, sequence, _) = self.segments.back().expect("a log has a file");
        let sequence = sequence + 1;
        let meta = Meta { first_index: self.last_index + 1, ..self.meta.clone() }.with_hard_state(self.hard);
        let (name, file, offset) = match new_segment(&self.storage, sequence, &meta) {
            Ok(segment) => segment,
            // The old file is untouched, and the new one does not count until it has its name.
            Err(error) if is_full(&error) => return Err(AppendError::Full),
            Err(error) => return Err(self.fail(error)),
        };
        // Gives back the reserved space. It reads as zeros until then, so it does not matter when this is durable.
        if let Err(error) = self.file.truncate(self.offset) {
            tracing::warn!(%error, "cannot cut a closed log file to its length");
        }
        self.closed_bytes.push_back(self.offset);
        self.segments.push_back((name, sequence, meta.first_index));
        (self.meta, self.file, self.offset, self.allocated) = (meta, file, offset, offset);
        self.outdated = false;
        Ok(())
    }

    fn reserve(&mut self) -> Result<(), AppendError> {
        let end = self.offset + self.buffer.len() as u64;
        if end <= self.allocated {
            return Ok(());
        }
        // The zeros beyond the last record also tell a reader that nothing is missing at the end.
        let wanted = (end + 1).next_multiple_of(ALLOCATION_BYTES.min(self.options.segment_bytes));
        match self.file.allocate(wanted) {
            Ok(()) => self.allocated = wanted,
            Err(error) if is_full(&error) => return Err(AppendError::Full),
            Err(error) => return Err(self.fail(error)),
        }
        Ok(())
    }

    /// Takes back what a full disk let through, durably: an entry whose writer was told of an error must not come
    /// back with a crash.
    fn undo(&mut self) -> AppendError {
        let undone = self.file.truncate(self.offset).and_then(|()| self.file.sync());
        self.allocated = self.offset;
        match undone {
            Ok(()) => AppendError::Full,
            Err(error) => self.fail(error),
        }
    }

    fn fail(&mut self, error: io::Error) -> AppendError {
        let error = Arc::new(error);
        self.failed = Some(error.clone());
        AppendError::Failed(error)
    }

    /// Removes files that hold only entries up to `index`.
    pub(crate) fn forget_up_to(&mut self, index: u64) -> io::Result<()> {
        let mut removed = false;
        while self.segments.len() > 1 && self.segments[1].2 <= index + 1 {
            self.storage.remove(&self.segments[0].0)?;
            self.segments.pop_front();
            self.closed_bytes.pop_front();
            removed = true;
        }
        if removed { self.storage.sync_dir() } else { Ok(()) }
    }

    /// The cluster and the member whose log this is.
    pub(crate) fn identity(&self) -> (u64, u64) {
        (self.meta.cluster_id, self.meta.member_id)
    }

    /// Sets what the next file begins with.
    pub(crate) fn set_hard_state(&mut self, hard: HardState) {
        self.hard = hard;
    }

    /// As last written.
    pub(crate) fn hard_state(&self) -> HardState {
        self.hard
    }

    /// Bytes of records in all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.closed_bytes.iter().sum::<u64>() + self.offset
    }

    /// Why the log takes nothing more, if so.
    pub(crate) fn failure(&self) -> Option<&Arc<io::Error>> {
        self.failed.as_ref()
    }
}

fn append_entry(buffer: &mut Vec<u8>, batch: u32, entry: &Entry) {
    let kind = match entry.get_entry_type() {
        EntryType::EntryNormal if entry.data.is_empty() => kind::ENTRY,
        EntryType::EntryNormal => kind::PROPOSAL,
        _ => kind::CONFIG,
    };
    append_record(buffer, kind, batch, |payload| {
        payload.extend_from_slice(&entry.index.to_le_bytes());
        payload.extend_from_slice(&entry.term.to_le_bytes());
        payload.extend_from_slice(&entry.data);
    });
}

fn append_numbers(buffer: &mut Vec<u8>, kind: u8, batch: u32, numbers: &[u64]) {
    append_record(buffer, kind, batch, |payload| {
        numbers.iter().for_each(|number| payload.extend_from_slice(&number.to_le_bytes()));
    });
}

/// Makes a file that begins with its description. It gets its name only when it is durable, so that a file with the
/// name of a log file always has one.
fn new_segment(
    storage: &Arc<dyn Storage>,
    sequence: u64,
    meta: &Meta,
) -> io::Result<(String, Box<dyn File>, u64)> {
    let mut bytes = Vec::new();
    append_prelude(&mut bytes, WAL_MAGIC, WAL_VERSION);
    let batch = bytes.len() as u32;
    append_record(&mut bytes, kind::META, batch, |payload| {
        meta.encode(payload).expect("a vector grows");
    });
    let name = segment_name(sequence, meta.first_index);
    let mut file = storage.create(TEMPORARY)?;
    file.write_at(0, &bytes)?;
    file.sync()?;
    storage.rename(TEMPORARY, &name)?;
    storage.sync_dir()?;
    Ok((name, file, bytes.len() as u64))
}
