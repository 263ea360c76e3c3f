//! Reading the log at start.

use std::sync::Arc;

use prost::Message;

use super::record::{Tail, judge_tail};
use super::{
    Meta, PRELUDE_BYTES, WAL_MAGIC, WAL_VERSION, check_prelude, kind, parse_record, parse_segment_name,
};
use crate::error::OpenError;
use crate::storage::Storage;

/// An entry as it lies in the log.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) index: u64,
    pub(crate) term: u64,
    /// The command, encoded.
    pub(crate) data: &'a [u8],
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
    /// Index and term of the last entry; before the first entry, what the newest file says.
    pub(crate) last_index: u64,
    pub(crate) last_term: u64,
    /// Bytes of records in all files.
    pub(crate) bytes: u64,
}

/// Reads all files, handing every entry to `visit`; none if there is no log. Changes nothing.
pub(crate) fn read_all(
    storage: &Arc<dyn Storage>,
    visit: &mut dyn FnMut(Entry<'_>) -> Result<(), String>,
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
        last_index: 0,
        last_term: 0,
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
    visit: &mut dyn FnMut(Entry<'_>) -> Result<(), String>,
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
        read_entry(&record, scan, visit)
            .map_err(|reason| OpenError::corrupt(&path, offset as u64, reason))?;
        offset = record.end;
    }
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
    if meta.first_index != first_index {
        return Err("the file's name and its description disagree".to_owned());
    }
    if position == 0 {
        scan.last_index = first_index.saturating_sub(1);
    } else if (meta.cluster_id, meta.member_id) != (scan.meta.cluster_id, scan.meta.member_id) {
        return Err("the file belongs to another member".to_owned());
    } else if first_index != scan.last_index + 1 {
        return Err(format!("entries are missing: {} is followed by {first_index}", scan.last_index));
    }
    scan.last_term = scan.last_term.max(meta.term);
    scan.meta = meta;
    Ok(record.end)
}

fn read_entry(
    record: &super::record::Record<'_>,
    scan: &mut Scan,
    visit: &mut dyn FnMut(Entry<'_>) -> Result<(), String>,
) -> Result<(), String> {
    if record.kind != kind::ENTRY {
        return Err(format!("a record of kind {} is out of place", record.kind));
    }
    let Some((head, data)) = record.payload.split_at_checked(16) else {
        return Err("an entry is too short".to_owned());
    };
    let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let entry = Entry { index: number(0), term: number(8), data };
    if entry.index > scan.last_index + 1 {
        return Err(format!("entries are missing: {} is followed by {}", scan.last_index, entry.index));
    }
    if entry.term < scan.last_term {
        return Err(format!("term {} is followed by {}", scan.last_term, entry.term));
    }
    scan.last_index = entry.index;
    scan.last_term = entry.term;
    visit(entry)
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
