//! What a CRI call can fail with: a gRPC status code and a message.

use std::fmt;

/// The gRPC status codes that runtimes answer with and callers act upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// A field of the request does not make sense.
    InvalidArgument,
    /// The sandbox, container or image is not there; callers treat this as success when they remove.
    NotFound,
    /// An object of that name exists.
    AlreadyExists,
    /// The object is not in the state that the call needs.
    FailedPrecondition,
    /// The caller may not do this, or a registry refused its credentials.
    PermissionDenied,
    /// A limit was reached.
    ResourceExhausted,
    /// The runtime does not have this call.
    Unimplemented,
    /// The runtime cannot be reached; trying again may help.
    Unavailable,
    /// The call took longer than its limit.
    DeadlineExceeded,
    /// The caller went away.
    Cancelled,
    /// Anything else.
    Unknown,
    /// An invariant of the runtime is broken.
    Internal,
}

/// A failed CRI call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The class of the failure.
    pub code: Code,
    /// What failed and why; never contains credentials.
    pub message: String,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $code:ident),* $(,)?) => {
        $($(#[$doc])* pub fn $name(message: impl fmt::Display) -> Self {
            Self { code: Code::$code, message: message.to_string() }
        })*
    };
}

impl Error {
    constructors! {
        /// [`Code::InvalidArgument`].
        invalid_argument => InvalidArgument,
        /// [`Code::NotFound`].
        not_found => NotFound,
        /// [`Code::AlreadyExists`].
        already_exists => AlreadyExists,
        /// [`Code::FailedPrecondition`].
        failed_precondition => FailedPrecondition,
        /// [`Code::PermissionDenied`].
        permission_denied => PermissionDenied,
        /// [`Code::ResourceExhausted`].
        resource_exhausted => ResourceExhausted,
        /// [`Code::Unimplemented`].
        unimplemented => Unimplemented,
        /// [`Code::Unavailable`].
        unavailable => Unavailable,
        /// [`Code::DeadlineExceeded`].
        deadline_exceeded => DeadlineExceeded,
        /// [`Code::Unknown`].
        unknown => Unknown,
        /// [`Code::Internal`].
        internal => Internal,
    }

    /// Whether the object was not there.
    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }

    /// The same failure with what was being done put before the message.
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        let code = match status.code() {
            tonic::Code::InvalidArgument | tonic::Code::OutOfRange => Code::InvalidArgument,
            tonic::Code::NotFound => Code::NotFound,
            tonic::Code::AlreadyExists => Code::AlreadyExists,
            tonic::Code::FailedPrecondition | tonic::Code::Aborted => Code::FailedPrecondition,
            tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => Code::PermissionDenied,
            tonic::Code::ResourceExhausted => Code::ResourceExhausted,
            tonic::Code::Unimplemented => Code::Unimplemented,
            tonic::Code::Unavailable => Code::Unavailable,
            tonic::Code::DeadlineExceeded => Code::DeadlineExceeded,
            tonic::Code::Cancelled => Code::Cancelled,
            tonic::Code::Internal | tonic::Code::DataLoss => Code::Internal,
            tonic::Code::Ok | tonic::Code::Unknown => Code::Unknown,
        };
        Self { code, message: status.message().to_owned() }
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        let code = match error.code {
            Code::InvalidArgument => tonic::Code::InvalidArgument,
            Code::NotFound => tonic::Code::NotFound,
            Code::AlreadyExists => tonic::Code::AlreadyExists,
            Code::FailedPrecondition => tonic::Code::FailedPrecondition,
            Code::PermissionDenied => tonic::Code::PermissionDenied,
            Code::ResourceExhausted => tonic::Code::ResourceExhausted,
            Code::Unimplemented => tonic::Code::Unimplemented,
            Code::Unavailable => tonic::Code::Unavailable,
            Code::DeadlineExceeded => tonic::Code::DeadlineExceeded,
            Code::Cancelled => tonic::Code::Cancelled,
            Code::Unknown => tonic::Code::Unknown,
            Code::Internal => tonic::Code::Internal,
        };
        tonic::Status::new(code, error.message)
    }
}
