//! What peers say, looked at before Raft sees it.
//!
//! Raft trusts its peers, and ends the process when they contradict what it knows. A peer may have lost its disk, be of
//! another version, or mean ill: what could not come from a sound one is dropped here.

use raft::eraftpb::{Message, MessageType};

use super::wire::{Body, PeerMessage};
use super::{Member, Output, ReceivedSnapshot};

impl Member {
    pub(super) fn receive(&mut self, message: PeerMessage, out: &mut dyn FnMut(Output)) {
        let PeerMessage { from, to, body } = message;
        let removed = self.shared.membership.read().is_removed(from);
        if self.is_out()
            || self.unwritten.is_some()
            || to != self.id
            || from == 0
            || from == self.id
            || removed
        {
            return;
        }
        self.hear(from);
        match body {
            Some(Body::Raft(raft)) => {
                let Some(message) = raft.into_raft(from, to) else { return };
                match message.get_msg_type() {
                    // It comes with its content, or not at all.
                    MessageType::MsgSnapshot => {}
                    // Whoever asked asks again when it knows who leads.
                    MessageType::MsgReadIndex if !self.is_leader() => {}
                    _ => self.step_raft(message, out),
                }
            }
            Some(Body::Propose(propose)) => self.receive_proposals(from, propose, out),
            Some(Body::Refused(refused)) => self.receive_refusal(refused, out),
            Some(Body::KeepAlive(question)) => self.receive_question(from, question, true, out),
            Some(Body::TimeToLive(question)) => self.receive_question(from, question, false, out),
            Some(Body::KeptAlive(answer) | Body::Remaining(answer)) => self.receive_answer(answer, out),
            None => {}
        }
    }

    pub(super) fn receive_snapshot(&mut self, snapshot: ReceivedSnapshot, out: &mut dyn FnMut(Output)) {
        let PeerMessage { from, to, body } = snapshot.message.clone();
        if self.is_out() || self.unwritten.is_some() || to != self.id || from == 0 || from == self.id {
            return;
        }
        self.hear(from);
        let Some(Body::Raft(raft)) = body else { return };
        let Some(message) = raft.into_raft(from, to) else { return };
        // Raft takes what it wants before: nothing may come between the message and its snapshot.
        self.ready(out);
        if self.unwritten.is_some() || snapshot.index() <= self.shared.state.read().applied_index() {
            return;
        }
        self.incoming = Some(snapshot);
        self.step_raft(message, out);
        self.ready(out);
        if self.unwritten.is_none() {
            // Raft did not want it.
            self.incoming = None;
        }
    }

    fn hear(&mut self, from: u64) {
        if self.shared.membership.read().get(from).is_some() {
            self.heard.insert(from, self.ticks);
        }
    }

    fn step_raft(&mut self, message: Message, out: &mut dyn FnMut(Output)) {
        if !self.is_sound(&message) {
            tracing::warn!(
                from = message.from,
                kind = ?message.get_msg_type(),
                index = message.index,
                "a peer's message contradicts what this member knows: dropped"
            );
            return;
        }
        // A snapshot that Raft has taken in must be in place before anything else can be judged.
        if self.raft.snap().is_some() {
            self.ready(out);
            if self.unwritten.is_some() {
                return;
            }
        }
        if let Err(error) = self.raft.step(message) {
            tracing::debug!(%error, "Raft does not take a peer's message");
        }
    }

    /// Whether Raft can take a message without contradicting itself.
    fn is_sound(&self, message: &Message) -> bool {
        let log = &self.raft.raft.raft_log;
        let last = log.last_index();
        let kind = message.get_msg_type();
        if matches!(kind, MessageType::MsgReadIndex) {
            return message.entries.len() == 1 && message.term == 0;
        }
        if message.term < self.term() {
            // Answered or ignored whatever else it says; a term of zero would pass for a message of this member's own.
            return message.term > 0;
        }
        match kind {
            // Raft takes the term zero for the one of every index that it does not have.
            MessageType::MsgAppend if message.log_term == 0 && message.index > 0 => false,
            MessageType::MsgAppend => {
                let mut previous = (message.index, message.log_term);
                message.entries.iter().all(|entry| {
                    let follows = entry.index == previous.0 + 1
                        && entry.term >= previous.1
                        && entry.term <= message.term
                        && entry.data.len() < crate::config::MAX_RECORD_BYTES - 64;
                    previous = (entry.index, entry.term);
                    let committed = entry.index <= log.committed && entry.index >= log.first_index();
                    let agrees = !committed || log.term(entry.index).is_ok_and(|term| term == entry.term);
                    follows && agrees
                })
            }
            MessageType::MsgHeartbeat => message.commit <= last,
            MessageType::MsgAppendResponse => {
                // A rejection names what was sent and what there is.
                message.index <= last && (!message.reject || message.request_snapshot == 0)
            }
            MessageType::MsgReadIndexResp => message.entries.len() == 1,
            MessageType::MsgSnapshot => {
                let metadata = message.get_snapshot().get_metadata();
                metadata.index > 0 && !metadata.get_conf_state().voters.is_empty()
            }
            _ => true,
        }
    }
}
