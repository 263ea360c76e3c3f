//! The Kubernetes API server.
//!
//! A request passes the layers of [`layers`] in order: authenticate → classify and queue → authorise →
//! decode → mutate → prepare → validate → validate (admission) → one store transaction → respond. Reads are
//! answered from the watch cache of [`cache`] as bytes. All resources share one path; what is particular to
//! a kind lives in `isopod_rules::kinds`.

pub mod authn;
pub mod authz;
mod body;
pub mod cache;
mod config;
pub mod layers;
pub mod limits;
pub mod request_info;

pub use body::{Body, BoxError, RequestBody};
pub use config::{Config, ConfigError};
