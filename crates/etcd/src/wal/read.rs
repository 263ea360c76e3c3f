//! Reading the log at start.

use std::sync::Arc;

use prost::Message;
use raft::eraftpb;

use super::record::{Tail, judge_tail};
use super::{
    HardState, Meta, PRELUDE_BYTES, WAL_MAGIC, WAL_VERSION, check_prelude, kind, parse_record,
    parse_segment_name,
};
use crate::error::OpenError;
use crate::storage::Storage;

/// What the log says, in order.
#[derive(Debug)]
pub(crate) enum Item {
    /// The description of the oldest file; first of all.
    Begin(Meta),
    /// The next entry; or one that replaces an earlier one of its index, and all that followed it.
    Entry(eraftpb::Entry),
    /// A checkpoint of this index was about to replace the log up to here.
    Install(u64),
}

/// What the log is, beside its entries.
#[derive(Debug)]
pub(crate) struct Scan {
    /// The description in the newest file.
    pub(crate) meta: Meta,
    /// Files, oldest first: name, sequence, first index.
    pub(crate) segments: Vec<(String, u64, u64)>,
    /// Where the newest file's records end, and how long it is.
    pub(crate) end: u64,
    pub(crate) length: u64,
    /// Whether something unsynced follows the end and is to be cut off.
    pub(crate) torn: bool,
    /// Format version of the newest file.
    pub(crate) version: u32,
    /// Index and term of the last entry; before the first entry, what the oldest file's name says.
    pub(crate) last_index: u64,
    pub(crate) last_term: u64,
    /// As last written.
    pub(crate) hard: HardState,
    /// The last checkpoint that was said to replace the log.
    pub(crate) installed: Option<u64>,
    /// Bytes of records in all files.
    pub(crate) bytes: u64,
}

/// Reads all files, handing every entry to `visit`; none if there is no log. Changes nothing.
pub(crate) fn read_all(
    storage: &Arc<dyn Storage>,
    visit: &mut dyn FnMut(Item) -> Result<(), String>,
) -> Result<Option<Scan>, OpenError> {
    let names = storage.list().map_err(OpenError::io("list", storage.path("")))?;
    let segments: Vec<(String, u64, u64)> = names
        .into_iter()
        .filter_map(|name| parse_segment_name(&name).map(|(sequence, index)| (name, sequence, index)))
        .collect();
    if segments.is_empty() {
        return Ok(None);
    }
    let mut scan = Scan {
        meta: Meta::default(),
        segments,
        end: 0,
        length: 0,
        torn: false,
        version: 0,
        last_index: 0,
        last_term: 0,
        hard: HardState::default(),
        installed: None,
        bytes: 0,
    };
    for position in 0..scan.segments.len() {
        read_segment(storage, &mut scan, position, visit)?;
    }
    Ok(Some(scan))
}

fn read_segment(
    storage: &Arc<dyn Storage>,
    scan: &mut Scan,
    position: usize,
    visit: &mut dyn FnMut(Item) -> Result<(), String>,
) -> Result<(), OpenError> {
    let (name, sequence, first_index) = scan.segments[position].clone();
    let path = storage.path(&name);
    let last = position + 1 == scan.segments.len();
    if position > 0 && scan.segments[position - 1].1 + 1 != sequence {
        return Err(OpenError::corrupt(path, 0, "the log file before it is missing"));
    }
    let bytes = read_file(storage, &name)?;
    let version = check_prelude(&bytes, WAL_MAGIC).map_err(|reason| OpenError::corrupt(&path, 0, reason))?;
    if version > WAL_VERSION {
        return Err(OpenError::Newer { file: path, found: version, supported: WAL_VERSION });
    }
    let mut offset = PRELUDE_BYTES;
    offset = read_meta(&bytes, offset, scan, position, first_index)
        .map_err(|reason| OpenError::corrupt(&path, offset as u64, reason))?;
    if position == 0 {
        visit(Item::Begin(scan.meta.clone())).map_err(|reason| OpenError::corrupt(&path, 0, reason))?;
    }
    loop {
        let record = match parse_record(&bytes, offset) {
            Ok(record) => record,
            Err(error) => {
                let tail = judge_tail(&bytes, offset);
                if tail == Tail::Corrupt || (tail == Tail::Torn && !last) {
                    return Err(OpenError::corrupt(path, offset as u64, error.to_string()));
                }
                scan.torn = tail == Tail::Torn;
                break;
            }
        };
        read_record(&record, scan, visit)
            .map_err(|reason| OpenError::corrupt(&path, offset as u64, reason))?;
        offset = record.end;
    }
    scan.version = version;
    scan.end = offset as u64;
    scan.length = bytes.len() as u64;
    scan.bytes += offset as u64;
    Ok(())
}

/// Reads the description and checks that the file continues the one before; where the entries begin.
fn read_meta(
    bytes: &[u8],
    offset: usize,
    scan: &mut Scan,
    position: usize,
    first_index: u64,
) -> Result<usize, String> {
    let record = parse_record(bytes, offset).map_err(|error| error.to_string())?;
    if record.kind != kind::META {
        return Err("the file does not begin with its description".to_owned());
    }
    let meta =
        Meta::decode(record.payload).map_err(|error| format!("the description does not decode: {error}"))?;
    if meta.first_index != first_index || first_index == 0 {
        return Err("the file's name and its description disagree".to_owned());
    }
    if position == 0 {
        scan.last_index = first_index.saturating_sub(1);
    } else if (meta.cluster_id, meta.member_id) != (scan.meta.cluster_id, scan.meta.member_id) {
        return Err("the file belongs to another member".to_owned());
    } else if first_index != scan.last_index + 1 && scan.installed == Some(first_index - 1) {
        (scan.last_index, scan.last_term) = (first_index - 1, 0);
    } else if first_index != scan.last_index + 1 {
        return Err(format!("entries are missing: {} is followed by {first_index}", scan.last_index));
    }
    scan.hard = meta.hard_state();
    scan.meta = meta;
    Ok(record.end)
}

fn read_record(
    record: &super::record::Record<'_>,
    scan: &mut Scan,
    visit: &mut dyn FnMut(Item) -> Result<(), String>,
) -> Result<(), String> {
    let number = |at: usize| {
        let bytes = record.payload.get(at..at + 8).ok_or("a record is too short")?;
        Ok::<_, String>(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
    };
    match record.kind {
        kind::HARD_STATE => {
            scan.hard = HardState { term: number(0)?, vote: number(8)?, commit: number(16)? };
            Ok(())
        }
        kind::INSTALL => {
            scan.installed = Some(number(0)?);
            scan.last_term = 0;
            visit(Item::Install(number(0)?))
        }
        kind::ENTRY | kind::PROPOSAL | kind::CONFIG => {
            let (index, term) = (number(0)?, number(8)?);
            let data = &record.payload[16..];
            if index == 0 || index > scan.last_index + 1 {
                return Err(format!("entries are missing: {} is followed by {index}", scan.last_index));
            }
            // What replaces a tail may be of an earlier term than that was.
            if index == scan.last_index + 1 && term < scan.last_term {
                return Err(format!("term {} is followed by {term}", scan.last_term));
            }
            scan.last_index = index;
            scan.last_term = term;
            if term > scan.hard.term {
                // Of version 1, or of a batch whose end is missing: nobody has voted in a term that nobody knows.
                scan.hard = HardState { term, vote: 0, ..scan.hard };
            }
            visit(Item::Entry(entry(record.kind, index, term, data)))
        }
        kind => Err(format!("a record of kind {kind} is out of place")),
    }
}

fn entry(kind: u8, index: u64, term: u64, data: &[u8]) -> eraftpb::Entry {
    let mut entry = eraftpb::Entry { index, term, ..eraftpb::Entry::default() };
    if kind == kind::CONFIG {
        entry.set_entry_type(eraftpb::EntryType::EntryConfChange);
    }
    entry.data = match kind {
        kind::ENTRY if !data.is_empty() => crate::member::Proposal::of_version_1(data).into(),
        _ => bytes::Bytes::copy_from_slice(data),
    };
    entry
}

/// Reads a whole file.
fn read_file(storage: &Arc<dyn Storage>, name: &str) -> Result<Vec<u8>, OpenError> {
    let path = storage.path(name);
    let read = || {
        let file = storage.open(name)?;
        let mut bytes = vec![0; usize::try_from(file.size()?).map_err(std::io::Error::other)?];
        let count = file.read_at(0, &mut bytes)?;
        bytes.truncate(count);
        Ok(bytes)
    };
    read().map_err(OpenError::io("read", path))
}
