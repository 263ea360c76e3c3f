//! The scheduler's decisions, without IO: which node a pod goes to, and when it is tried again.
//!
//! The framework follows upstream's extension points (PreFilter, Filter, PostFilter, PreScore, Score);
//! a plugin is one file under `plugins/`. The state of a node is kept incrementally, so that a decision
//! costs what the nodes looked at cost, not what the cluster's pods cost.
#![warn(missing_docs)]

pub mod affinity;
pub mod cache;
pub mod framework;
pub mod node;
pub mod plugins;
pub mod pod;
pub mod queue;
pub mod resources;
pub mod schedule;

pub use cache::Cache;
pub use framework::{Plugin, Profile, Rejection};
pub use node::NodeInfo;
pub use pod::PodInfo;
pub use queue::Queue;
pub use schedule::{Outcome, schedule};
