//! What clients did and saw: the only thing that the checkers judge.
//!
//! A history says nothing of how it came about, so that a simulated run and one of real processes are judged by the
//! same code. Times are nanoseconds of one clock, that of whoever records.

use std::fmt;

use bytes::Bytes;
use isopod_kv::{
    DeleteRangeRequest, DeleteRangeResponse, Event, LeaseGrantRequest, PutRequest, PutResponse, RangeRequest,
    RangeResponse, TxnRequest, TxnResponse,
};

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Read a range.
    Range(RangeRequest),
    /// Write one key.
    Put(PutRequest),
    /// Delete a range.
    Delete(DeleteRangeRequest),
    /// Compare and write.
    Txn(TxnRequest),
    /// Grant a lease.
    Grant(LeaseGrantRequest),
    /// Renew a lease.
    KeepAlive(i64),
    /// Revoke a lease.
    Revoke(i64),
}

/// What a request was answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Call::Range`].
    Range(RangeResponse),
    /// To [`Call::Put`].
    Put(PutResponse),
    /// To [`Call::Delete`].
    Delete(DeleteRangeResponse),
    /// To [`Call::Txn`].
    Txn(TxnResponse),
    /// To [`Call::Grant`].
    Grant {
        /// Revision of the header.
        revision: i64,
        /// The lease.
        id: i64,
        /// Its time, in seconds.
        ttl_s: i64,
    },
    /// To [`Call::KeepAlive`].
    KeepAlive {
        /// Time from now on, in seconds.
        ttl_s: i64,
    },
    /// To [`Call::Revoke`].
    Revoke {
        /// Revision of the header.
        revision: i64,
    },
}

impl Answer {
    /// The revision of the header; none where it says nothing about order.
    pub fn revision(&self) -> Option<i64> {
        let header = match self {
            Answer::Range(response) => &response.header,
            Answer::Put(response) => &response.header,
            Answer::Delete(response) => &response.header,
            Answer::Txn(response) => &response.header,
            Answer::Grant { revision, .. } | Answer::Revoke { revision } => return Some(*revision),
            Answer::KeepAlive { .. } => return None,
        };
        Some(header.as_ref().map_or(0, |header| header.revision))
    }
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With an answer.
    Answered(Answer),
    /// With an error that says that it did not happen, and never will.
    Refused(String),
    /// Nobody knows: it may have happened, may happen later, or never.
    Unknown,
}

/// A request from beginning to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked. A client has one request at a time.
    pub client: u32,
    /// Equal for requests of one client to one run of one member: between two of them the member has not restarted.
    pub session: u64,
    /// When the request was sent.
    pub invoked_ns: u64,
    /// When the outcome was known; for [`Outcome::Unknown`], when the client stopped waiting.
    pub returned_ns: u64,
    /// The request.
    pub call: Call,
    /// Its outcome.
    pub outcome: Outcome,
}

impl Operation {
    /// The answer, if there was one.
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Answered(answer) => Some(answer),
            _ => None,
        }
    }

    /// Whether this is a read that any member may answer from what it has.
    pub fn is_serializable(&self) -> bool {
        matches!(&self.call, Call::Range(request) if request.serializable)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {} at {} us: ", self.client, self.invoked_ns / 1000)?;
        match &self.call {
            Call::Range(request) => {
                let kind = if request.serializable { "serializable range" } else { "range" };
                write!(f, "{kind} {}", Key(&request.key))?;
                if request.revision > 0 {
                    write!(f, " at {}", request.revision)?;
                }
            }
            Call::Put(request) => write!(f, "put {} = {}", Key(&request.key), Key(&request.value))?,
            Call::Delete(request) => write!(f, "delete {}..{}", Key(&request.key), Key(&request.range_end))?,
            Call::Txn(request) => {
                let first = request.compare.first().map_or(&[][..], |compare| &compare.key);
                write!(f, "txn on {} ({} compares)", Key(first), request.compare.len())?;
            }
            Call::Grant(request) => write!(f, "grant {:x} {} s", request.id, request.ttl)?,
            Call::KeepAlive(id) => write!(f, "keep {id:x} alive")?,
            Call::Revoke(id) => write!(f, "revoke {id:x}")?,
        }
        match &self.outcome {
            Outcome::Answered(answer) => {
                write!(
                    f,
                    " -> revision {} at {} us",
                    answer.revision().unwrap_or_default(),
                    self.returned_ns / 1000
                )
            }
            Outcome::Refused(error) => write!(f, " -> {error}"),
            Outcome::Unknown => write!(f, " -> unknown"),
        }
    }
}

/// How much of a key or value is shown.
const KEY_SHOWN_BYTES: usize = 24;

/// A key in messages.
pub(crate) struct Key<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(KEY_SHOWN_BYTES)];
        write!(f, "{}", shown.escape_ascii())?;
        f.write_str(if shown.len() < self.0.len() { "…" } else { "" })
    }
}

/// What a watcher was given, over all its connections: after a break it resumes after the last revision it knows to
/// be complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// Who watched.
    pub client: u32,
    /// The key, or the first key.
    pub key: Bytes,
    /// Empty for one key, else the end of the range.
    pub range_end: Bytes,
    /// The first revision that the watcher is to see.
    pub start_revision: i64,
    /// Whether previous versions were asked for.
    pub prev_kv: bool,
    /// What came, in order.
    pub deliveries: Vec<Delivery>,
}

/// One response of a watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// When it came.
    pub at_ns: u64,
    /// Revision of the header.
    pub revision: i64,
    /// Events; none stands for progress: all up to the revision has been given.
    pub events: Vec<Event>,
}

/// A run as it is judged.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// All requests, in any order.
    pub operations: Vec<Operation>,
    /// All watches.
    pub watches: Vec<Watch>,
    /// Every change from the first revision on, as the healed cluster tells it in the end.
    pub events: Vec<Event>,
    /// The last revision whose history may have been compacted; what was before it need not be told any more.
    pub compacted: i64,
    /// How much slower or quicker than the recorder's a member's clock may run, in thousandths.
    pub skew_permille: u64,
}
