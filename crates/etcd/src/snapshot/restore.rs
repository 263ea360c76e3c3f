//! A new data directory from a snapshot.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use isopod_kv::Member;
use isopod_mvcc::State;

use super::import::{FIRST_INDEX, FIRST_TERM, Import};
use super::{SnapshotError, read};
use crate::bbolt::Database;
use crate::checkpoint;
use crate::config::Config;
use crate::engine::Shared;
use crate::error::OpenError;
use crate::member::{Membership, cluster_id, member_id};
use crate::storage::{DiskStorage, Storage};
use crate::wal::{Meta, Wal, WalOptions};

/// What `etcdutl snapshot restore` is told.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// The snapshot.
    pub snapshot: PathBuf,
    /// Do without the checksum at the file's end: for a file copied from a data directory, which has none.
    pub skip_hash_check: bool,
    /// By how much the revision is raised, so that no client sees it go back.
    pub bump_revision: u64,
    /// Whether all history before the raised revision counts as compacted: clients that watch then begin anew. Goes
    /// together with `bump_revision`.
    pub mark_compacted: bool,
    /// What makes this cluster another one than that of the snapshot; the same for all members.
    pub cluster_token: String,
    /// All members of the new cluster: name and peer URLs; the same for all members. None stands for this one alone.
    pub members: Vec<(String, Vec<String>)>,
    /// The new member's settings: data directory, name, peer URLs.
    pub config: Config,
}

/// Makes the data directory of a new member of a new cluster.
///
/// # Errors
/// The snapshot is damaged, or the directory is not empty or cannot be written.
pub fn restore(options: &RestoreOptions) -> Result<(), SnapshotError> {
    if options.mark_compacted != (options.bump_revision > 0) {
        let message = "--mark-compacted required if --revision-bump > 0";
        return Err(SnapshotError::Options(message.to_owned()));
    }
    let dir = &options.config.data_dir;
    if std::fs::read_dir(dir).is_ok_and(|mut files| files.next().is_some()) {
        let message = format!("data-dir {:?} not empty or could not be read", dir.display().to_string());
        return Err(SnapshotError::Options(message));
    }
    let bytes = read(&options.snapshot, !options.skip_hash_check)?;
    let mut import = Import::new(&Database::open(&bytes)?)?;
    drop(bytes);
    if options.bump_revision > 0 {
        let by = i64::try_from(options.bump_revision);
        import.bump(by.map_err(|_| SnapshotError::Options("--bump-revision is too large".to_owned()))?)?;
    }
    let members = members(options);
    let own = members.iter().find(|member| member.name == options.config.name).map(|member| member.id);
    let own = own.ok_or_else(|| {
        let name = &options.config.name;
        SnapshotError::Options(format!(
            "couldn't find local name {name:?} in the initial cluster configuration"
        ))
    })?;
    write(import.into_state()?, members, own, options)
}

fn write(
    state: State,
    members: Vec<Member>,
    own: u64,
    options: &RestoreOptions,
) -> Result<(), SnapshotError> {
    let dir = &options.config.data_dir;
    let failed = |operation| OpenError::io(operation, dir.display().to_string());
    let storage: Arc<dyn Storage> = Arc::new(DiskStorage::open(dir).map_err(failed("create"))?);
    let ids: Vec<u64> = members.iter().map(|member| member.id).collect();
    let cluster_id = cluster_id(&ids);
    // The checkpoint first: without a log it is refused, and cannot be taken for a store.
    let shared = Shared::new(state, Membership::new(members), (cluster_id, own), options.config.clone());
    checkpoint::write(&storage, &Arc::new(shared), &AtomicBool::new(false))
        .map_err(failed("write a checkpoint in"))?;
    let wal = WalOptions { segment_bytes: options.config.segment_bytes, fsync: options.config.fsync };
    let (first_index, term, commit) = (FIRST_INDEX + 1, FIRST_TERM, FIRST_INDEX);
    let meta = Meta { cluster_id, member_id: own, first_index, term, vote: 0, commit, origin: None };
    Wal::create(storage, wal, meta).map_err(failed("begin a log in"))?;
    Ok(())
}

/// The members, with IDs that every one of them finds for itself.
fn members(options: &RestoreOptions) -> Vec<Member> {
    let alone = [(options.config.name.clone(), options.config.peer_urls.clone())];
    let all = if options.members.is_empty() { &alone[..] } else { &options.members };
    let member = |(name, urls): &(String, Vec<String>)| {
        let mut urls = urls.clone();
        urls.sort_unstable();
        let id = member_id(&urls, &options.cluster_token);
        Member { id, name: name.clone(), peer_urls: urls, ..Member::default() }
    };
    all.iter().map(member).collect()
}
