//! Garbage collection: objects whose owners are gone go too, in the background, first, or not at all.
//!
//! [`Graph`] follows every object's owner references and says which objects want a look; [`decide`] says, from the
//! object and its owners read afresh, what to do. Nothing is deleted on the word of a cache: an owner counts as absent
//! only after the API server said so. Matches upstream's pkg/controller/garbagecollector.

mod decide;
mod graph;

pub use decide::{Latest, OwnerState, break_circle, decide, orphan, unblock};
pub use graph::{Graph, Id, Observed, Wants};

/// Finalizer of an owner whose dependents go first.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an owner whose dependents stay.
pub const ORPHAN: &str = "orphan";
