//! The built-in pod network of a node.
//!
//! A bridge `isopod0` holds the first address of the node's pod range. Each pod has a veth pair: one end in the
//! bridge, the other, `eth0`, in the pod's network namespace, with a single host address (`/32`, `/128`) and the
//! bridge as its gateway. So every packet of a pod, even to its neighbour, is routed by the node: Service
//! translation and packet filters see both directions, whether or not the kernel passes bridged packets to
//! netfilter.
//!
//! What must survive a restart is on disk: one file per address ([`addresses`]), and the pod range. Everything in the
//! kernel is made idempotently, so a new process takes over what an old one left, and [`purge`] removes it all.
//!
//! NetworkPolicy will hook in as its own nft table in front of the `forward` hook; nothing here accepts packets so
//! finally that another table could not drop them.
//!
//! Calls that enter another network namespace do so on a thread of their own ([`netns`]), never on a worker of the
//! async runtime.

pub mod addresses;
mod attach;
pub mod check;
mod error;
pub mod host_ports;
mod links;
pub mod netns;
mod network;
mod nft;
pub mod purge;
pub mod routes;
mod rules;
mod sysctl;

pub use check::{Probe, check};
pub use error::Error;
pub use network::{Config, Network};
pub use purge::purge;

/// Name of the bridge.
pub const BRIDGE: &str = "isopod0";

/// Name of the nft tables.
pub const TABLE: &str = "isopod-net";

/// Protocol number that marks routes as ours, so that they can be told from the administrator's.
pub const ROUTE_PROTOCOL: u8 = 118;
