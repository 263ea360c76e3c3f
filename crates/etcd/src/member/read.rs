//! Linearizable reads without a write: the leader makes sure by a round of heartbeats that it still leads, and says how
//! far the log was committed when it was asked; whoever asked reads once it has applied that much.
//!
//! One round is under way at a time. Reads that come meanwhile wait for the next one, which serves all of them.
//!
//! A leader's answers about leases wait for a round too: it must not tell anybody that a lease was renewed while
//! another member leads already, which knows nothing of it.

use std::time::Duration;

use isopod_kv::Error;

use super::wire::{Body, LeaseAnswer, PeerMessage};
use super::{Member, Outcome, Output, Ticket, out_of_order};

/// Ticks after which a round is given up and another one begun: messages get lost.
const RETRY_TICKS: u64 = 5;
/// Reads that wait, after which new ones are refused.
const READS_MAX: usize = 100_000;

/// Reads on their way.
#[derive(Default)]
pub(super) struct Reads {
    waiting: Vec<Waiting>,
    round: Option<Round>,
    /// Confirmed, and waiting for the state to reach an index.
    confirmed: Vec<(u64, Vec<Waiting>)>,
}

struct Waiting {
    what: What,
    deadline: Duration,
}

enum What {
    Read(Ticket),
    /// An answer that holds if this member still leads in the term in which it gave it.
    Lease {
        to: u64,
        answer: LeaseAnswer,
        renews: bool,
        term: u64,
    },
}

struct Round {
    context: Vec<u8>,
    began_tick: u64,
    reads: Vec<Waiting>,
}

impl Reads {
    /// The leader's answer to a round.
    pub(super) fn confirm(&mut self, context: &[u8], index: u64) {
        if let Some(round) = self.round.take_if(|round| round.context == context) {
            self.confirmed.push((index, round.reads));
        }
    }

    /// Gives a round up; its reads wait for the next one.
    pub(super) fn start_over(&mut self) {
        if let Some(mut round) = self.round.take() {
            round.reads.append(&mut self.waiting);
            self.waiting = round.reads;
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.round.is_none() && !self.waiting.is_empty()
    }

    /// Takes out those for which `ends` holds; the tickets of the reads among them. Who asks about a lease asks again.
    fn take(&mut self, ends: impl Fn(&Waiting) -> bool) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        let lists = self.round.iter_mut().map(|round| &mut round.reads);
        let lists = lists.chain(self.confirmed.iter_mut().map(|(_, reads)| reads));
        for list in lists.chain([&mut self.waiting]) {
            list.retain(|read| {
                let ended = ends(read);
                if let (true, What::Read(ticket)) = (ended, &read.what) {
                    tickets.push(*ticket);
                }
                !ended
            });
        }
        tickets
    }

    fn len(&self) -> usize {
        self.waiting.len() + self.round.as_ref().map_or(0, |round| round.reads.len())
    }
}

impl Member {
    pub(super) fn accept_read(&mut self, ticket: Ticket, out: &mut dyn FnMut(Output)) {
        // What the only voter has acknowledged, it has applied; also when its disk fails.
        if self.is_alone() {
            return out(Output::Done { ticket, result: Ok(Outcome::Read) });
        }
        let refused = match &self.failed {
            Some(reason) => Some(out_of_order(reason)),
            None if self.is_out() => Some(Error::Stopped),
            None if self.reads.len() >= READS_MAX => Some(Error::TooManyRequests),
            None => None,
        };
        match refused {
            Some(error) => out(Output::Done { ticket, result: Err(error) }),
            None => {
                let deadline = self.request_deadline();
                self.reads.waiting.push(Waiting { what: What::Read(ticket), deadline });
            }
        }
    }

    /// Gives an answer about a lease once it is sure that this member leads.
    pub(super) fn answer_as_leader(
        &mut self,
        to: u64,
        answer: LeaseAnswer,
        renews: bool,
        out: &mut dyn FnMut(Output),
    ) {
        if self.is_alone() {
            return self.give_answer(to, answer, renews, out);
        }
        if self.reads.len() < READS_MAX {
            let (term, deadline) = (self.term(), self.request_deadline());
            self.reads.waiting.push(Waiting { what: What::Lease { to, answer, renews, term }, deadline });
        }
    }

    fn give_answer(&mut self, to: u64, answer: LeaseAnswer, renews: bool, out: &mut dyn FnMut(Output)) {
        if to == self.id {
            return self.receive_answer(answer, out);
        }
        let body = if renews { Body::KeptAlive(answer) } else { Body::Remaining(answer) };
        out(Output::Send { to, message: PeerMessage::new(self.id, to, body) });
    }

    /// Whether this member is the leader that it was in a term.
    fn leads_in(&self, term: u64) -> bool {
        self.is_leader() && self.term() == term
    }

    fn finish_one(&mut self, what: What, out: &mut dyn FnMut(Output)) {
        match what {
            What::Read(ticket) => out(Output::Done { ticket, result: Ok(Outcome::Read) }),
            What::Lease { to, answer, renews, term } if self.leads_in(term) => {
                self.give_answer(to, answer, renews, out);
            }
            What::Lease { .. } => {}
        }
    }

    pub(super) fn begin_reads(&mut self, out: &mut dyn FnMut(Output)) {
        if self.reads.round.as_ref().is_some_and(|round| round.began_tick + RETRY_TICKS <= self.ticks) {
            self.reads.start_over();
        }
        if !self.reads.is_waiting() {
            return;
        }
        if self.is_alone() {
            for waiting in std::mem::take(&mut self.reads.waiting) {
                self.finish_one(waiting.what, out);
            }
            return;
        }
        let mut waiting = std::mem::take(&mut self.reads.waiting);
        waiting.retain(|waiting| !matches!(waiting.what, What::Lease { term, .. } if !self.leads_in(term)));
        self.reads.waiting = waiting;
        if self.reads.waiting.is_empty() {
            return;
        }
        // A leader that has committed nothing yet does not know how far others had committed.
        let ready = match self.leader() {
            0 => false,
            leader if leader == self.id => self.raft.raft.commit_to_current_term(),
            _ => true,
        };
        if !ready {
            return;
        }
        let sequence = self.next_sequence();
        let context = [self.id.to_le_bytes(), sequence.to_le_bytes()].concat();
        let reads = std::mem::take(&mut self.reads.waiting);
        self.reads.round = Some(Round { context: context.clone(), began_tick: self.ticks, reads });
        self.raft.read_index(context);
    }

    pub(super) fn finish_reads(&mut self, out: &mut dyn FnMut(Output)) {
        if self.reads.confirmed.is_empty() {
            return;
        }
        let applied = self.shared.state.read().applied_index();
        let confirmed = std::mem::take(&mut self.reads.confirmed);
        for (index, reads) in confirmed {
            if index > applied {
                self.reads.confirmed.push((index, reads));
                continue;
            }
            for waiting in reads {
                self.finish_one(waiting.what, out);
            }
        }
    }

    pub(super) fn expire_reads(&mut self, out: &mut dyn FnMut(Output)) {
        let now = self.now;
        let error = if self.leader() == 0 { Error::NoLeader } else { Error::Timeout };
        for ticket in self.reads.take(|read| read.deadline <= now) {
            out(Output::Done { ticket, result: Err(error.clone()) });
        }
    }

    pub(super) fn refuse_reads(&mut self, error: &Error, out: &mut dyn FnMut(Output)) {
        for ticket in self.reads.take(|_| true) {
            out(Output::Done { ticket, result: Err(error.clone()) });
        }
    }
}
