//! The state machine of the store: etcd v3's multi-version key-value model, pure.
//!
//! [`State`] changes only by [`State::apply`], which takes one [`Command`] of the log after the other and depends
//! on nothing else: no clock, no files, no randomness. Members that apply the same log hold the same state, down
//! to the error texts, and [`State::hash`] proves it.
//!
//! - Every change makes a revision (main, sub); a transaction is one main revision. The store starts at 1.
//! - A key keeps its versions until a compaction; reads may name any revision that is not compacted.
//! - Values are refcounted: readers, watchers and the checkpoint share them with the state.
//! - A watch is a cursor into history ([`State::events`]); [`WatchIndex`] says whom a change concerns. There is no
//!   queue of undelivered events anywhere, so a slow watcher costs nothing and loses nothing.
//! - Leases are plain entries of the state; when one expires is decided by [`Lessor`], from times given to it, and
//!   takes effect only as a command.
//! - Users and roles are part of the state; a command says on whose behalf it was given, and is checked when it is
//!   applied.
#![warn(missing_docs)]

mod auth;
mod command;
mod compact;
mod compare;
mod hash;
mod history;
mod lease;
mod lessor;
mod range;
mod snapshot;
mod state;
mod txn;
mod validate;
mod watch;

pub use auth::{Auth, Authenticate, Caller, ROOT, Session, StoredAuth, StoredUser, TOKEN_TTL, Tokens};
pub use command::{Command, Op};
pub use hash::HashCursor;
pub use history::Record;
pub use lease::{Lease, MAX_TTL_S, MIN_TTL_S};
pub use lessor::Lessor;
pub use range::RangeCursor;
pub use snapshot::{Header, Restore, SnapshotCursor, StoredLease, StoredRecord};
pub use state::{Applied, Reply, State};
pub use validate::{
    MAX_TXN_OPS, txn_writes, validate_delete_range, validate_put, validate_range, validate_txn,
};
pub use watch::{EventBatch, Filters, KeyRange, WatchIndex};
