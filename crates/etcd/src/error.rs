//! Why a data directory cannot be opened.

use std::io;

/// A failure to open the store. The files are as they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process uses the directory.
    #[error("data directory {dir} is in use by another process")]
    Locked {
        /// The directory.
        dir: String,
    },
    /// A setting makes no sense.
    #[error("invalid configuration: {0}")]
    Config(String),
    /// An operation on a file failed.
    #[error("cannot {operation} {file}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file or directory.
        file: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A file's content is not what was written.
    #[error("{file} is corrupt at offset {offset}: {reason}; nothing was changed, restore from a backup")]
    Corrupt {
        /// The file.
        file: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// A file was written by a newer version.
    #[error(
        "{file} has format version {found}, this program reads versions up to {supported}; use a newer one"
    )]
    Newer {
        /// The file.
        file: String,
        /// Its version.
        found: u32,
        /// The newest version that this program reads.
        supported: u32,
    },
}

impl OpenError {
    pub(crate) fn io(
        operation: &'static str,
        file: impl Into<String>,
    ) -> impl FnOnce(io::Error) -> OpenError {
        let file = file.into();
        move |source| OpenError::Io { operation, file, source }
    }

    pub(crate) fn corrupt(file: impl Into<String>, offset: u64, reason: impl Into<String>) -> OpenError {
        OpenError::Corrupt { file: file.into(), offset, reason: reason.into() }
    }
}
