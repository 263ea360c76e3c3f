//! Snapshots in etcd's own form: a bbolt file, as `etcdctl snapshot save` writes it, with its SHA-256 at the end.
//!
//! A store of ours hands out such files ([`export`]), so that etcd's tools check and restore them, and takes in those
//! of an etcd ([`restore`]), so that a cluster can move in.

mod buckets;
mod export;
mod import;
mod restore;
mod status;

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub(crate) use export::write as write_snapshot;
pub use restore::{RestoreOptions, restore};
pub use status::{FileHash, FileStatus, hash_kv, status};

/// Reads all of a snapshot as restoring it would, without its checksum, and keeps nothing.
///
/// # Errors
/// The snapshot is damaged.
pub fn check(bytes: &[u8]) -> Result<(), SnapshotError> {
    import::Import::new(&Database::open(bytes)?)?.into_state().map(drop)
}

use crate::bbolt::{BboltError, Database};
use crate::error::OpenError;

/// A checksum follows the pages if the file is longer than they by this much, as etcd decides it.
const SECTOR_BYTES: usize = 512;
const HASH_BYTES: usize = 32;

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The file cannot be read.
    #[error("cannot read {file}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file has no checksum: a copy of a data directory's file has none.
    #[error("snapshot missing hash but --skip-hash-check=false")]
    NoHash,
    /// The file is not what was saved.
    #[error("expected sha256 {expected}, got {found}: the snapshot is damaged")]
    WrongHash {
        /// From the file's end.
        expected: String,
        /// Of the file.
        found: String,
    },
    /// The file's pages are damaged.
    #[error("the snapshot is damaged: {0}")]
    Damaged(String),
    /// A revision that the snapshot does not have.
    #[error("{0}")]
    Revision(isopod_kv::Error),
    /// Options that do not go together.
    #[error("{0}")]
    Options(String),
    /// The new data directory cannot be written.
    #[error(transparent)]
    Write(#[from] OpenError),
}

impl From<BboltError> for SnapshotError {
    fn from(error: BboltError) -> SnapshotError {
        SnapshotError::Damaged(error.to_string())
    }
}

fn damaged(reason: impl Into<String>) -> SnapshotError {
    SnapshotError::Damaged(reason.into())
}

/// Reads a file; without its checksum, which is checked if it is asked for.
fn read(path: &Path, check_hash: bool) -> Result<Vec<u8>, SnapshotError> {
    let mut bytes =
        std::fs::read(path).map_err(|source| SnapshotError::Read { file: path.to_owned(), source })?;
    let has_hash = bytes.len() % SECTOR_BYTES == HASH_BYTES;
    if !has_hash {
        return if check_hash { Err(SnapshotError::NoHash) } else { Ok(bytes) };
    }
    let expected = bytes.split_off(bytes.len() - HASH_BYTES);
    if check_hash {
        let found = Sha256::digest(&bytes);
        if found[..] != expected[..] {
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            return Err(SnapshotError::WrongHash { expected: hex(&expected), found: hex(&found) });
        }
    }
    Ok(bytes)
}
