//! The framing of records, shared by log and checkpoints.
//!
//! ```text
//! prelude:  magic[8]  version u32  crc32c u32
//! record:   kind u8  0[3]  length u32  batch u32  crc32c u32  payload[length]  0xE7
//! ```
//! Numbers are little-endian. `batch` is the offset in the file at which the record's batch begins. The checksum
//! covers the twelve bytes before it and the payload. A record begins and ends with a byte that is not zero, so that
//! a sector that was never written shows.

/// Length of the prelude.
pub(crate) const PRELUDE_BYTES: usize = 16;
/// Length of a record beyond its payload.
pub(crate) const RECORD_OVERHEAD_BYTES: usize = HEADER_BYTES + 1;

const HEADER_BYTES: usize = 16;
const END: u8 = 0xe7;
/// The unit that a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// Kinds of records. A kind is never given a new meaning.
///
/// A record may begin with the last byte of a sector, and then nothing but its kind shows whether the sector was
/// written. So those of the log have two high bits more than their number: no single inverted bit makes a zero of one.
/// Older logs have the number alone.
pub(crate) mod kind {
    /// What a kind of the log has beside its number.
    pub(crate) const MARK: u8 = 0xc0;
    /// [`super::super::Meta`].
    pub(crate) const META: u8 = MARK | 1;
    /// Index u64, term u64, and nothing (a leader begins its term); in version 1 a command.
    pub(crate) const ENTRY: u8 = MARK | 2;
    /// Index u64, term u64, proposal.
    pub(crate) const PROPOSAL: u8 = MARK | 3;
    /// Index u64, term u64, change of membership.
    pub(crate) const CONFIG: u8 = MARK | 4;
    /// Term u64, vote u64, commit index u64.
    pub(crate) const HARD_STATE: u8 = MARK | 5;
    /// Index u64, term u64: a checkpoint of this position is about to replace the log before it.
    pub(crate) const INSTALL: u8 = MARK | 6;
    /// Header of a checkpoint.
    pub(crate) const CHECKPOINT: u8 = 16;
    /// Length-delimited records of the state.
    pub(crate) const RECORDS: u8 = 17;
    /// Number of records; the last record of a checkpoint.
    pub(crate) const END: u8 = 18;

    const OF_THE_LOG: [u8; 6] = [META, ENTRY, PROPOSAL, CONFIG, HARD_STATE, INSTALL];

    /// The kind that a record's first byte says.
    pub(super) fn of(byte: u8) -> Option<u8> {
        match byte {
            CHECKPOINT | RECORDS | END => Some(byte),
            _ => OF_THE_LOG.into_iter().find(|kind| byte == *kind || byte == *kind & !MARK),
        }
    }
}

/// A record that was found whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) kind: u8,
    pub(crate) batch: u32,
    pub(crate) payload: &'a [u8],
    /// Offset of what follows.
    pub(crate) end: usize,
}

/// Why there is no record at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("the file ends within a record")]
    Short,
    #[error("the record's head makes no sense")]
    Head,
    #[error("the checksum does not match")]
    Checksum,
}

/// Appends a prelude.
pub(crate) fn append_prelude(buffer: &mut Vec<u8>, magic: &[u8; 8], version: u32) {
    let start = buffer.len();
    buffer.extend_from_slice(magic);
    buffer.extend_from_slice(&version.to_le_bytes());
    let crc = crc32c::crc32c(&buffer[start..]);
    buffer.extend_from_slice(&crc.to_le_bytes());
}

/// The version in a prelude, or what is wrong with it.
pub(crate) fn check_prelude(bytes: &[u8], magic: &[u8; 8]) -> Result<u32, &'static str> {
    if bytes.len() < PRELUDE_BYTES {
        return Err("the file is too short for its prelude");
    }
    if bytes[..8] != magic[..] {
        return Err("the magic number is missing");
    }
    if crc32c::crc32c(&bytes[..12]) != u32_at(bytes, 12) {
        return Err("the checksum of the prelude does not match");
    }
    Ok(u32_at(bytes, 8))
}

/// Appends a record whose payload `write` appends.
pub(crate) fn append_record(buffer: &mut Vec<u8>, kind: u8, batch: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let start = buffer.len();
    buffer.extend_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 0]);
    buffer.extend_from_slice(&batch.to_le_bytes());
    buffer.extend_from_slice(&[0; 4]);
    write(buffer);
    let length = buffer.len() - start - HEADER_BYTES;
    assert!(length <= crate::config::MAX_RECORD_BYTES, "payloads are bounded before they get here");
    buffer[start + 4..start + 8].copy_from_slice(&(length as u32).to_le_bytes());
    let crc = checksum(&buffer[start..]);
    buffer[start + 12..start + 16].copy_from_slice(&crc.to_le_bytes());
    buffer.push(END);
}

/// The record at an offset.
pub(crate) fn parse_record(bytes: &[u8], offset: usize) -> Result<Record<'_>, RecordError> {
    let end = record_end(bytes, offset)?;
    if end > bytes.len() {
        return Err(RecordError::Short);
    }
    let record = &bytes[offset..end - 1];
    if bytes[end - 1] != END || checksum(record) != u32_at(record, 12) {
        return Err(RecordError::Checksum);
    }
    let kind = kind::of(record[0]).ok_or(RecordError::Head)?;
    Ok(Record { kind, batch: u32_at(record, 8), payload: &record[HEADER_BYTES..], end })
}

/// Where the record at an offset would end, if its head makes sense.
fn record_end(bytes: &[u8], offset: usize) -> Result<usize, RecordError> {
    let head = bytes.get(offset..offset + HEADER_BYTES).ok_or(RecordError::Short)?;
    let length = u32_at(head, 4) as usize;
    if kind::of(head[0]).is_none() || head[1..4] != [0; 3] || length > crate::config::MAX_RECORD_BYTES {
        return Err(RecordError::Head);
    }
    Ok(offset + HEADER_BYTES + length + 1)
}

fn checksum(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[..12]), &record[HEADER_BYTES..])
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

/// What the bytes from a bad record on are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Nothing was written there.
    Empty,
    /// A batch that was not synced: the rest may be cut off.
    Torn,
    /// Damage to what had been synced.
    Corrupt,
}

/// Judges the bytes from `offset` on, at which no record was found.
///
/// A later batch proves that the one with the bad record had been synced. Without one, the last batch was torn if
/// some sector of the bad record was never written, or the file ends before it does. A last batch that was written
/// whole and yet does not match its checksum has been damaged afterwards: it may have been acknowledged.
pub(crate) fn judge_tail(bytes: &[u8], offset: usize) -> Tail {
    let tail = &bytes[offset..];
    let Some(last) = tail.iter().rposition(|byte| *byte != 0) else { return Tail::Empty };
    let written = offset + last + 1;
    for start in offset + 1..written {
        // Cheap tests first: few bytes look like the head of a record.
        let looks_like_a_record = kind::of(bytes[start]).is_some() && bytes.get(start + 1) == Some(&0);
        if looks_like_a_record
            && let Ok(record) = parse_record(bytes, start)
            && record.batch as usize > offset
            && record.batch as usize <= start
        {
            return Tail::Corrupt;
        }
    }
    if has_flipped_head(bytes, offset) {
        return Tail::Corrupt;
    }
    let end = match record_end(bytes, offset) {
        Ok(end) if end > bytes.len() => return Tail::Torn,
        // A write that was cut short. No single flipped bit turns the end mark into this.
        Ok(end) if bytes[end - 1] == 0 => return Tail::Torn,
        Ok(end) => end,
        Err(RecordError::Short) => return Tail::Torn,
        // The head itself is damaged or was never written: what it said of the length is not known.
        Err(_) => (offset + HEADER_BYTES).min(bytes.len()),
    };
    if has_unwritten_sector(bytes, offset, end) { Tail::Torn } else { Tail::Corrupt }
}

/// Whether one bit of the record's head is wrong and the record otherwise whole. Without this test, a record whose
/// length is damaged would seem to run beyond the end of the file, and pass for torn.
fn has_flipped_head(bytes: &[u8], offset: usize) -> bool {
    let Some(head) = bytes.get(offset..offset + HEADER_BYTES) else { return false };
    let mut head: [u8; HEADER_BYTES] = head.try_into().expect("cut to length");
    (0..HEADER_BYTES * 8).any(|bit| {
        head[bit / 8] ^= 1 << (bit % 8);
        let end = record_end(&head, 0).map(|end| offset + end);
        let whole = end.is_ok_and(|end| {
            let crc = crc32c::crc32c(&head[..12]);
            end <= bytes.len()
                && bytes[end - 1] == END
                && crc32c::crc32c_append(crc, &bytes[offset + HEADER_BYTES..end - 1]) == u32_at(&head, 12)
        });
        head[bit / 8] ^= 1 << (bit % 8);
        whole
    })
}

/// Whether the part of some sector that lies within the range is all zeros.
fn has_unwritten_sector(bytes: &[u8], start: usize, end: usize) -> bool {
    (start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES)).any(|sector| {
        let from = (sector * SECTOR_BYTES).max(start);
        let to = ((sector + 1) * SECTOR_BYTES).min(end);
        bytes[from..to].iter().all(|byte| *byte == 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three batches of two records each.
    fn file() -> (Vec<u8>, Vec<usize>) {
        let mut bytes = Vec::new();
        append_prelude(&mut bytes, b"isoptest", 1);
        let mut offsets = Vec::new();
        for batch in 0u8..3 {
            let start = bytes.len() as u32;
            for record in 0u8..2 {
                offsets.push(bytes.len());
                append_record(&mut bytes, kind::ENTRY, start, |payload| {
                    payload.extend((0..400u32).map(|byte| (byte as u8) | batch | record | 1));
                });
            }
        }
        offsets.push(bytes.len());
        (bytes, offsets)
    }

    #[test]
    fn records_round_trip() {
        let (bytes, offsets) = file();
        assert_eq!(check_prelude(&bytes, b"isoptest"), Ok(1));
        let mut offset = PRELUDE_BYTES;
        for expected in &offsets[1..] {
            let record = parse_record(&bytes, offset).expect("a whole record");
            assert_eq!(record.end, *expected);
            assert_eq!(record.payload.len(), 400);
            offset = record.end;
        }
        assert_eq!(parse_record(&bytes, offset), Err(RecordError::Short));
    }

    #[test]
    fn every_bit_flip_is_noticed_and_never_taken_for_a_torn_batch() {
        let (bytes, offsets) = file();
        for byte in PRELUDE_BYTES..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[byte] ^= 1 << (byte % 8);
            let bad = *offsets.iter().rev().find(|offset| **offset <= byte).expect("within a record");
            assert!(parse_record(&bytes, bad).is_err(), "flip at {byte}");
            bytes.resize(bytes.len() + 1000, 0);
            assert_eq!(judge_tail(&bytes, bad), Tail::Corrupt, "flip at {byte}");
        }
    }

    #[test]
    fn a_cut_or_unwritten_last_batch_is_torn() {
        let (bytes, offsets) = file();
        for length in offsets[4] + 1..bytes.len() {
            let bad = if length < offsets[5] { offsets[4] } else { offsets[5] };
            if length == offsets[5] {
                continue;
            }
            assert_eq!(judge_tail(&bytes[..length], bad), Tail::Torn, "cut at {length}");
        }
        let mut unwritten = bytes.clone();
        let sector = offsets[4].next_multiple_of(SECTOR_BYTES);
        let end = (sector + SECTOR_BYTES).min(bytes.len());
        unwritten[sector..end].fill(0);
        assert_eq!(judge_tail(&unwritten, offsets[4]), Tail::Torn);
        assert_eq!(judge_tail(&[bytes, vec![0; 600]].concat(), offsets[6]), Tail::Empty);
    }

    /// Of a record that begins in the last bytes of a sector, that sector may be the one that was not written.
    #[test]
    fn a_head_across_two_sectors_may_be_torn() {
        for kind in [kind::ENTRY, kind::PROPOSAL, kind::CONFIG, kind::HARD_STATE, kind::INSTALL] {
            for before in 1..HEADER_BYTES {
                let start = 2 * SECTOR_BYTES - before;
                let mut bytes = vec![1; start];
                append_record(&mut bytes, kind, start as u32, |payload| payload.extend([7; 24]));
                bytes[start..2 * SECTOR_BYTES].fill(0);
                bytes.extend([0; 600]);
                assert_eq!(
                    judge_tail(&bytes, start),
                    Tail::Torn,
                    "kind {kind}, {before} bytes before the sector"
                );
            }
        }
    }

    #[test]
    fn records_of_older_logs_are_read() {
        let mut bytes = Vec::new();
        append_record(&mut bytes, kind::CONFIG & !kind::MARK, 0, |payload| payload.push(1));
        assert_eq!(parse_record(&bytes, 0).map(|record| record.kind), Ok(kind::CONFIG));
    }
}
