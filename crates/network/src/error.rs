//! What can go wrong in the pod network, by the operation that failed.

use std::net::IpAddr;
use std::path::PathBuf;

/// A failure of the pod network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node has no pod range yet. Retry: it comes with the node object.
    #[error("network is not ready: this node has no pod CIDR yet")]
    NoPodCidr,
    /// The pod range is used up.
    #[error("no free address in {0}")]
    Exhausted(ipnet::IpNet),
    /// A range that is no use for pods.
    #[error("pod CIDR {0:?} is invalid: {1}")]
    BadCidr(String, &'static str),
    /// Two pods want one port of the node.
    #[error("host port {protocol}/{port} is already used by pod {holder}")]
    HostPortTaken {
        /// Transport protocol.
        protocol: &'static str,
        /// The port.
        port: u16,
        /// `namespace/name` of the pod that has it.
        holder: String,
    },
    /// A netlink request failed.
    #[error("{operation}")]
    Netlink {
        /// What was attempted.
        operation: String,
        /// The kernel's answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// A link that should exist does not.
    #[error("link {0} does not exist")]
    NoLink(String),
    /// A file or kernel setting could not be read or written.
    #[error("{operation} {path}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The network namespace could not be entered, or the work in it failed.
    #[error("network namespace {path}")]
    Netns {
        /// The namespace.
        path: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// `nft` is missing or refused the rules.
    #[error("nft: {0}")]
    Nft(String),
    /// An address that is recorded for one sandbox is claimed by another.
    #[error("address {0} is already recorded")]
    AddressRecorded(IpAddr),
}

impl Error {
    pub(crate) fn netlink(operation: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let operation = operation.into();
        move |source| Self::Netlink { operation, source }
    }

    pub(crate) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }

    /// The message with those of all causes.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}

impl From<Error> for isopod_cri::Error {
    fn from(error: Error) -> Self {
        let text = error.report();
        match error {
            Error::NoPodCidr => Self::unavailable(text),
            Error::Exhausted(_) => Self::resource_exhausted(text),
            Error::BadCidr(..) => Self::invalid_argument(text),
            Error::HostPortTaken { .. } => Self::already_exists(text),
            _ => Self::internal(text),
        }
    }
}
