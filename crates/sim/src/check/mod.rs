//! The judges of a history.
//!
//! Each is a pure function from what was recorded to the violations found. They trust nothing that a member says
//! about itself: the final history of events is checked for being one, every answer is compared with what the model
//! says, and every order with the recorder's clock.

pub mod agreement;
mod lease;
mod order;
pub mod search;
mod watch;

use crate::history::History;
use crate::model::{BadEvents, Versions};

/// A guarantee that was broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The final history is none.
    #[error("the final history is not consistent in itself: {0}")]
    Events(#[from] BadEvents),
    /// Durability: what was acknowledged is not in the final history at its revision.
    #[error("lost: {operation}; the final history does not contain it (it ends at revision {last})")]
    Lost {
        /// The operation.
        operation: String,
        /// The last revision of the final history.
        last: i64,
    },
    /// Two answers name the same revision as theirs.
    #[error("revision {revision} was given twice: {first}; {second}")]
    Twice {
        /// The revision.
        revision: i64,
        /// The first that claims it.
        first: String,
        /// The second.
        second: String,
    },
    /// A change that nobody asked for.
    #[error("the changes at revision {revision} were asked for by nobody: {events}")]
    Invented {
        /// The revision.
        revision: i64,
        /// The changes.
        events: String,
    },
    /// An operation that was refused has happened.
    #[error("refused, and yet at revision {revision}: {operation}")]
    Resurrected {
        /// The operation.
        operation: String,
        /// Where its changes are.
        revision: i64,
    },
    /// An answer that is not the one of its revision.
    #[error("wrong answer: {operation}: expected {expected}, got {got}")]
    Answer {
        /// The operation.
        operation: String,
        /// What the model says.
        expected: String,
        /// What came.
        got: String,
    },
    /// Linearizability: somebody had seen a later state before the operation began.
    #[error("{operation} is of the past: revision {seen} was known before it began, by {witness}")]
    Stale {
        /// The operation.
        operation: String,
        /// The revision known by then.
        seen: i64,
        /// By whom.
        witness: String,
    },
    /// A client that stays with one run of a member saw it go back.
    #[error("{operation} goes back: its member had told the same client revision {seen}")]
    Backwards {
        /// The operation.
        operation: String,
        /// The revision told before.
        seen: i64,
    },
    /// No order of the operations on a key explains their answers.
    #[error("the operations on {key} have no order that explains their answers ({operations} operations)")]
    Unordered {
        /// The key.
        key: String,
        /// How many operations there are.
        operations: usize,
    },
    /// A watcher was given something else than the history of its range.
    #[error("watch of {key} by client {client} from revision {start}: {problem}")]
    Watch {
        /// The watcher.
        client: u32,
        /// Its key.
        key: String,
        /// Where it began.
        start: i64,
        /// What is wrong.
        problem: watch::Problem,
    },
    /// A lease ended although it had been renewed.
    #[error(
        "lease {lease:x} expired by {known_us} us (revision {revision}), but was renewed until {until_us} us"
    )]
    Expired {
        /// The lease.
        lease: i64,
        /// The revision at which its keys vanished.
        revision: i64,
        /// When that was known, in microseconds.
        known_us: u64,
        /// Until when the lease was to live, in microseconds.
        until_us: u64,
    },
    /// A member does not start on a disk that nobody has damaged.
    #[error("member {member:x} does not start: {error}")]
    Start {
        /// The member.
        member: u64,
        /// Why.
        error: String,
    },
    /// With all faults gone the cluster does not come to rest.
    #[error("the cluster does not recover: {0}")]
    Stuck(String),
    /// Members disagree.
    #[error("{0}")]
    Disagreement(#[from] agreement::Disagreement),
}

pub use watch::Problem as WatchProblem;

/// Judges a history; the violations found, which are none if all is well.
pub fn check(history: &History) -> Vec<Violation> {
    let versions = match Versions::new(&history.events) {
        Ok(versions) => versions,
        Err(error) => return vec![error.into()],
    };
    let mut violations = Vec::new();
    let expiries = order::check(history, &versions, &mut violations);
    watch::check(history, &versions, &mut violations);
    lease::check(history, &expiries, &mut violations);
    search::check(history, &mut violations);
    violations
}
