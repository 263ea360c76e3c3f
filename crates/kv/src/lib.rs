//! The contract of the store: etcd's v3 API as Rust types, and [`Store`], the one interface through which
//! the API server reaches it.
//!
//! Two implementations exist: the engine of `isopod-etcd` in the same process, and [`grpc::connect`] to any
//! etcd from 3.4 on, ours or upstream's. A caller cannot tell them apart: same messages, same error texts, same
//! order of events. Keys and values are [`bytes::Bytes`], so that in one process nothing is copied.
//!
//! The messages carry etcd's names and tags; no `.proto` file and no code generator is needed to build them.
#![warn(missing_docs)]

mod build;
mod error;
pub mod grpc;
pub mod keys;
#[allow(missing_docs, reason = "fields carry the names of etcd's rpc.proto, whose meaning is the contract")]
pub mod proto;
mod store;

pub use error::{Code, Error};
pub use proto::*;
pub use store::{Store, WatchControl, WatchStream};
