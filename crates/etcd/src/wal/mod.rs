//! The log: entries with index and term, in files that are only appended to.
//!
//! - A file holds a prelude (magic number, format version), a description of the store it belongs to, and entries.
//! - What is written between two syncs is a batch. Every record says where its batch begins, so that a reader can
//!   tell a batch that was never synced, and hence never acknowledged, from damage to one that was: records of a
//!   later batch prove that all before them had been synced.
//! - An entry with an index that exists already replaces it and all that follow. A group of one never does that; the
//!   format allows it because a replicated log must.

mod read;
mod record;
mod write;

pub(crate) use read::{Scan, read_all};
pub(crate) use record::{PRELUDE_BYTES, RECORD_OVERHEAD_BYTES};
pub(crate) use record::{append_prelude, append_record, check_prelude, kind, parse_record};
pub(crate) use write::{AppendError, Wal, WalOptions};

/// Newest version of the log format that this program writes and reads.
pub(crate) const WAL_VERSION: u32 = 1;
/// First bytes of a log file.
pub(crate) const WAL_MAGIC: &[u8; 8] = b"isopwal\n";

/// Whose log it is, in the first record of every file.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub(crate) struct Meta {
    #[prost(uint64, tag = "1")]
    pub(crate) cluster_id: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) member_id: u64,
    /// Index that the first entry of the file will have.
    #[prost(uint64, tag = "3")]
    pub(crate) first_index: u64,
    /// Term when the file was begun.
    #[prost(uint64, tag = "4")]
    pub(crate) term: u64,
}

/// The name of a log file. Names sort in the order of the files.
pub(crate) fn segment_name(sequence: u64, first_index: u64) -> String {
    format!("wal-{sequence:016x}-{first_index:016x}.log")
}

/// Sequence and first index from a name.
pub(crate) fn parse_segment_name(name: &str) -> Option<(u64, u64)> {
    let (sequence, index) = name.strip_prefix("wal-")?.strip_suffix(".log")?.split_once('-')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16);
    Some((hex(sequence)?, hex(index)?))
}
