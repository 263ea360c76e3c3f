//! From committed entries to the state.

use std::sync::Arc;

use isopod_kv::Error;
use isopod_mvcc::{Applied, Command, Op, State};
use prost::Message;
use raft::eraftpb::{ConfChange, ConfChangeType, Entry, EntryType};

use super::membership::{Change, StoredChange};
use super::proposal::{Payload, Proposal};
use super::{Member, Outcome, Output};
use crate::engine::Signal;

/// Entries applied under one hold of the state's lock: how long a batch keeps readers out.
const APPLY_STEP: usize = 64;

/// Raft's record of a change of membership, tag for tag, with the proposal as its context. Read here rather than by
/// Raft's own means, which are not meant for data from elsewhere.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
struct Reconfiguration {
    #[prost(int32, tag = "2")]
    change_type: i32,
    #[prost(uint64, tag = "3")]
    node_id: u64,
    #[prost(bytes = "bytes", tag = "4")]
    proposal: bytes::Bytes,
}

/// What an entry carries; nothing in the entry with which a leader begins its term.
pub(super) fn content(entry: &Entry) -> Result<Option<Proposal>, String> {
    if entry.get_entry_type() != EntryType::EntryNormal {
        let change = Reconfiguration::decode(&entry.data[..])
            .map_err(|error| format!("a change of membership does not decode: {error}"))?;
        return Proposal::decode(&change.proposal).map(Some);
    }
    if entry.data.is_empty() { Ok(None) } else { Proposal::decode(&entry.data).map(Some) }
}

/// Raft's part of a change.
pub(super) fn reconfiguration(change: &Change, proposal: bytes::Bytes) -> Option<ConfChange> {
    let kind = match change {
        Change::Add(member) if member.is_learner => ConfChangeType::AddLearnerNode,
        Change::Add(_) | Change::Promote(_) => ConfChangeType::AddNode,
        Change::Remove(_) => ConfChangeType::RemoveNode,
        Change::Update(_) | Change::Publish(_) => return None,
    };
    let mut raft = ConfChange { node_id: change.member_id(), context: proposal, ..ConfChange::default() };
    raft.set_change_type(kind);
    Some(raft)
}

impl Member {
    pub(super) fn apply(&mut self, entries: Vec<Entry>, out: &mut dyn FnMut(Output)) {
        let shared = self.shared.clone();
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() && self.failed.is_none() {
            let (mut wake, mut outputs) = (Vec::new(), Vec::new());
            let mut state = shared.state.write();
            for entry in entries.by_ref().take(APPLY_STEP) {
                if let Err(reason) = self.apply_entry(&mut state, entry, &mut wake, &mut outputs) {
                    self.fail(reason);
                    break;
                }
            }
            drop(state);
            wake.into_iter().for_each(|signal| signal.wake());
            outputs.into_iter().for_each(&mut *out);
        }
        if self.removed.is_some() && self.is_leader() {
            // Raft looks for a leader among the members and does not find this one any more. What the others have to
            // know of the removal was sent when it was committed.
            let term = self.term();
            self.raft.raft.become_follower(term, raft::INVALID_ID);
        }
    }

    fn apply_entry(
        &mut self,
        state: &mut State,
        entry: Entry,
        wake: &mut Vec<Arc<Signal>>,
        outputs: &mut Vec<Output>,
    ) -> Result<(), String> {
        let (index, term) = (entry.index, entry.term);
        let (command, change, sequence) = self.open_entry(&entry)?;
        let revoked = match &command.op {
            Some(Op::LeaseRevoke(request)) => Some(request.id),
            _ => None,
        };
        let applied = state.apply(index, term, command);
        self.raft.mut_store().set_applied(index, term);
        crate::metrics::COMMITTED.inc();
        crate::metrics::APPLIED.inc();
        if let Some(revision) = applied.changed {
            // Marked while readers are kept out: who sees the revision also sees the mark.
            self.shared.hub.mark(state, revision, wake);
        }
        self.shared.follow_token(&applied.reply, self.now);
        if self.shared.is_leader() {
            self.shared.follow_lease(&applied.reply, revoked, self.now);
        }
        let result = match change {
            Some(change) => self.apply_change(change, outputs).map(Outcome::Members),
            None => {
                let Applied { reply, .. } = applied;
                reply.map(Outcome::Applied)
            }
        };
        if let Some(ticket) = sequence.and_then(|sequence| self.pending.remove(&sequence)?.ticket) {
            outputs.push(Output::Done { ticket, result });
        }
        Ok(())
    }

    /// Command or change, and the sequence of a proposal of this member's.
    fn open_entry(&mut self, entry: &Entry) -> Result<(Command, Option<Change>, Option<u64>), String> {
        let simple = entry.get_entry_type() == EntryType::EntryNormal;
        if let Some((origin, sequence)) = simple.then(|| Proposal::head(&entry.data)).flatten()
            && origin == self.id
            && let Some(command) = self.pending.get_mut(&sequence).and_then(|pending| pending.command.take())
        {
            return Ok((command, None, Some(sequence)));
        }
        Ok(match content(entry)? {
            None => (Command::default(), None, None),
            Some(Proposal { origin, sequence, payload }) => {
                let sequence = (origin == self.id).then_some(sequence);
                match payload {
                    Payload::Command(command) => (command, None, sequence),
                    Payload::Change(StoredChange { change }) => (Command::default(), change, sequence),
                }
            }
        })
    }

    /// Changes the membership; the caller holds the state, so that a checkpoint sees both or neither.
    fn apply_change(
        &mut self,
        change: Change,
        outputs: &mut Vec<Output>,
    ) -> Result<Vec<super::MemberInfo>, Error> {
        let mut membership = self.shared.membership.write();
        membership.check(&change)?;
        if let Some(raft) = reconfiguration(&change, bytes::Bytes::new()) {
            let conf = self
                .raft
                .apply_conf_change(&raft)
                .map_err(|error| Error::other(isopod_kv::Code::Internal, format!("etcdserver: {error}")))?;
            self.raft.mut_store().set_conf(conf);
        }
        tracing::info!(?change, "the membership changes");
        if change == Change::Remove(self.id) {
            self.removed = Some(self.ticks);
            outputs.push(Output::Removed);
        }
        membership.apply(change);
        outputs.push(Output::Membership);
        let members = membership.list();
        let alone = membership.is_alone(self.id);
        let learner = membership.get(self.id).is_some_and(|member| member.is_learner);
        drop(membership);
        self.shared.set_standing(alone, learner);
        Ok(members)
    }
}
