//! Leases: only the leader knows when they expire.
//!
//! A new leader begins all of them anew, prolonged by an election timeout, since nobody could renew any while there
//! was no leader. Other members pass questions on; a question may be asked twice.

use std::time::Duration;

use isopod_kv::{CompactionRequest, Error, LeaseCheckpoint, LeaseCheckpointRequest, LeaseRevokeRequest};
use isopod_mvcc::{Command, Op};

use super::client::Question;
use super::wire::{Body, LeaseAnswer, LeaseQuestion, PeerMessage};
use super::{Member, Outcome, Output, out_of_order};

/// Leases revoked in one batch; each may delete many keys.
const EXPIRED_PER_BATCH: usize = 256;
/// After what time something that has not happened is proposed again.
const RETRY: Duration = Duration::from_secs(5);
/// Ticks after which a question is asked again: a new leader does not answer at once, and messages get lost.
const ASK_AGAIN_TICKS: u64 = 3;
/// Questions on their way.
const QUESTIONS_MAX: usize = 100_000;

impl Member {
    pub(super) fn begin_to_lead(&mut self) {
        let extension = if self.is_alone() { Duration::ZERO } else { self.shared.config.election_timeout };
        self.shared.start_leases(self.now, extension);
    }

    /// Commands that the leader gives itself.
    pub(super) fn due(&mut self) -> Vec<Command> {
        let now = self.now;
        let (expired, checkpoints) = self
            .shared
            .with_lessor(|lessor| (lessor.expired(now, EXPIRED_PER_BATCH, RETRY), lessor.checkpoints(now)));
        let mut commands: Vec<Command> =
            expired.into_iter().map(|id| Op::LeaseRevoke(LeaseRevokeRequest { id }).into()).collect();
        if !checkpoints.is_empty() {
            commands.push(Op::LeaseCheckpoint(LeaseCheckpointRequest { checkpoints }).into());
        }
        let (revision, compacted) = {
            let state = self.shared.state.read();
            (state.revision(), state.compacted_revision())
        };
        if let Some(revision) = self.compactor.due(now, revision, compacted) {
            commands.push(Op::Compact(CompactionRequest { revision, physical: false }).into());
        }
        commands
    }

    pub(super) fn ask(&mut self, question: Question, out: &mut dyn FnMut(Output)) {
        let refused = match &self.failed {
            Some(reason) => Some(out_of_order(reason)),
            None if self.is_out() => Some(Error::Stopped),
            None if self.questions.len() >= QUESTIONS_MAX => Some(Error::TooManyRequests),
            None => None,
        };
        if let Some(error) = refused {
            return out(Output::Done { ticket: question.ticket, result: Err(error) });
        }
        let (sequence, deadline) = (self.next_sequence(), self.request_deadline());
        self.questions.insert(sequence, Question { deadline, ..question });
        if self.is_leader() {
            self.answer_own_questions(out);
        } else if self.leader() != 0 {
            self.ask_leader(self.leader(), out);
        }
    }

    /// Lets all questions be asked again: another member leads.
    pub(super) fn ask_again(&mut self) {
        self.questions.values_mut().for_each(|question| question.asked = None);
    }

    pub(super) fn ask_leader(&mut self, leader: u64, out: &mut dyn FnMut(Output)) {
        for (asked, renews) in self.due_questions(self.ticks) {
            let body = if renews { Body::KeepAlive(asked) } else { Body::TimeToLive(asked) };
            out(Output::Send { to: leader, message: PeerMessage::new(self.id, leader, body) });
        }
    }

    /// Whether this member leads and knows all that was decided before it did: a revocation may be among the entries
    /// that it has not applied yet, and a lease must not be renewed before that.
    fn knows_leases(&self) -> bool {
        self.is_leader() && self.shared.state.read().applied_term() == self.term()
    }

    /// Answers what this member's own clients ask, as it would answer a peer.
    pub(super) fn answer_own_questions(&mut self, out: &mut dyn FnMut(Output)) {
        if !self.knows_leases() {
            return;
        }
        let (id, now) = (self.id, self.ticks);
        for (asked, renews) in self.due_questions(now) {
            self.receive_question(id, asked, renews, out);
        }
    }

    /// The questions to be asked, or asked again, and whether they renew; they count as asked.
    fn due_questions(&mut self, now: u64) -> Vec<(LeaseQuestion, bool)> {
        let due = |question: &Question| question.asked.is_none_or(|asked| asked + ASK_AGAIN_TICKS <= now);
        let due = self.questions.iter_mut().filter(|(_, question)| due(question));
        due.map(|(sequence, question)| {
            question.asked = Some(now);
            (LeaseQuestion { sequence: *sequence, lease: question.lease }, question.renews)
        })
        .collect()
    }

    /// Renews a lease; its time to live.
    fn renew(&mut self, id: i64) -> Result<i64, Error> {
        let (ttl, checkpointed) = self.shared.renew_lease(id, self.now)?;
        if checkpointed {
            // What was left at the last checkpoint no longer holds: with another leader the lease is to live its full
            // time again.
            let checkpoints = vec![LeaseCheckpoint { id, remaining_ttl: 0 }];
            self.propose_own(Op::LeaseCheckpoint(LeaseCheckpointRequest { checkpoints }).into());
        }
        Ok(ttl)
    }

    fn time_to_live(&self, id: i64) -> Result<Outcome, Error> {
        let state = self.shared.state.read();
        let lease = state.lease(id).ok_or(Error::LeaseNotFound)?;
        let remaining = self.shared.with_lessor(|lessor| lessor.remaining(id, self.now));
        match remaining {
            Some(remaining) if !remaining.is_zero() => {
                Ok(Outcome::Remaining { granted_s: lease.ttl_s, remaining_s: remaining.as_secs() as i64 })
            }
            _ => Err(Error::LeaseNotFound),
        }
    }

    /// A question from a peer that takes this member for the leader; from another one it is not answered, and asked
    /// again elsewhere.
    pub(super) fn receive_question(
        &mut self,
        from: u64,
        question: LeaseQuestion,
        renews: bool,
        out: &mut dyn FnMut(Output),
    ) {
        if !self.knows_leases() {
            return;
        }
        let result = match renews {
            true => self.renew(question.lease).map(|ttl| (ttl, ttl)),
            false => self.time_to_live(question.lease).map(|outcome| match outcome {
                Outcome::Remaining { granted_s, remaining_s } => (granted_s, remaining_s),
                _ => (0, 0),
            }),
        };
        let (granted_s, remaining_s) = result.as_ref().copied().unwrap_or_default();
        let error = result.err().map(|error| error.to_string()).unwrap_or_default();
        let answer = LeaseAnswer { sequence: question.sequence, error, granted_s, remaining_s };
        self.answer_as_leader(from, answer, renews, out);
    }

    pub(super) fn receive_answer(&mut self, answer: LeaseAnswer, out: &mut dyn FnMut(Output)) {
        let Some(question) = self.questions.remove(&answer.sequence) else { return };
        let LeaseAnswer { error, granted_s, remaining_s, .. } = answer;
        let result = match error.as_str() {
            "" if question.renews => Ok(Outcome::KeptAlive { ttl_s: granted_s }),
            "" => Ok(Outcome::Remaining { granted_s, remaining_s }),
            text => {
                Err(Error::from_text(text).unwrap_or_else(|| Error::other(isopod_kv::Code::Unknown, text)))
            }
        };
        out(Output::Done { ticket: question.ticket, result });
    }
}
