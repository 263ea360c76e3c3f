//! The kubelet: registers this machine as a node, and makes the pods bound to it run.
//!
//! One worker a pod ([`pods`]) plans by `isopod-podplan` and acts through CRI. Whatever concerns a pod only
//! wakes its worker, so nothing is polled while nothing happens. Speaks Kubernetes REST and CRI, nothing else.
//!
//! Invariants: a restart of the kubelet stops no container; a pod is taken out of the API only after nothing
//! of it is left to run; what a container may write is only touched by descriptor.

mod cgroups;
mod config;
mod container_config;
mod credentials;
mod downward;
mod environment;
mod eviction;
mod grpc_health;
mod hooks;
mod http_call;
mod image_gc;
mod images;
mod kubelet;
mod labels;
mod logs;
mod metrics;
mod node;
mod objects;
mod observe;
mod pods;
mod probes;
mod runtime_events;
mod sandbox_config;
mod security;
mod server;
mod start;
mod tokens;
mod volumes;
mod watch_dir;

pub use config::{Config, Eviction, ImageGc, Tls};
pub use node::facts::KUBELET_VERSION;
pub use start::{PodCidrObserver, run};

/// Why the kubelet cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration makes no sense.
    #[error("kubelet configuration: {0}")]
    Config(String),
    /// The port of the HTTPS server is taken, or may not be used.
    #[error("listen on {address}")]
    Listen {
        /// Address and port.
        address: std::net::SocketAddr,
        /// What the kernel says.
        #[source]
        source: std::io::Error,
    },
    /// A directory cannot be made.
    #[error("create {path}")]
    Directory {
        /// The directory.
        path: std::path::PathBuf,
        /// What the kernel says.
        #[source]
        source: std::io::Error,
    },
    /// Certificates or authorities cannot be used.
    #[error("kubelet TLS: {0}")]
    Tls(String),
    /// The cgroups above pods' cannot be made.
    #[error("set up cgroups")]
    Cgroups(#[source] std::io::Error),
}
