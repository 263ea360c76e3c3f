//! After the faults: the cluster has to recover, and is judged.

use isopod_mvcc::Filters;

use super::{Report, World, revision_of};
use crate::check::{self, Violation};
use crate::model::FIRST_REVISION;

impl World {
    /// Heals everything and waits until the cluster is at rest.
    pub(super) fn settle(&mut self) {
        self.settled_from = self.now;
        self.heal();
        let end = self.now + World::settle_time().as_nanos() as u64;
        let rested = self.run_until(end, |world| world.unrest().is_none());
        if !rested && self.violations.is_empty() {
            let reason = self.unrest().unwrap_or_else(|| "nothing happens any more".to_owned());
            self.violations.push(Violation::Stuck(reason));
        }
    }

    /// Why the cluster is not at rest.
    fn unrest(&self) -> Option<String> {
        if self.change.is_some() {
            return Some(format!("the change {:?} is not finished", self.change));
        }
        let Some(leader) = self.leader() else { return Some("there is no leader".to_owned()) };
        if let Some(client) = self.clients.iter().position(|client| !client.finished) {
            return Some(format!("client {client} gets no answer"));
        }
        let place = |id: u64| {
            let member = self.machines.get(&id)?.member.as_ref()?;
            let state = member.state();
            Some((state.applied_index(), state.revision()))
        };
        let expected = place(leader);
        for member in self.members_of(leader) {
            let found = place(member.id);
            if found != expected {
                return Some(format!("member {:x} is at {found:?}, the leader at {expected:?}", member.id));
            }
        }
        let revision = expected.map_or(0, |(_, revision)| revision);
        let behind = self.watchers.iter().position(|watcher| watcher.next <= revision);
        behind.map(|watcher| {
            format!("watcher {watcher} waits for revision {} of {revision}", self.watchers[watcher].next)
        })
    }

    /// Has the checkers look at everything.
    pub(super) fn judge(mut self) -> Report {
        if self.violations.is_empty() {
            self.compare_hashes();
            if self.options.only_clients {
                self.ask_leader();
            }
            self.history.events = self.events.iter().flatten().cloned().collect();
            self.violations.extend(check::check(&self.history));
        }
        self.stats.revisions = self.events.len() as u64;
        let last = self.last.iter().map(|(at, what)| format!("{at} ns: {what:?}")).collect();
        Report { violations: self.violations, trace: self.trace, stats: self.stats, last }
    }
    fn compare_hashes(&mut self) {
        for machine in self.machines.values() {
            let Some(member) = machine.member.as_ref().filter(|_| !machine.gone) else { continue };
            let state = member.state();
            let (revision, compacted) = (state.revision(), state.compacted_revision());
            let hash = state.hash(0).unwrap_or_default();
            if let Err(found) = self.agreement.hash(machine.id, revision, compacted, hash) {
                self.violations.push(found.into());
            }
        }
    }

    /// Takes the leader's word for what has happened.
    fn ask_leader(&mut self) {
        let leader = self.leader().and_then(|leader| self.machines.get(&leader)?.member.as_ref());
        let Some(member) = leader else { return };
        let all = World::everything();
        let batch = member.state().events(&all, Filters::default(), FIRST_REVISION, usize::MAX, usize::MAX);
        let events = batch.unwrap_or_default().events;
        self.events = events.chunk_by(|a, b| revision_of(a) == revision_of(b)).map(<[_]>::to_vec).collect();
    }
}
