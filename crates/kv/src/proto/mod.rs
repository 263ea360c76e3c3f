//! etcd's v3 messages, by service. All are re-exported flat, since their names are unique.

mod auth;
mod cluster;
mod concurrency;
mod kv;
mod lease;
mod maintenance;
mod watch;

pub use auth::*;
pub use cluster::*;
pub use concurrency::*;
pub use kv::*;
pub use lease::*;
pub use maintenance::*;
pub use watch::*;
