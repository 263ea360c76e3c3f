//! Services and EndpointSlices in, nftables rules out: the pure core of kube-proxy.
//!
//! The flow is `Service` + `Endpoint`s → [`plan::service_elements`] (which map elements a Service needs on this
//! node) → [`Ruleset`] (who claims which element) → one nft transaction as text, either the whole
//! ([`Ruleset::render_full`]) or only what changed ([`Ruleset::take_changes`]).
//!
//! Like upstream's nftables backend (KEP-3866) the packet path is a look-up in a verdict map by
//! `(address, protocol, port)`. Unlike upstream there is no chain per Service and per endpoint: the endpoints of
//! all Services lie in one map keyed by `(address, protocol, port, slot)`, and the slot is drawn by `numgen` inside
//! the look-up. The few chains there are depend only on the *number* of endpoints, so a change of one endpoint is a
//! handful of map elements, and 10,000 Services load in well under a second.
//!
//! No clock, no files, no sockets, no randomness.
#![warn(missing_docs)]

pub mod affinity;
pub mod chains;
pub mod endpoints;
pub mod input;
pub mod model;
pub mod plan;
pub mod render;
mod ruleset;

pub use input::{Endpoint, Family, NodeView, Protocol, Service, ServicePort};
pub use ruleset::{Frontend, Ruleset, Transaction, purge_commands};

/// Name of the nft tables (one in family `ip`, one in `ip6`). Upstream's is `kube-proxy`; both may be present.
pub const TABLE: &str = "isopod-proxy";
