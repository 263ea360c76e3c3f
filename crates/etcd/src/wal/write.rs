//! Appending to the log.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use isopod_mvcc::Command;
use prost::Message;

use super::{Meta, Scan, WAL_MAGIC, WAL_VERSION, append_prelude, append_record, kind, segment_name};
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
            failed: None,
            closed_bytes,
        })
    }

    /// Appends commands under the next indices and syncs: when this returns, they are durable.
    ///
    /// # Errors
    /// None of the commands is in the log then, or (after [`AppendError::Failed`]) it is unknown which are.
    pub(crate) fn append(&mut self, term: u64, commands: &[&Command]) -> Result<(), AppendError> {
        if let Some(error) = &self.failed {
            return Err(AppendError::Failed(error.clone()));
        }
        self.encode(term, commands);
        if self.offset + self.buffer.len() as u64 > self.options.segment_bytes
            && self.begin_next_segment(term)?
        {
            // Records name their batch by its offset, which is another one now.
            self.encode(term, commands);
        }
        self.reserve()?;
        match self.file.write_at(self.offset, &self.buffer) {
            Ok(()) => {}
            Err(error) if is_full(&error) => return Err(self.undo()),
            Err(error) => return Err(self.fail(error)),
        }
        if self.options.fsync {
            self.file.sync().map_err(|error| self.fail(error))?;
        }
        self.offset += self.buffer.len() as u64;
        self.last_index += commands.len() as u64;
        if self.buffer.capacity() > BUFFER_KEPT_BYTES {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    fn encode(&mut self, term: u64, commands: &[&Command]) {
        self.buffer.clear();
        let batch = u32::try_from(self.offset).expect("a file is closed long before 4 GiB");
        for (index, command) in (self.last_index + 1..).zip(commands) {
            append_record(&mut self.buffer, kind::ENTRY, batch, |payload| {
                payload.extend_from_slice(&index.to_le_bytes());
                payload.extend_from_slice(&term.to_le_bytes());
                command.encode(payload).expect("a vector grows");
            });
        }
    }

    /// Closes the file and begins the next one, unless the file is empty. True if it did.
    fn begin_next_segment(&mut self, term: u64) -> Result<bool, AppendError> {
        let (_, sequence, first_index) = self.segments.back().expect("a log has a file");
        if *first_index == self.last_index + 1 {
            return Ok(false);
        }
        let sequence = sequence + 1;
        let meta = Meta { first_index: self.last_index + 1, term, ..self.meta.clone() };
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
        Ok(true)
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

    /// Index of the last entry.
    pub(crate) fn last_index(&self) -> u64 {
        self.last_index
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
