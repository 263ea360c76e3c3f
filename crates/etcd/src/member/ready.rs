//! What Raft wants done, in the order in which it is safe.

use raft::eraftpb::{Entry, Message, MessageType};
use raft::{LightReady, Ready};
use slog::{Drain, o};

use super::wire::PeerMessage;
use super::{Member, OutgoingSnapshot, Output, out_of_order};
use crate::wal::{AppendError, HardState};

/// Entries kept for followers, in bytes; as many as make a snapshot not much dearer than they are.
const CATCH_UP_BYTES: usize = 64 << 20;

/// What is to be written before anything else happens.
pub(super) struct Unwritten {
    ready: Ready,
    /// Messages that wait for it though Raft does not ask for that.
    messages: Vec<Message>,
}

/// Raft's own log is of no use to operators; what matters of it is logged where it is told.
pub(super) fn logger() -> slog::Logger {
    slog::Logger::root(slog::Discard.fuse(), o!())
}

impl Member {
    /// Does all that Raft wants done, until it wants nothing more or the disk takes nothing more.
    pub(super) fn ready(&mut self, out: &mut dyn FnMut(Output)) {
        while self.failed.is_none() && self.unwritten.is_none() && self.raft.has_ready() {
            let mut ready = self.raft.ready();
            let mut messages = ready.take_messages();
            // A leader's appends need not wait for its own disk. But the only voter of a group becomes leader without
            // asking anyone: what it says in a term that a crash could make it forget has to wait.
            let hard = self.wal.hard_state();
            let known = ready.hs().is_none_or(|hs| (hs.term, hs.vote) == (hard.term, hard.vote));
            if known {
                self.send(std::mem::take(&mut messages), out);
            }
            self.unwritten = Some(Unwritten { ready, messages });
            self.write_and_go_on(out);
        }
    }

    /// Tries again what a full disk did not take.
    pub(super) fn retry_unwritten(&mut self, out: &mut dyn FnMut(Output)) {
        if self.unwritten.is_some() && self.failed.is_none() {
            self.write_and_go_on(out);
        }
    }

    fn write_and_go_on(&mut self, out: &mut dyn FnMut(Output)) {
        let Some(Unwritten { ready, messages }) = self.unwritten.take() else { return };
        match self.write(&ready) {
            Ok(()) => self.shared.set_disk_full(false),
            Err(AppendError::Full) => {
                self.shared.set_disk_full(true);
                self.unwritten = Some(Unwritten { ready, messages });
                return;
            }
            Err(error) => return self.fail(error.to_string()),
        }
        self.go_on(ready, messages, out);
    }

    /// Makes entries, vote and term durable, and puts a snapshot into its place.
    fn write(&mut self, ready: &Ready) -> Result<(), AppendError> {
        let raft = self.raft.raft.hard_state();
        let hard = HardState { term: raft.term, vote: raft.vote, commit: raft.commit };
        if !ready.snapshot().is_empty() {
            self.write_snapshot(ready.snapshot().get_metadata().index, hard)?;
        }
        let entries = ready.entries();
        let skip = entries.iter().take_while(|entry| entry.index <= self.written).count();
        self.written = 0;
        let entries = &entries[skip..];
        let old = self.wal.hard_state();
        let voted = (hard.term, hard.vote) != (old.term, old.vote);
        if entries.is_empty() && !voted {
            return Ok(());
        }
        // How much is committed is only a hint, which costs nothing where something is written anyway; of a group of
        // one, everything is.
        let noted = voted || (hard.commit != old.commit && !self.is_alone());
        self.wal.append(entries, noted.then_some(hard))
    }

    fn go_on(&mut self, mut ready: Ready, mut messages: Vec<Message>, out: &mut dyn FnMut(Output)) {
        if !ready.snapshot().is_empty() {
            self.install_snapshot(out);
        }
        let entries = ready.take_entries();
        self.raft.mut_store().append(entries);
        messages.extend(ready.take_persisted_messages());
        self.send(messages, out);
        for read in ready.take_read_states() {
            self.reads.confirm(&read.request_ctx, read.index);
        }
        let committed = ready.take_committed_entries();
        // First, since Raft looks for itself among the members, which a leader that applies its own removal is not.
        let mut light = self.raft.advance_append(ready);
        // Before anything is applied: a snapshot among them is of the state as it is now.
        self.send(light.take_messages(), out);
        self.apply(committed, out);
        if self.failed.is_some() {
            return;
        }
        self.finish(light, out);
    }

    fn finish(&mut self, mut light: LightReady, out: &mut dyn FnMut(Output)) {
        self.send(light.take_messages(), out);
        self.apply(light.take_committed_entries(), out);
        if self.failed.is_some() {
            return;
        }
        self.raft.advance_apply();
        self.finish_reads(out);
        self.trim();
    }

    /// Drops entries that nobody needs.
    fn trim(&mut self) {
        let count = self.shared.config.catch_up_entries;
        let alone = self.is_alone();
        let leads = self.is_leader();
        let id = self.id;
        let matched = self.raft.raft.prs().iter().filter(|(peer, _)| **peer != id).map(|(_, pr)| pr.matched);
        let needed = matched.min().filter(|_| leads).map_or(u64::MAX, |matched| matched + 1);
        let (count, bytes) = if alone { (0, 0) } else { (count, CATCH_UP_BYTES) };
        self.raft.mut_store().trim(count, bytes, needed);
    }

    pub(super) fn send(&mut self, messages: Vec<Message>, out: &mut dyn FnMut(Output)) {
        for message in messages {
            let to = message.to;
            let snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
            // Local messages do not leave Raft.
            let Some(message) = PeerMessage::raft(message) else { continue };
            match snapshot {
                true => out(Output::Snapshot(OutgoingSnapshot::new(self.shared.clone(), message))),
                false => out(Output::Send { to, message }),
            }
        }
    }

    /// Puts entries into the log of a group of one before Raft sees them, so that a full disk can refuse them.
    ///
    /// # Errors
    /// None of them is in the log then.
    pub(super) fn write_ahead(&mut self, entries: &mut [Entry]) -> Result<(), AppendError> {
        let (last, term) = (self.raft.raft.raft_log.last_index(), self.term());
        for (index, entry) in (last + 1..).zip(entries.iter_mut()) {
            (entry.index, entry.term) = (index, term);
        }
        match self.wal.append(entries, None) {
            Ok(()) => {
                self.written = last + entries.len() as u64;
                self.shared.set_disk_full(false);
                Ok(())
            }
            Err(AppendError::Full) => {
                self.shared.set_disk_full(true);
                Err(AppendError::Full)
            }
            Err(error) => {
                self.fail(error.to_string());
                Err(error)
            }
        }
    }

    /// Ends everything that waits, of a member that takes no part any more.
    pub(super) fn refuse_all(&mut self, out: &mut dyn FnMut(Output)) {
        let error = match (&self.failed, self.removed) {
            (Some(reason), _) => out_of_order(reason),
            (None, _) => isopod_kv::Error::Stopped,
        };
        let pending = std::mem::take(&mut self.pending).into_values().filter_map(|pending| pending.ticket);
        let questions = std::mem::take(&mut self.questions).into_values().map(|question| question.ticket);
        let mut tickets: Vec<_> = pending.chain(questions).collect();
        tickets.extend(self.moving.take().map(|(ticket, ..)| ticket));
        self.unsent.clear();
        self.refused.clear();
        for ticket in tickets {
            out(Output::Done { ticket, result: Err(error.clone()) });
        }
        self.refuse_reads(&error, out);
    }
}
