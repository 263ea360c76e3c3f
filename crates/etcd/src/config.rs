//! Settings of a member.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::OpenError;

/// Settings. [`Config::new`] gives etcd's defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of log and checkpoints; made if it does not exist.
    pub data_dir: PathBuf,
    /// The member's name in the member list.
    pub name: String,
    /// URLs under which clients reach this member.
    pub client_urls: Vec<String>,
    /// URLs under which other members reach this member.
    pub peer_urls: Vec<String>,
    /// Whether answers wait for the disk. Without, a crash of the machine (not of the process) loses the last
    /// writes.
    pub fsync: bool,
    /// Size of keys and values, history included, in bytes, beyond which writes are refused; 0 stands for 2 GiB.
    pub quota_bytes: u64,
    /// Whether the NOSPACE alarm is cleared by the first write that comes once a fifth of the quota is free again.
    /// Without, somebody has to clear it, as in etcd: for a store that nobody can reach from outside there is nobody.
    pub clear_no_space: bool,
    /// Compaction without being asked.
    pub auto_compaction: AutoCompaction,
    /// Largest request, in bytes.
    pub max_request_bytes: usize,
    /// Most operations in a transaction.
    pub max_txn_ops: usize,
    /// Size at which a log file is closed and the next one begun, in bytes.
    pub segment_bytes: u64,
    /// Log written since the last checkpoint, in bytes, after which the next one is made. It grows with the state,
    /// so that checkpoints never cost more than a fixed share of what clients write.
    pub checkpoint_log_bytes: u64,
    /// How long a watch that asks for progress stays without a message.
    pub progress_interval: Duration,
    /// Cost of password hashes: each step doubles the time. From 4 to 31.
    pub bcrypt_cost: u32,
    /// How long a token lives after its last use.
    pub auth_token_ttl: Duration,
    /// How often a leader says that it is there; the unit of Raft's time. Not needed by the only member of a group.
    pub heartbeat_interval: Duration,
    /// How long a member waits for a leader's sign before it asks for an election, at least; at most twice as long.
    pub election_timeout: Duration,
    /// Whether a member asks around before it begins an election, so that one that was cut off disturbs nobody.
    pub pre_vote: bool,
    /// Whether changes of membership are refused that would lose the quorum.
    pub strict_reconfig_check: bool,
    /// Entries kept in memory for followers that fall behind; those that need older ones are sent a snapshot.
    pub catch_up_entries: usize,
}

/// When history is dropped unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Never: the API server compacts by itself.
    Off,
    /// History older than this.
    Periodic(Duration),
    /// All but this many revisions.
    Revision(i64),
}

/// etcd's default quota.
const DEFAULT_QUOTA_BYTES: u64 = 2 << 30;

impl Config {
    /// The defaults for a data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Config {
        Config {
            data_dir: data_dir.into(),
            name: "default".to_owned(),
            client_urls: Vec::new(),
            peer_urls: Vec::new(),
            fsync: true,
            quota_bytes: 0,
            clear_no_space: false,
            auto_compaction: AutoCompaction::Off,
            max_request_bytes: 3 << 19,
            max_txn_ops: isopod_mvcc::MAX_TXN_OPS,
            segment_bytes: 64 << 20,
            checkpoint_log_bytes: 64 << 20,
            progress_interval: Duration::from_secs(600),
            bcrypt_cost: 10,
            auth_token_ttl: isopod_mvcc::TOKEN_TTL,
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_secs(1),
            pre_vote: true,
            strict_reconfig_check: true,
            catch_up_entries: 10_000,
        }
    }

    /// The quota in force.
    pub fn quota(&self) -> u64 {
        if self.quota_bytes == 0 { DEFAULT_QUOTA_BYTES } else { self.quota_bytes }
    }

    /// The election timeout in heartbeats.
    pub(crate) fn election_ticks(&self) -> usize {
        let ticks = self.election_timeout.as_millis() / self.heartbeat_interval.as_millis().max(1);
        usize::try_from(ticks).unwrap_or(usize::MAX).max(2)
    }

    /// Checks the settings against each other.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn validate(&self) -> Result<(), OpenError> {
        let bad = |message: &str| Err(OpenError::Config(message.to_owned()));
        if self.data_dir.as_os_str().is_empty() {
            return bad("the data directory is empty");
        }
        if self.max_request_bytes == 0 || self.max_request_bytes > MAX_RECORD_BYTES / 2 {
            return bad("the largest request must be between 1 byte and 32 MiB");
        }
        if self.segment_bytes < 4096 || self.segment_bytes > 1 << 30 {
            return bad("a log file must be between 4 KiB and 1 GiB");
        }
        if !(4..=31).contains(&self.bcrypt_cost) {
            return bad("the cost of password hashes must be between 4 and 31");
        }
        if self.max_txn_ops == 0 {
            return bad("a transaction needs an operation");
        }
        if self.heartbeat_interval < Duration::from_millis(1) {
            return bad("the heartbeat interval must be a millisecond or more");
        }
        if self.election_timeout < 5 * self.heartbeat_interval {
            return bad("the election timeout should be at least five times the heartbeat interval");
        }
        if self.election_timeout > Duration::from_secs(50) {
            return bad("the election timeout must be 50 s or less");
        }
        match self.auto_compaction {
            AutoCompaction::Periodic(period) if period < Duration::from_secs(1) => {
                bad("automatic compaction needs a period of a second or more")
            }
            AutoCompaction::Revision(revisions) if revisions < 1 => {
                bad("automatic compaction needs to keep a revision or more")
            }
            _ => Ok(()),
        }
    }
}

/// Largest payload of a record on disk: what a reader believes of a length before the checksum is checked.
pub(crate) const MAX_RECORD_BYTES: usize = 64 << 20;
