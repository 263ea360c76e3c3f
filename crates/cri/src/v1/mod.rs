//! Messages of the Container Runtime Interface, package `runtime.v1`, as Kubernetes v1.36 publishes it.
//!
//! Field names, numbers and types are the wire contract of
//! `k8s.io/cri-api/pkg/apis/runtime/v1/api.proto`; what a field means is documented there.
#![allow(missing_docs, reason = "names are those of api.proto, which documents them")]
#![allow(clippy::derive_partial_eq_without_eq, reason = "derived for every message alike")]

mod container;
mod exec;
mod image;
mod metrics;
mod runtime;
mod sandbox;
mod security;
mod signal;
mod stats;
mod streaming_lists;

pub use container::*;
pub use exec::*;
pub use image::*;
pub use metrics::*;
pub use runtime::*;
pub use sandbox::*;
pub use security::*;
pub use signal::*;
pub use stats::*;
pub use streaming_lists::*;
