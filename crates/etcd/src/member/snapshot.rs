//! Snapshots on their way between members.
//!
//! A snapshot is a checkpoint file. The sender makes it while it goes on; the receiver writes it to a temporary file and
//! reads it back before anything of its own is touched. It then says in its log what is about to happen, gives the
//! file its name, and begins a new log: whatever a crash leaves of this, the next start knows which of the two holds.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::wire::PeerMessage;
use super::{Member, Output};
use crate::checkpoint::{self, Loaded, Producer, Written};
use crate::engine::Shared;
use crate::error::OpenError;
use crate::storage::{File, Storage};
use crate::wal::{AppendError, HardState};

const TEMPORARY: &str = "incoming-";

/// A snapshot to be sent.
pub struct OutgoingSnapshot {
    message: PeerMessage,
    producer: Option<Producer>,
    failed: bool,
}

impl OutgoingSnapshot {
    pub(super) fn new(shared: Arc<Shared>, message: PeerMessage) -> OutgoingSnapshot {
        let producer = Producer::new(shared);
        let wanted = message.snapshot().map(|snapshot| snapshot.index);
        // The message was made in the same step, before anything more was applied.
        let failed = wanted != Some(producer.index());
        OutgoingSnapshot { message, producer: Some(producer), failed }
    }

    /// The receiver.
    pub fn to(&self) -> u64 {
        self.message.to
    }

    /// The message that goes before the content.
    pub fn message(&self) -> &PeerMessage {
        &self.message
    }

    /// The next piece of the content; none at the end, or if there can be no end: see [`OutgoingSnapshot::is_whole`].
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        let producer = self.producer.as_mut().filter(|_| !self.failed)?;
        let mut buffer = Vec::new();
        match producer.next(&mut buffer) {
            Ok(true) => return Some(buffer.into()),
            Ok(false) => {}
            Err(_) => self.failed = true,
        }
        self.producer = None;
        None
    }

    /// Whether everything was given: a member that is itself brought a snapshot meanwhile cannot go on.
    pub fn is_whole(&self) -> bool {
        self.producer.is_none() && !self.failed
    }
}

impl std::fmt::Debug for OutgoingSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutgoingSnapshot").field("message", &self.message).finish_non_exhaustive()
    }
}

/// Takes in a snapshot.
pub struct SnapshotReceiver {
    storage: Arc<dyn Storage>,
    shared: Arc<Shared>,
    file: Option<(Temporary, Box<dyn File>)>,
    offset: u64,
}

/// A file that goes with this value unless it got another name.
struct Temporary {
    storage: Arc<dyn Storage>,
    name: String,
    kept: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            // Left behind, it is removed at the next start.
            let _ = self.storage.remove(&self.name);
        }
    }
}

impl SnapshotReceiver {
    pub(crate) fn new(storage: Arc<dyn Storage>, shared: Arc<Shared>) -> SnapshotReceiver {
        SnapshotReceiver { storage, shared, file: None, offset: 0 }
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// The disk's.
    pub fn push(&mut self, piece: &[u8]) -> io::Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        if self.file.is_none() {
            let name = format!("{TEMPORARY}{}.tmp", NEXT.fetch_add(1, Ordering::Relaxed));
            let file = self.storage.create(&name)?;
            self.file = Some((Temporary { storage: self.storage.clone(), name, kept: false }, file));
        }
        let Some((_, file)) = &mut self.file else { return Ok(()) };
        file.write_at(self.offset, piece)?;
        self.offset += piece.len() as u64;
        Ok(())
    }

    /// Makes it durable and reads it back.
    ///
    /// # Errors
    /// The disk's, or what is wrong with the content.
    pub fn finish(self, message: PeerMessage) -> Result<ReceivedSnapshot, OpenError> {
        let Some((temporary, mut file)) = self.file else {
            return Err(OpenError::corrupt("a snapshot", 0, "there is nothing in it"));
        };
        let path = self.storage.path(&temporary.name);
        file.sync().map_err(OpenError::io("sync", &path))?;
        drop(file);
        let loaded = checkpoint::load_file(&self.storage, &temporary.name)?;
        let position = (loaded.state.applied_index(), loaded.state.applied_term());
        let told = message.snapshot().map(|snapshot| (snapshot.index, snapshot.term));
        if told != Some(position)
            || loaded.cluster_id != self.shared.cluster_id
            || loaded.membership.is_none()
        {
            return Err(OpenError::corrupt(path, 0, "the snapshot is not the one that was announced"));
        }
        Ok(ReceivedSnapshot { message, loaded: Some(Box::new(loaded)), temporary, index: position.0 })
    }
}

/// A snapshot that has arrived whole.
pub struct ReceivedSnapshot {
    pub(super) message: PeerMessage,
    /// Taken when it is installed.
    loaded: Option<Box<Loaded>>,
    temporary: Temporary,
    index: u64,
}

impl ReceivedSnapshot {
    /// Index of the last entry in it.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }
}

impl std::fmt::Debug for ReceivedSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceivedSnapshot").field("message", &self.message).finish_non_exhaustive()
    }
}

/// Removes what crashes have left of snapshots on their way.
pub(super) fn remove_leftovers(storage: &Arc<dyn Storage>) {
    let names = storage.list().unwrap_or_default();
    for name in names.iter().filter(|name| name.starts_with(TEMPORARY)) {
        if let Err(error) = storage.remove(name) {
            tracing::warn!(%error, name, "cannot remove what is left of a snapshot");
        }
    }
}

impl Member {
    /// Puts the incoming snapshot in the place of log and checkpoint.
    pub(super) fn write_snapshot(&mut self, index: u64, hard: HardState) -> Result<(), AppendError> {
        let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.index == index) else {
            return Err(AppendError::Failed(Arc::new(io::Error::other(
                "a snapshot was taken without content",
            ))));
        };
        let term = incoming.message.snapshot().map_or(0, |snapshot| snapshot.term);
        if !incoming.temporary.kept {
            self.wal.announce_install(index, term)?;
            let name = checkpoint::file_name(index);
            let renamed = self.storage.rename(&incoming.temporary.name, &name);
            renamed
                .and_then(|()| self.storage.sync_dir())
                .map_err(|error| AppendError::Failed(Arc::new(error)))?;
            incoming.temporary.kept = true;
        }
        self.wal.set_hard_state(hard);
        self.wal.begin_at(index + 1)
    }

    /// Takes over the state of the snapshot that has been put in place.
    pub(super) fn install_snapshot(&mut self, out: &mut dyn FnMut(Output)) {
        let Some(mut incoming) = self.incoming.take() else { return };
        let Some(loaded) = incoming.loaded.take() else { return };
        let loaded = *loaded;
        let membership = loaded.membership.expect("looked at when it arrived");
        let position = (loaded.state.applied_index(), loaded.state.applied_term());
        tracing::info!(
            index = position.0,
            from = incoming.message.from,
            "a snapshot takes the state's place"
        );
        let alone = membership.is_alone(self.id);
        let learner = membership.get(self.id).is_some_and(|member| member.is_learner);
        let mut wake = Vec::new();
        {
            let mut state = self.shared.state.write();
            let log = self.raft.mut_store();
            log.reset(position);
            log.set_conf(membership.conf_state());
            state.replace(loaded.state);
            *self.shared.membership.write() = membership;
            self.shared.hub.mark_all(&mut wake);
        }
        self.shared.set_standing(alone, learner);
        wake.into_iter().for_each(|signal| signal.wake());
        self.last_checkpoint = Written { index: position.0, bytes: loaded.bytes };
        if let Err(error) = checkpoint::remove_older(&self.storage, position.0) {
            tracing::warn!(%error, "cannot remove an old checkpoint");
        }
        // What was proposed before may be in the snapshot or not: nobody can tell.
        out(Output::Membership);
    }
}
