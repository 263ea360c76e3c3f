//! Backups: the state of a moment as a snapshot file of etcd's form, while the store goes on.

use bytes::Bytes;
use isopod_mvcc::{Header, Record};
use std::sync::Arc;
use tokio::sync::mpsc;

use super::{Engine, Shared};

/// Pieces of a backup that may wait for a slow client; each is a megabyte or so.
const BACKUP_QUEUE: usize = 2;
/// Keys looked at under one hold of the state's lock.
const KEYS_PER_STEP: usize = 1000;

impl Engine {
    /// The state now, as the pieces of a file that etcd's tools and ours restore, ended by its SHA-256. A reader that
    /// goes away ends it.
    pub fn backup(&self) -> mpsc::Receiver<Bytes> {
        let (pieces, receiver) = mpsc::channel(BACKUP_QUEUE);
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || {
            let (header, records) = collect(&shared);
            // Nothing was freed meanwhile.
            shared.queue.nudge();
            crate::snapshot::write_snapshot(&header, records, &mut |piece| {
                pieces.blocking_send(piece.into()).is_ok()
            });
        });
        receiver
    }
}

/// All versions of all keys. They are shared with the state: what is collected is where they are.
fn collect(shared: &Shared) -> (Header, Vec<Arc<Record>>) {
    loop {
        let mut cursor = shared.state.write().begin_snapshot();
        let mut records = Vec::new();
        let whole = loop {
            let state = shared.state.read();
            if !cursor.is_valid(&state) {
                break false;
            }
            match cursor.next(&state, KEYS_PER_STEP) {
                Some(more) => records.extend(more),
                None => break true,
            }
        };
        let header = cursor.header().clone();
        shared.state.write().end_snapshot(cursor);
        // This member may have been brought up to date by a snapshot from another: begin anew with that.
        if whole {
            return (header, records);
        }
    }
}
