//! The watch cache: every object of a resource in memory, ready to send.
//!
//! One [`feed`] follows the store and hands each change to the [`Cache`] of its resource,
//! which keeps an ordered immutable snapshot, a ring of recent events for watchers that resume, and the
//! watchers themselves. Entries hold the JSON that clients get, so GET, LIST and WATCH copy bytes.

pub mod entry;
pub mod feed;
pub mod filter;
mod history;
pub mod ordered;
pub mod resource;

pub use entry::{Entry, Event, Json, Prepared};
pub use feed::Feed;
pub use filter::{Change, Filter, Scope};
pub use resource::{Cache, Snapshot, Watch};
