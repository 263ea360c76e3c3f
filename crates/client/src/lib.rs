//! What every part of the system uses to speak to the API server: clients (over TLS or in-process), shared
//! informers, work queues, leader election, event recording and the clock.
//!
//! Invariants:
//! - an in-process identity can be put on a request by this crate alone ([`in_process`]);
//! - every queue is bounded, by a constant or by the number of objects that exist;
//! - nothing here blocks a caller that reports an event or a change.

pub mod clock;
pub mod connect;
pub mod event_correlator;
pub mod event_recorder;
pub mod expectations;
pub mod in_process;
pub mod informer;
pub mod informers;
pub mod key;
pub mod leader_election;
pub mod store;
pub mod workqueue;
mod workqueue_metrics;

pub use clock::{Clock, ManualClock, SystemClock};
pub use connect::{from_kubeconfig, from_tls};
pub use event_recorder::{EventRecorder, EventType, object_reference};
pub use expectations::Expectations;
pub use in_process::{InProcessIdentity, in_process};
pub use informer::{Change, Informer, Subscription};
pub use informers::{Informers, Scope};
pub use key::ObjectKey;
pub use leader_election::{LeaderElectionConfig, LeaderElector};
pub use store::Store;
pub use workqueue::WorkQueue;
