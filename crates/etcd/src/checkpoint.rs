//! Checkpoints: the state in a file, so that the log before it can go and a start is quick.
//!
//! A checkpoint is written beside the running store to a temporary file, synced, and only then given its name; a file
//! with the name of a checkpoint is whole or damaged, never unfinished. It contains its header, blocks of records in
//! key order, and an end that counts them; every block has its checksum.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use isopod_mvcc::{Header, Record, Restore, SnapshotCursor, State, StoredRecord};
use prost::Message;
use prost::encoding::decode_varint;

use crate::config::MAX_RECORD_BYTES;
use crate::engine::Shared;
use crate::error::OpenError;
use crate::member::{Membership, StoredMembership};
use crate::storage::{File, Storage};
use crate::wal::{
    PRELUDE_BYTES, RECORD_OVERHEAD_BYTES, append_prelude, append_record, check_prelude, kind, parse_record,
};

/// Newest version of the checkpoint format that this program writes and reads.
const CHECKPOINT_VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"isopckp\n";
const TEMPORARY: &str = "checkpoint.tmp";
/// Keys read from the state at a time: how long a checkpoint holds writers up.
const KEYS_PER_STEP: usize = 256;
/// Size at which a block is closed, in bytes. One block is one write.
const BLOCK_BYTES: usize = 1 << 20;
/// How much is read at a time at start, in bytes.
const READ_BYTES: usize = 4 << 20;

/// The header record.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
struct FileHeader {
    #[prost(uint64, tag = "1")]
    cluster_id: u64,
    #[prost(uint64, tag = "2")]
    member_id: u64,
    #[prost(message, required, tag = "3")]
    state: Header,
    /// Absent in what was written before there was replication.
    #[prost(message, optional, tag = "4")]
    membership: Option<StoredMembership>,
}

/// The last record.
#[derive(Clone, Copy, PartialEq, Eq, ::prost::Message)]
struct FileEnd {
    #[prost(uint64, tag = "1")]
    records: u64,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// The last entry that the checkpoint contains.
    pub(crate) index: u64,
    /// Size of the file.
    pub(crate) bytes: u64,
}

/// A state read from the newest checkpoint.
pub(crate) struct Loaded {
    pub(crate) state: State,
    pub(crate) cluster_id: u64,
    pub(crate) membership: Option<Membership>,
    pub(crate) bytes: u64,
}

/// The name of a checkpoint.
pub(crate) fn file_name(index: u64) -> String {
    format!("checkpoint-{index:016x}")
}

fn parse_name(name: &str) -> Option<u64> {
    name.strip_prefix("checkpoint-")
        .filter(|hex| hex.len() == 16)
        .and_then(|hex| u64::from_str_radix(hex, 16).ok())
}

/// Gives out a checkpoint's bytes piece by piece while the store goes on.
pub(crate) struct Producer {
    shared: Arc<Shared>,
    membership: StoredMembership,
    /// Taken only when this value is dropped.
    cursor: Option<SnapshotCursor>,
    records: u64,
    offset: u64,
    stage: Stage,
}

enum Stage {
    Header,
    Records,
    Done,
}

impl Producer {
    pub(crate) fn new(shared: Arc<Shared>) -> Producer {
        let (cursor, membership) = {
            // Membership changes with the state locked, so that the two belong together.
            let mut state = shared.state.write();
            (state.begin_snapshot(), shared.membership.read().store())
        };
        Producer { shared, membership, cursor: Some(cursor), records: 0, offset: 0, stage: Stage::Header }
    }

    pub(crate) fn index(&self) -> u64 {
        self.cursor().header().index
    }

    fn cursor(&self) -> &SnapshotCursor {
        self.cursor.as_ref().expect("there until dropped")
    }

    /// The next piece, appended to an empty buffer. False at the end.
    ///
    /// # Errors
    /// The state was replaced by a snapshot from another member.
    pub(crate) fn next(&mut self, buffer: &mut Vec<u8>) -> io::Result<bool> {
        let batch = self.offset as u32;
        match self.stage {
            Stage::Header => {
                append_prelude(buffer, MAGIC, CHECKPOINT_VERSION);
                let header = FileHeader {
                    cluster_id: self.shared.cluster_id,
                    member_id: self.shared.member_id,
                    state: self.cursor().header().clone(),
                    membership: Some(self.membership.clone()),
                };
                append_record(buffer, kind::CHECKPOINT, batch, |payload| {
                    header.encode(payload).expect("a vector grows");
                });
                self.stage = Stage::Records;
            }
            Stage::Records => {
                let mut valid = true;
                append_record(buffer, kind::RECORDS, batch, |payload| valid = self.fill(payload));
                if !valid {
                    return Err(io::Error::other("the state was replaced by a snapshot"));
                }
                if buffer.len() == RECORD_OVERHEAD_BYTES {
                    buffer.clear();
                    let end = FileEnd { records: self.records };
                    append_record(buffer, kind::END, batch, |payload| {
                        end.encode(payload).expect("a vector grows");
                    });
                    self.stage = Stage::Done;
                }
            }
            Stage::Done => return Ok(false),
        }
        self.offset += buffer.len() as u64;
        Ok(true)
    }

    /// False if the state is not the one of which this is a checkpoint.
    fn fill(&mut self, payload: &mut Vec<u8>) -> bool {
        while payload.len() < BLOCK_BYTES {
            let cursor = self.cursor.as_mut().expect("there until dropped");
            let state = self.shared.state.read();
            if !cursor.is_valid(&state) {
                return false;
            }
            let Some(records) = cursor.next(&state, KEYS_PER_STEP) else { break };
            drop(state);
            for record in &records {
                encode_record(record, payload);
            }
            self.records += records.len() as u64;
        }
        true
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        if let Some(cursor) = self.cursor.take() {
            self.shared.state.write().end_snapshot(cursor);
        }
    }
}

fn encode_record(record: &Arc<Record>, payload: &mut Vec<u8>) {
    StoredRecord::from(&**record).encode_length_delimited(payload).expect("a vector grows");
}

/// Writes a checkpoint of the state as it is now; none if `stop` was set meanwhile.
pub(crate) fn write(
    storage: &Arc<dyn Storage>,
    shared: &Arc<Shared>,
    stop: &AtomicBool,
) -> io::Result<Option<Written>> {
    let _timer = crate::metrics::BACKEND_COMMIT.start_timer();
    let mut producer = Producer::new(shared.clone());
    let result = write_file(storage, &mut producer, stop);
    if !matches!(result, Ok(Some(_))) {
        // Half a file helps nobody, least of all on a full disk.
        let _ = storage.remove(TEMPORARY);
    }
    result
}

fn write_file(
    storage: &Arc<dyn Storage>,
    producer: &mut Producer,
    stop: &AtomicBool,
) -> io::Result<Option<Written>> {
    let mut file = storage.create(TEMPORARY)?;
    let mut buffer = Vec::new();
    let mut offset = 0;
    while producer.next(&mut buffer)? {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        file.write_at(offset, &buffer)?;
        offset += buffer.len() as u64;
        buffer.clear();
    }
    file.sync()?;
    storage.rename(TEMPORARY, &file_name(producer.index()))?;
    storage.sync_dir()?;
    Ok(Some(Written { index: producer.index(), bytes: offset }))
}

/// Removes checkpoints older than the one at `index`, and what crashes left behind.
pub(crate) fn remove_older(storage: &Arc<dyn Storage>, index: u64) -> io::Result<()> {
    for name in storage.list()? {
        if parse_name(&name).is_some_and(|other| other < index) {
            storage.remove(&name)?;
        }
    }
    Ok(())
}

/// Reads the newest checkpoint; none if there is none. Changes nothing.
pub(crate) fn load(storage: &Arc<dyn Storage>) -> Result<Option<Loaded>, OpenError> {
    let names = storage.list().map_err(OpenError::io("list", storage.path("")))?;
    let Some((name, index)) = names.iter().rev().find_map(|name| Some((name, parse_name(name)?))) else {
        return Ok(None);
    };
    let loaded = load_file(storage, name)?;
    if loaded.state.applied_index() != index {
        let reason = "the file's name and its header disagree";
        return Err(OpenError::corrupt(storage.path(name), 0, reason));
    }
    Ok(Some(loaded))
}

/// Reads a checkpoint, whatever its name. Changes nothing.
pub(crate) fn load_file(storage: &Arc<dyn Storage>, name: &str) -> Result<Loaded, OpenError> {
    let path = storage.path(name);
    let file = storage.open(name).map_err(OpenError::io("open", &path))?;
    Reader { file, path, bytes: Vec::new(), start: 0, offset: 0 }.load()
}

/// Reads a checkpoint front to back with bounded memory.
struct Reader {
    file: Box<dyn File>,
    path: String,
    /// Bytes read and not yet consumed, from `start` on.
    bytes: Vec<u8>,
    start: usize,
    /// Offset in the file of `bytes[start]`.
    offset: u64,
}

impl Reader {
    fn load(&mut self) -> Result<Loaded, OpenError> {
        self.want(PRELUDE_BYTES)?;
        let version = check_prelude(&self.bytes[self.start..], MAGIC)
            .map_err(|reason| OpenError::corrupt(&self.path, 0, reason))?;
        if version > CHECKPOINT_VERSION {
            let (file, supported) = (self.path.clone(), CHECKPOINT_VERSION);
            return Err(OpenError::Newer { file, found: version, supported });
        }
        self.consume(PRELUDE_BYTES);
        let mut restore = None;
        let (mut cluster_id, mut membership) = (0, None);
        let mut records = 0;
        loop {
            let (kind, end) = self.next_record()?;
            let payload = &self.bytes[self.start + RECORD_OVERHEAD_BYTES - 1..end - 1];
            let result = match (kind, &mut restore) {
                (kind::CHECKPOINT, None) => {
                    FileHeader::decode(payload).map_err(|e| e.to_string()).map(|header| {
                        cluster_id = header.cluster_id;
                        membership = header.membership.map(Membership::load);
                        restore = Some(Restore::new(header.state));
                        false
                    })
                }
                (kind::RECORDS, Some(restore)) => {
                    restore_block(payload, restore, &mut records).map(|()| false)
                }
                (kind::END, Some(_)) => match FileEnd::decode(payload) {
                    Ok(end) if end.records == records => Ok(true),
                    Ok(end) => Err(format!("{records} records instead of {}", end.records)),
                    Err(error) => Err(error.to_string()),
                },
                (kind, _) => Err(format!("a record of kind {kind} is out of place")),
            };
            let done = result.map_err(|reason| OpenError::corrupt(&self.path, self.offset, reason))?;
            self.consume(end - self.start);
            if done {
                break;
            }
        }
        let state = restore.expect("the end comes after the header").finish();
        Ok(Loaded { state, cluster_id, membership, bytes: self.offset })
    }

    /// Makes the next record available; its kind, and where it ends in the buffer.
    fn next_record(&mut self) -> Result<(u8, usize), OpenError> {
        self.want(RECORD_OVERHEAD_BYTES)?;
        let length = self.bytes.get(self.start + 4..self.start + 8);
        let length =
            length.map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize);
        self.want(RECORD_OVERHEAD_BYTES + length.min(MAX_RECORD_BYTES))?;
        match parse_record(&self.bytes, self.start) {
            Ok(record) => Ok((record.kind, record.end)),
            Err(error) => Err(OpenError::corrupt(&self.path, self.offset, error.to_string())),
        }
    }

    /// Reads on until `count` bytes are there, or the file ends.
    fn want(&mut self, count: usize) -> Result<(), OpenError> {
        if self.bytes.len() - self.start >= count {
            return Ok(());
        }
        self.bytes.drain(..self.start);
        self.start = 0;
        let have = self.bytes.len();
        self.bytes.resize(have + READ_BYTES.max(count), 0);
        let read = self
            .file
            .read_at(self.offset + have as u64, &mut self.bytes[have..])
            .map_err(OpenError::io("read", &self.path))?;
        self.bytes.truncate(have + read);
        Ok(())
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        self.offset += count as u64;
    }
}

fn restore_block(mut payload: &[u8], restore: &mut Restore, records: &mut u64) -> Result<(), String> {
    while !payload.is_empty() {
        let length = decode_varint(&mut payload).map_err(|error| error.to_string())?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some((record, rest)) = payload.split_at_checked(length) else {
            return Err("a block ends within a record".to_owned());
        };
        // Decoding from a slice copies key and value: the block is not kept alive by its records.
        let record = StoredRecord::decode(record).map_err(|error| error.to_string())?;
        if !restore.push(record) {
            return Err("the records are out of order".to_owned());
        }
        *records += 1;
        payload = rest;
    }
    Ok(())
}
