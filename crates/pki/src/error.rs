//! What can go wrong with keys and certificates.

use std::io;
use std::path::PathBuf;

/// A failure, naming the file it concerns.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file's content is not what it must be.
    #[error("{path} is corrupt: {reason}; restore it from a backup, or remove it to have it made anew")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key do not belong together.
    #[error("{cert} and {key} do not belong together; restore them from a backup, or remove both")]
    Mismatch {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// A certificate could not be made.
    #[error("make certificate for {subject}")]
    Make {
        /// Whom it names.
        subject: String,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
    /// A certificate request is not well formed or badly signed.
    #[error("certificate request is unusable: {0}")]
    Request(String),
    /// A TLS configuration could not be made.
    #[error("{what} cannot be used for TLS: {reason}")]
    Tls {
        /// Of which part.
        what: &'static str,
        /// Why.
        reason: String,
    },
}
