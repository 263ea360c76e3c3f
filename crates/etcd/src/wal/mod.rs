//! The log: entries with index and term, in files that are only appended to.
//!
//! - A file holds a prelude (magic number, format version), a description of the store it belongs to, and entries.
//! - What is written between two syncs is a batch. Every record says where its batch begins, so that a reader can
//!   tell a batch that was never synced, and hence never acknowledged, from damage to one that was: records of a
//!   later batch prove that all before them had been synced.
//! - An entry with an index that exists already replaces it and all that follow: the tail of a leader that lost its
//!   place before a majority had it.
//! - Term, vote and commit index (the hard state) lie between the entries, in the same batch as those that they go
//!   with, and in the description of every file, so that dropping older files forgets no vote.
//!
//! Version 2 added everything of replication; a file of version 1 is read, and closed before anything is written.

mod read;
mod record;
mod write;

pub(crate) use read::{Item, Scan, read_all};
pub(crate) use record::{PRELUDE_BYTES, RECORD_OVERHEAD_BYTES};
pub(crate) use record::{append_prelude, append_record, check_prelude, kind, parse_record};
pub(crate) use write::{AppendError, Wal, WalOptions};

/// Newest version of the log format that this program writes and reads.
pub(crate) const WAL_VERSION: u32 = 2;
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
    /// Vote in that term; 0 for none. Since version 2, as what follows.
    #[prost(uint64, tag = "5")]
    pub(crate) vote: u64,
    /// Commit index when the file was begun.
    #[prost(uint64, tag = "6")]
    pub(crate) commit: u64,
    /// How the group began; needed until there is a checkpoint.
    #[prost(message, optional, tag = "7")]
    pub(crate) origin: Option<Origin>,
}

/// How a member's group began.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub(crate) struct Origin {
    /// The members; of a group that this member joins, whom to ask.
    #[prost(message, repeated, tag = "1")]
    pub(crate) members: Vec<isopod_kv::Member>,
    /// Whether the member joins a group that exists: its log begins with a snapshot from there.
    #[prost(bool, tag = "2")]
    pub(crate) joins: bool,
}

/// What Raft needs of a member beside its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HardState {
    pub(crate) term: u64,
    pub(crate) vote: u64,
    pub(crate) commit: u64,
}

impl Meta {
    pub(crate) fn hard_state(&self) -> HardState {
        HardState { term: self.term, vote: self.vote, commit: self.commit }
    }

    fn with_hard_state(self, hard: HardState) -> Meta {
        Meta { term: hard.term, vote: hard.vote, commit: hard.commit, ..self }
    }
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
