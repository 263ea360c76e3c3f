//! The control loops of kube-controller-manager in one process.
//!
//! A loop is made of a pure function in `isopod-reconcile` and one registration file in `controllers`, which says
//! which informers feed it, how an object becomes a key, and how the view for a key is gathered. Everything else is
//! shared: queues, workers, the executor of plans, events and metrics.

mod config;

pub use config::{Config, Error, LeaderElection, TokenSigner};
