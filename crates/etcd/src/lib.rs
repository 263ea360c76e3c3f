//! The store: a member of etcd, compatible with etcd v3.
//!
//! ```text
//! requests ──> queue ──> log (one sync for all that wait) ──> state ──> answers, watchers
//!                                                              └──────> readers (no log, no queue)
//! ```
//! - Nothing is seen by anybody before a majority of the group's members has it on disk.
//! - The log holds commands, the state is a pure function of them (`isopod-mvcc`), checkpoints bound the replay.
//! - [`Engine`] is the store in this process, and [`serve`] puts etcd's gRPC API before it.
//! - An idle store of one member neither writes nor wakes up.

mod bbolt;
mod bootstrap;
mod checkpoint;
mod config;
mod engine;
mod error;
pub mod member;
mod metrics;
mod peer;
mod server;
pub mod snapshot;
pub mod storage;
mod wal;

pub use bootstrap::{BootstrapError, InitialCluster};
pub use config::{AutoCompaction, Config};
pub use engine::{Engine, is_member, open, open_in, open_member};
pub use error::OpenError;
pub use peer::{GroupInfo, PeerTls, discover, serve_peers};
pub use server::{Listeners, serve};
