//! The built-in container runtime: CRI v1 in-process.
//!
//! [`Runtime`] implements the services of `isopod-cri`. Each pod has a [`shim`] process, the same program
//! executed again, which outlives the server. Images and root file systems lie under `root`; sockets,
//! namespaces and what else ends with the machine under `state`.

pub mod cgroup;
mod checks;
mod client;
mod containers;
mod error;
mod image_service;
pub mod images;
mod processes;
mod purge;
mod record;
mod recover;
mod runtime;
mod sandboxes;
mod service;
pub mod shim;
mod snapshot;
mod spec;
mod status;
mod streams;
mod usage;

pub use checks::{Check, Level, checks};
pub use error::Error;
pub use purge::{purge, stop_all};
pub use runtime::{Config, Runtime};
