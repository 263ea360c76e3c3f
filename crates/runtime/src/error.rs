//! What can fail in the runtime, and how it appears to a CRI client.

use std::io;

use isopod_cri::Code;

/// A failure of the runtime.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation of the kernel failed.
    #[error("{what}: {source}")]
    Io {
        /// The operation with its object.
        what: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The input (an image, a request, a stored record) is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The image, sandbox or container is not there.
    #[error("{0}")]
    NotFound(String),
    /// The object is not in the state that the operation needs.
    #[error("{0}")]
    Precondition(String),
    /// A registry could not be used.
    #[error("{0}")]
    Registry(String),
    /// A registry refused the credentials, or wants some.
    #[error("{0}")]
    Unauthorized(String),
    /// A limit of the runtime was reached.
    #[error("{0}")]
    TooLarge(String),
    /// A shim could not be reached or refused.
    #[error("{0}")]
    Shim(String),
    /// The operation took longer than its limit.
    #[error("{0}")]
    Timeout(String),
}

impl Error {
    /// An [`Error::Invalid`] of anything that can be shown.
    pub fn invalid(message: impl std::fmt::Display) -> Self {
        Self::Invalid(message.to_string())
    }
}

impl From<Error> for isopod_cri::Error {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Io { .. } | Error::Registry(_) | Error::Shim(_) => Code::Unknown,
            Error::Invalid(_) => Code::InvalidArgument,
            Error::NotFound(_) => Code::NotFound,
            Error::Precondition(_) => Code::FailedPrecondition,
            Error::Unauthorized(_) => Code::PermissionDenied,
            Error::TooLarge(_) => Code::ResourceExhausted,
            Error::Timeout(_) => Code::DeadlineExceeded,
        };
        Self { code, message: error.to_string() }
    }
}

/// Names the operation in the error of a system call.
pub(crate) trait Context<T> {
    /// `what` says the operation and its object.
    fn what(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Context<T> for io::Result<T> {
    fn what(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Io { what: what(), source })
    }
}

impl<T> Context<T> for nix::Result<T> {
    fn what(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|e| Error::Io { what: what(), source: e.into() })
    }
}
