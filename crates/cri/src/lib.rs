//! The Container Runtime Interface (CRI v1): messages, and the traits that a runtime offers to a kubelet.
//!
//! The built-in runtime implements the traits in-process; [`grpc::connect`] implements them for any runtime
//! behind a unix socket, and [`grpc::serve`] offers an implementation of them on a unix socket to `crictl`
//! and to upstream's kubelet. Callers cannot tell which one they hold.

mod error;
pub mod grpc;
mod network;
mod service;
mod streaming;
pub mod v1;

pub use error::{Code, Error};
pub use network::{HostPort, NoPodNetwork, PodNetwork, PodNetworkRequest};
pub use service::{EventStream, ImageService, RuntimeService};
pub use streaming::{BoxedIo, Io, StreamingDial, TcpDial};

/// Annotation of a container's configuration by which our kubelet tells our runtime what it found when it checked
/// the sources of mounts: a JSON object from the path in the container to device and inode of the source. A source
/// that is another one by then is not mounted. Other runtimes take no notice.
pub const MOUNT_IDENTITIES: &str = "isopod.dev/mount-identities";
