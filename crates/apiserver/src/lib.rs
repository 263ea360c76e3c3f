//! The Kubernetes API server.
//!
//! A request passes the layers of [`layers`] in order: authenticate → classify and queue → authorise →
//! decode → mutate → prepare → validate → validate (admission) → one store transaction → respond. Reads are
//! answered from the watch cache of [`cache`] as bytes. All resources share one path; what is particular to
//! a kind lives in `isopod_rules::kinds`.

pub mod admission;
mod apply;
pub mod audit;
pub mod authn;
pub mod authz;
mod body;
mod bootstrap;
pub mod cache;
mod config;
pub mod context;
mod discovery;
mod flow;
mod handlers;
mod health;
pub mod layers;
mod leases;
pub mod limits;
mod metrics;
pub mod negotiate;
pub mod net;
mod nonresource;
mod openapi;
pub mod options;
mod pipeline;
mod poststart;
pub mod registry;
pub mod request_info;
mod respond;
mod server;
mod services;
mod subresources;
mod table;
mod tunnel;

pub use body::{Body, BoxError, RequestBody};
pub use config::{Config, ConfigError};
pub use nonresource::GIT_VERSION;
pub use pipeline::forbidden;
pub use server::{ApiServer, Error};
