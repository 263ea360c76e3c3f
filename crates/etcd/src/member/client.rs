//! What clients want of the log: commands, changes of membership, another leader.
//!
//! A proposal goes into the log of the leader, which may be another member: then it travels there, and this member
//! answers when the entry comes back. It is given to a leader once. If that leader says that it does not lead, it is
//! given to the next; if nothing is heard of it, nobody knows whether it is in the log, and the client is told of a
//! timeout.

use std::time::Duration;

use bytes::Bytes;
use isopod_kv::{Code, Error, Member as Info};
use isopod_mvcc::Command;
use raft::eraftpb::{Entry, Message, MessageType};

use super::apply::reconfiguration;
use super::membership::{Change, StoredChange, enough_started};
use super::proposal::{Payload, Proposal};
use super::wire::{Body, PeerMessage, Propose, Refused};
use super::{Member, Outcome, Output, Ticket, out_of_order};

/// Own proposals on their way. The engine's queue bounds what waits before; this bounds what waits for a majority.
const PENDING_MAX: usize = 20_000;
/// Bytes of proposals in one message to the leader.
const FORWARD_BYTES: usize = 1 << 20;
/// How far a learner must have come to be promoted, in per cent of the leader's log; etcd's figure.
const LEARNER_READY_PERCENT: u64 = 90;

/// A proposal of this member's.
pub(super) struct Pending {
    /// Who waits for it; nobody for what the member proposes itself.
    pub(super) ticket: Option<Ticket>,
    /// The command as it came, so that it need not be decoded again.
    pub(super) command: Option<Command>,
    /// A change of membership, which the leader looks at.
    change: Option<Change>,
    /// As it goes into the log.
    data: Bytes,
    /// The message to another member that it was last in; 0 if it is in none, or was refused since. What comes late or
    /// twice must not have it proposed twice.
    sent_in: u64,
    /// The term whose leader decided on it by what it alone knows, such as that a lease has expired. In another term
    /// the decision does not hold, whoever leads.
    of_term: Option<u64>,
    began: Duration,
    deadline: Duration,
}

/// A question that only the leader can answer, and that may be asked again.
pub(super) struct Question {
    pub(super) ticket: Ticket,
    pub(super) lease: i64,
    pub(super) renews: bool,
    /// When the leader was last asked, in ticks; none if this leader was not.
    pub(super) asked: Option<u64>,
    pub(super) deadline: Duration,
}

impl Question {
    pub(super) fn keep_alive(ticket: Ticket, lease: i64) -> Question {
        Question { ticket, lease, renews: true, asked: None, deadline: Duration::ZERO }
    }

    pub(super) fn time_to_live(ticket: Ticket, lease: i64) -> Question {
        Question { renews: false, ..Question::keep_alive(ticket, lease) }
    }
}

impl Member {
    pub(super) fn accept_command(&mut self, ticket: Ticket, command: Command, out: &mut dyn FnMut(Output)) {
        if let Some(error) = self.refusal() {
            crate::metrics::FAILED.inc();
            return out(Output::Done { ticket, result: Err(error) });
        }
        self.enqueue(Some(ticket), Payload::Command(command));
    }

    pub(super) fn accept_change(&mut self, ticket: Ticket, change: Change, out: &mut dyn FnMut(Output)) {
        let refused = self.refusal().or_else(|| self.shared.membership.read().check(&change).err());
        if let Some(error) = refused {
            return out(Output::Done { ticket, result: Err(error) });
        }
        self.enqueue(Some(ticket), Payload::Change(StoredChange { change: Some(change) }));
    }

    /// Why nothing can be proposed.
    fn refusal(&self) -> Option<Error> {
        match &self.failed {
            Some(reason) => Some(out_of_order(reason)),
            None if self.is_out() => Some(Error::Stopped),
            None if self.unwritten.is_some() => Some(Error::NoSpace),
            None if self.pending.len() >= PENDING_MAX => Some(Error::TooManyRequests),
            None => None,
        }
    }

    pub(super) fn propose_own(&mut self, command: Command) {
        self.enqueue(None, Payload::Command(command));
    }

    fn enqueue(&mut self, ticket: Option<Ticket>, payload: Payload) {
        let sequence = self.next_sequence();
        let proposal = Proposal { origin: self.id, sequence, payload };
        let data = proposal.encode();
        let (command, change) = match proposal.payload {
            Payload::Command(command) => (Some(command), None),
            Payload::Change(change) => (None, change.change),
        };
        let deadline = self.request_deadline();
        let of_term = (ticket.is_none() && command.is_some()).then(|| self.term());
        let pending =
            Pending { ticket, command, change, data, sent_in: 0, of_term, began: self.now, deadline };
        self.pending.insert(sequence, pending);
        self.unsent.push_back(sequence);
    }

    /// Proposes what nobody asked for: expired leases and the like where this member leads, and its own name.
    pub(super) fn propose_due(&mut self) {
        if self.is_out() || self.unwritten.is_some() {
            return;
        }
        if self.is_leader() {
            for command in self.due() {
                self.enqueue(None, Payload::Command(command));
            }
        }
        if let Some(info) = self.unpublished() {
            self.enqueue(None, Payload::Change(StoredChange { change: Some(Change::Publish(info)) }));
        }
    }

    /// What the member list says wrongly of this member, if nothing is under way about it.
    fn unpublished(&self) -> Option<Info> {
        let config = &self.shared.config;
        {
            let membership = self.shared.membership.read();
            let listed = membership.get(self.id)?;
            if listed.name == config.name && listed.client_urls == config.client_urls {
                return None;
            }
        }
        let under_way = |pending: &Pending| matches!(pending.change, Some(Change::Publish(_)));
        let knows_group = self.shared.state.read().applied_index() > 0;
        (knows_group && self.leader() != 0 && !self.pending.values().any(under_way)).then(|| Info {
            id: self.id,
            name: config.name.clone(),
            client_urls: config.client_urls.clone(),
            ..Info::default()
        })
    }

    /// Gives what waits to the leader, if there is one.
    pub(super) fn flush(&mut self, out: &mut dyn FnMut(Output)) {
        if self.is_out() || self.unwritten.is_some() {
            return;
        }
        self.begin_reads(out);
        self.drop_outdated();
        match self.leader() {
            0 => {}
            leader if leader == self.id => self.lead_own(out),
            leader => self.forward(leader, out),
        }
    }

    /// Drops what waits to be proposed and was decided by a leader that leads no more.
    fn drop_outdated(&mut self) {
        let (leads, term) = (self.is_leader(), self.term());
        let pending = &mut self.pending;
        self.unsent.retain(|sequence| {
            let outdated = |pending: &Pending| pending.of_term.is_some_and(|of| !leads || of != term);
            let drop = pending.get(sequence).is_some_and(outdated);
            if drop {
                pending.remove(sequence);
            }
            !drop
        });
    }

    fn lead_own(&mut self, out: &mut dyn FnMut(Output)) {
        self.answer_own_questions(out);
        let mut batch = Vec::new();
        for sequence in std::mem::take(&mut self.unsent) {
            let Some(pending) = self.pending.get(&sequence) else { continue };
            let data = pending.data.clone();
            match pending.change.clone().filter(Change::is_reconfiguration) {
                None => batch.push((sequence, Entry { data, ..Entry::default() })),
                Some(change) => {
                    // In the order in which they came.
                    self.put(std::mem::take(&mut batch), out);
                    match self.reconfigure(&change, data) {
                        Ok(true) => {}
                        Ok(false) => self.unsent.push_back(sequence),
                        Err(error) => self.finish_pending(sequence, Err(error), out),
                    }
                }
            }
        }
        self.put(batch, out);
    }

    /// Puts proposals of this member's into the log.
    fn put(&mut self, batch: Vec<(u64, Entry)>, out: &mut dyn FnMut(Output)) {
        if batch.is_empty() {
            return;
        }
        let (sequences, mut entries): (Vec<u64>, Vec<Entry>) = batch.into_iter().unzip();
        if self.is_alone()
            && self.is_leader()
            && !self.raft.has_ready()
            && let Err(error) = self.write_ahead(&mut entries)
        {
            let error = match error {
                crate::wal::AppendError::Full => Error::NoSpace,
                error => out_of_order(&error.to_string()),
            };
            crate::metrics::FAILED.inc_by(sequences.len() as u64);
            return sequences.into_iter().for_each(|sequence| {
                self.finish_pending(sequence, Err(error.clone()), out);
            });
        }
        if self.step_entries(entries) {
            return;
        }
        if self.written > 0 {
            // A group of one has neither a majority to wait for nor anybody to hand over to.
            self.fail("the log holds entries that Raft has refused".to_owned());
        } else if self.raft.raft.lead_transferee.is_some() {
            // The next leader gets them.
            self.unsent.extend(sequences);
        } else {
            for sequence in sequences {
                self.finish_pending(sequence, Err(Error::TooManyRequests), out);
            }
        }
    }

    /// Gives entries to Raft; false if it does not take them.
    fn step_entries(&mut self, entries: Vec<Entry>) -> bool {
        let mut message = Message { from: self.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(entries.into());
        self.raft.step(message).is_ok()
    }

    /// Gives a reconfiguration to Raft; false if another one is under way.
    fn reconfigure(&mut self, change: &Change, proposal: Bytes) -> Result<bool, Error> {
        if self.raft.raft.has_pending_conf() || self.raft.raft.lead_transferee.is_some() {
            return Ok(false);
        }
        self.check_reconfiguration(change)?;
        let Some(raft) = reconfiguration(change, proposal) else { return Ok(false) };
        match self.raft.propose_conf_change(Vec::new(), raft) {
            Ok(()) => Ok(true),
            Err(_) => Err(Error::TooManyRequests),
        }
    }

    /// The leader's view of whether a reconfiguration is wise; etcd's rules.
    fn check_reconfiguration(&self, change: &Change) -> Result<(), Error> {
        let membership = self.shared.membership.read();
        membership.check(change)?;
        if let Change::Promote(id) = change {
            let matched = self.raft.raft.prs().get(*id).map_or(0, |progress| progress.matched);
            let last = self.raft.raft.raft_log.last_index();
            if matched * 100 < last * LEARNER_READY_PERCENT {
                return Err(Error::LearnerNotReady);
            }
        }
        if !self.shared.config.strict_reconfig_check {
            return Ok(());
        }
        if !enough_started(&membership, change) {
            return Err(Error::MemberNotEnoughStarted);
        }
        let active = |id: u64| id == self.id || self.is_heard(id);
        let healthy = match change {
            Change::Add(member) if !member.is_learner => membership.voters().all(|voter| active(voter.id)),
            Change::Remove(id) if membership.voters().any(|voter| voter.id == *id) && active(*id) => {
                let voters = membership.voters().count();
                let active = membership.voters().filter(|voter| active(voter.id)).count();
                active > 1 + (voters - 1) / 2
            }
            _ => true,
        };
        if healthy { Ok(()) } else { Err(Error::Unhealthy) }
    }

    /// Whether a peer has said something within an election timeout.
    fn is_heard(&self, id: u64) -> bool {
        self.heard.get(&id).is_some_and(|tick| tick + self.election_ticks() >= self.ticks)
    }

    fn forward(&mut self, leader: u64, out: &mut dyn FnMut(Output)) {
        self.ask_leader(leader, out);
        let mut number = self.next_sequence();
        let mut proposals = Vec::new();
        let mut bytes = 0;
        for sequence in std::mem::take(&mut self.unsent) {
            let Some(pending) = self.pending.get_mut(&sequence) else { continue };
            pending.sent_in = number;
            bytes += pending.data.len();
            proposals.push(pending.data.clone());
            if bytes >= FORWARD_BYTES {
                bytes = 0;
                let body = Body::Propose(Propose { proposals: std::mem::take(&mut proposals), number });
                out(Output::Send { to: leader, message: PeerMessage::new(self.id, leader, body) });
                number = self.next_sequence();
            }
        }
        if !proposals.is_empty() {
            let body = Body::Propose(Propose { proposals, number });
            out(Output::Send { to: leader, message: PeerMessage::new(self.id, leader, body) });
        }
    }

    /// Proposals that a peer took me for the leader for.
    pub(super) fn receive_proposals(&mut self, from: u64, propose: Propose, out: &mut dyn FnMut(Output)) {
        let number = propose.number;
        let mut entries = Vec::new();
        let (mut sequences, mut refused) = (Vec::new(), Vec::new());
        for data in propose.proposals {
            // One that does not decode here would end every member that is to apply it.
            let Ok(Proposal { origin, sequence, payload }) = Proposal::decode(&data) else { continue };
            if origin != from {
                continue;
            }
            if !self.is_leader() {
                refused.push(sequence);
                continue;
            }
            let reconfiguration = match payload {
                Payload::Change(change) => change.change.filter(Change::is_reconfiguration),
                Payload::Command(_) => None,
            };
            match reconfiguration {
                None => {
                    sequences.push(sequence);
                    entries.push(Entry { data, ..Entry::default() });
                }
                Some(change) => match self.reconfigure(&change, data) {
                    Ok(true) => {}
                    Ok(false) => refused.push(sequence),
                    Err(error) => self.refuse((from, number), vec![sequence], error.to_string(), out),
                },
            }
        }
        if !entries.is_empty() && !self.step_entries(entries) {
            match self.raft.raft.lead_transferee {
                Some(_) => refused.extend(sequences),
                None => self.refuse((from, number), sequences, Error::TooManyRequests.to_string(), out),
            }
        }
        if !refused.is_empty() {
            self.refuse((from, number), refused, String::new(), out);
        }
    }

    fn refuse(
        &self,
        (to, number): (u64, u64),
        sequences: Vec<u64>,
        error: String,
        out: &mut dyn FnMut(Output),
    ) {
        let body = Body::Refused(Refused { sequences, error, number });
        out(Output::Send { to, message: PeerMessage::new(self.id, to, body) });
    }

    /// What did not enter the log can be proposed again, or has failed for good.
    pub(super) fn receive_refusal(&mut self, refused: Refused, out: &mut dyn FnMut(Output)) {
        for sequence in refused.sequences {
            let Some(pending) = self.pending.get_mut(&sequence).filter(|p| p.sent_in == refused.number)
            else {
                continue;
            };
            if refused.error.is_empty() {
                pending.sent_in = 0;
                self.refused.push(sequence);
                continue;
            }
            let error = Error::from_text(&refused.error)
                .unwrap_or_else(|| Error::other(Code::Unknown, refused.error.clone()));
            self.finish_pending(sequence, Err(error), out);
        }
    }

    fn finish_pending(&mut self, sequence: u64, result: Result<Outcome, Error>, out: &mut dyn FnMut(Output)) {
        if let Some(ticket) = self.pending.remove(&sequence).and_then(|pending| pending.ticket) {
            out(Output::Done { ticket, result });
        }
    }

    pub(super) fn move_leader(&mut self, ticket: Ticket, target: u64, out: &mut dyn FnMut(Output)) {
        let is_voter = self.shared.membership.read().voters().any(|voter| voter.id == target);
        let refused = match () {
            () if self.is_out() => Some(Error::Stopped),
            () if !self.is_leader() => Some(Error::NotLeader),
            () if !is_voter => Some(Error::BadLeaderTransferee),
            () => None,
        };
        if let Some(error) = refused {
            return out(Output::Done { ticket, result: Err(error) });
        }
        if target == self.id {
            return out(Output::Done { ticket, result: Ok(Outcome::Moved) });
        }
        if let Some((earlier, ..)) = self.moving.take() {
            out(Output::Done { ticket: earlier, result: Err(transfer_timeout()) });
        }
        self.moving = Some((ticket, target, self.now + 2 * self.shared.config.election_timeout));
        self.raft.transfer_leader(target);
    }

    pub(super) fn finish_move(&mut self, out: &mut dyn FnMut(Output)) {
        if let Some((ticket, ..)) = self.moving.take_if(|(_, target, _)| *target == self.raft.raft.leader_id)
        {
            out(Output::Done { ticket, result: Ok(Outcome::Moved) });
        }
    }

    /// Shortens the wait for what an earlier leader was given: what it had passed on comes back soon, if at all.
    pub(super) fn hurry_pending(&mut self) {
        let deadline = self.now + 2 * self.shared.config.election_timeout;
        for (sequence, pending) in &mut self.pending {
            if !self.unsent.contains(sequence) && !self.refused.contains(sequence) {
                pending.deadline = pending.deadline.min(deadline);
            }
        }
    }

    /// Ends what has waited too long.
    pub(super) fn expire(&mut self, out: &mut dyn FnMut(Output)) {
        let now = self.now;
        let late: Vec<u64> =
            self.pending.iter().filter(|(_, p)| p.deadline <= now).map(|(sequence, _)| *sequence).collect();
        for sequence in late {
            let began = self.pending.get(&sequence).map_or(now, |pending| pending.began);
            let error = self.timeout(began);
            self.finish_pending(sequence, Err(error), out);
        }
        let late: Vec<u64> =
            self.questions.iter().filter(|(_, q)| q.deadline <= now).map(|(sequence, _)| *sequence).collect();
        for sequence in late {
            if let Some(question) = self.questions.remove(&sequence) {
                out(Output::Done { ticket: question.ticket, result: Err(Error::Timeout) });
            }
        }
        self.expire_reads(out);
        if let Some((ticket, ..)) = self.moving.take_if(|(_, _, deadline)| *deadline <= now) {
            out(Output::Done { ticket, result: Err(transfer_timeout()) });
        }
    }

    /// The error of what began then and is not done now.
    pub(super) fn timeout(&self, began: Duration) -> Error {
        if self.leader() != 0 && self.leader_since >= began {
            Error::TimeoutDueToLeaderFail
        } else {
            Error::Timeout
        }
    }
}

fn transfer_timeout() -> Error {
    Error::other(Code::Unknown, "etcdserver: request timed out, leader transfer took too long")
}
