//! Node health: silence becomes Unknown, conditions become taints, and large failures slow evictions down.
//!
//! Two parts: [`taints`] looks at one node as it is and acts at once; [`Monitor`] looks at all nodes every few seconds,
//! in memory, and acts on silence. Heartbeats are judged by when this process saw them change, never by the
//! timestamps in them, so clocks need not agree. Matches upstream's pkg/controller/nodelifecycle.

pub mod eviction;
pub mod health;
pub mod taints;
pub mod zones;

pub use health::{Monitor, Settings};
