//! The kubelet's decisions, without its hands: from a pod's spec, what the runtime reports, probe results,
//! the kubelet's memory of the pod and the time, to the next steps and to the pod's status.
//!
//! Invariants: nothing here reads a clock, a file or a socket; the same input gives the same plan; a step is
//! planned once and is not planned again while [`Memory::in_flight`] names it.
//!
//! Read in this order: [`observed`] (what the runtime says), [`memory`] (what the kubelet remembers),
//! [`plan`](mod@plan) (the next steps), [`status`](mod@status) (what the API is told). The other modules are
//! rules used by those: restart policy, back-off, probes, resources and cgroups, environment, DNS, admission
//! at the node, and eviction order.
#![warn(missing_docs)]

pub mod admit;
pub mod backoff;
pub mod cgroup;
pub mod conditions;
pub mod dns;
pub mod env;
pub mod evict;
pub mod hash;
pub mod hosts;
pub mod memory;
pub mod observed;
pub mod phase;
pub mod plan;
pub mod probe;
pub mod resources;
pub mod restart;
pub mod spec;
pub mod status;
pub mod terminate;

pub use backoff::BackOff;
pub use memory::{ContainerMemory, Ending, Image, LaunchError, Memory, Op, Probed};
pub use observed::{Container, ContainerState, Observed, Sandbox};
pub use plan::{Action, Input, Notice, Plan, plan};
pub use status::{Host, status};
