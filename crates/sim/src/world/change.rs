//! Changes of membership, one member for another, step by step, whatever else happens.
//!
//! A step whose outcome is not known is simply tried again: what counts is the list of members that the leader has.

use super::World;
use super::machine::{Machine, Waiting};
use super::member::{Change, Input, MemberInfo};
use super::queue::Happening;

const MS: u64 = 1_000_000;
/// Time between steps, in nanoseconds.
const STEP_NS: u64 = 300 * MS;

/// How long a removed member may go on that was not told, in nanoseconds.
pub(super) const RETIRE_NS_MAX: u64 = 5000 * MS;

/// A replacement under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replacement {
    /// Who comes.
    new: u64,
    /// Who goes.
    old: u64,
    /// Whether the old one goes first: it is broken.
    old_first: bool,
}

impl World {
    /// Begins to replace a member that is well.
    pub(super) fn begin_change(&mut self) {
        let damaged = self.machines.values().any(|machine| machine.flipped && !machine.gone);
        if self.change.is_some() || damaged || self.options.members < 3 {
            return;
        }
        let members: Vec<u64> =
            self.machines.values().filter(|machine| !machine.gone).map(|machine| machine.id).collect();
        if members.len() < self.options.members {
            return;
        }
        let Some(old) = self.random.pick(&members) else { return };
        self.begin_replacement(old, false);
    }

    /// Replaces a member that cannot be saved. Should another replacement be under way, this one waits for it.
    pub(super) fn replace(&mut self, old: u64) {
        if self.change.is_some() {
            self.broken.push(old);
        } else {
            self.begin_replacement(old, true);
        }
    }

    fn begin_replacement(&mut self, old: u64, old_first: bool) {
        let new = self.next_id;
        self.next_id += 1;
        self.change = Some(Replacement { new, old, old_first });
        self.stats.replacements += 1;
        self.queue.push(self.now, Happening::Change);
    }

    /// Goes on with the replacement.
    pub(super) fn step_change(&mut self) {
        let Some(change) = self.change else { return };
        self.queue.push(self.now + STEP_NS, Happening::Change);
        let Some(leader) = self.leader() else { return };
        let members = self.members_of(leader);
        let new = members.iter().find(|member| member.id == change.new);
        let has_old = members.iter().any(|member| member.id == change.old);
        if new.is_some() && !self.machines.contains_key(&change.new) {
            self.add_machine(change.new);
        }
        let next = match new {
            _ if change.old_first && has_old => Change::Remove(change.old),
            None => Change::Add(info(change.new, true)),
            Some(new) if new.is_learner => Change::Promote(change.new),
            Some(_) if has_old => Change::Remove(change.old),
            Some(_) => {
                self.change = None;
                let after = self.random.below(RETIRE_NS_MAX);
                self.queue.push(self.now + after, Happening::Retire { member: change.old });
                if let Some(old) = self.broken.pop() {
                    self.begin_replacement(old, true);
                }
                return;
            }
        };
        // Mostly through the leader; a follower has to pass it on.
        let through = if self.random.permille(700) { Some(leader) } else { self.any_running() };
        let Some(through) = through else { return };
        self.give(through, Waiting::Nobody, |ticket| Input::Change { ticket, change: next });
    }

    /// Takes away the machine of a removed member, once nobody counts on it any more: those that still have it in their
    /// list need it for a majority, and its loss with that of another one would be more than they can bear.
    pub(super) fn retire(&mut self, member: u64) {
        let knows = |machine: &Machine| match &machine.member {
            Some(other) => other.members().iter().all(|listed| listed.id != member),
            None => false,
        };
        let others = self.machines.values().filter(|machine| !machine.gone && machine.id != member);
        if !others.into_iter().all(knows) {
            self.queue.push(self.now + STEP_NS, Happening::Retire { member });
            return;
        }
        self.machine(member).gone = true;
        self.stop(member, false, false);
    }

    fn add_machine(&mut self, id: u64) {
        let bootstrap = self.joining(id);
        let (fsync, skew) = (self.options.fsync(), super::SKEW_PERMILLE);
        let machine = Machine::new(id, bootstrap, fsync, skew, &mut self.random);
        self.machines.insert(id, machine);
        self.start(id);
    }
}

/// A member's entry in the list.
pub(super) fn info(id: u64, is_learner: bool) -> MemberInfo {
    MemberInfo {
        id,
        name: format!("m{id}"),
        peer_urls: vec![format!("http://m{id}:2380")],
        client_urls: vec![format!("http://m{id}:2379")],
        is_learner,
    }
}
