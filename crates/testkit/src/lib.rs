//! What tests of the whole system share: clusters of the real binary in network namespaces of their own, images built
//! from Debian's packages, and real clients.
//!
//! Everything made here is removed by `Drop`, also when a test fails. What a test needs and the machine lacks is an
//! error that says so; nothing is skipped.

mod cluster;
mod command;
mod debian;
pub mod fake_api;
mod image;
mod lan;
pub mod netns;
mod wait;

pub use cluster::{Cluster, ClusterOptions};
pub use command::{Finished, run, run_ok};
pub use debian::Packages;
pub use image::{Image, busybox};
pub use lan::{Host, Lan};
pub use wait::{eventually, until};
