//! What goes wrong, and when. Every fault is undone by a later one or at the end; together they never take away for
//! good more than the cluster is made to survive.

use std::time::Duration;

use isopod_etcd::storage::{Fault, SimStorage, Storage};
use isopod_kv::CompactionRequest;
use isopod_mvcc::{Command, Op};

use super::machine::Waiting;
use super::member::{Bootstrap, Input};
use super::queue::Happening;
use super::{Sabotage, World};

const MS: u64 = 1_000_000;
/// Time between faults, in nanoseconds, least and most.
const BETWEEN_NS: (u64, u64) = (50 * MS, 1500 * MS);
/// How long disks lie that lie, in nanoseconds.
const LIES_NS: u64 = 400 * MS;
/// How long a machine stays off or stopped, in nanoseconds, least and most.
const DOWN_NS: (u64, u64) = (100 * MS, 3000 * MS);

impl World {
    /// Does something bad, or undoes it, and plans the next.
    pub(super) fn fault(&mut self) {
        if self.settling {
            return;
        }
        let after = self.random.between(BETWEEN_NS.0, BETWEEN_NS.1);
        self.queue.push(self.now + after, Happening::Fault);
        self.stats.faults += 1;
        match self.random.below(100) {
            0..16 => self.partition(),
            16..30 => self.network.join(),
            30..40 => self.spoil_network(),
            40..52 => {
                if let Some(member) = self.any_running() {
                    // Power loss as often as a process that is killed.
                    let power = self.random.permille(500);
                    self.stop(member, power, true);
                }
            }
            52..55 => self.before_power_cut(),
            55..65 => self.fault_disk(),
            65..70 => {
                if let Some(member) = self.any_running() {
                    let down = self.random.between(DOWN_NS.0, DOWN_NS.1);
                    self.machine(member).paused_until = self.now + down;
                }
            }
            70..78 => self.heal_disks(),
            78..84 => self.compact(),
            84..88 => self.move_leader(),
            88..95 if self.options.sabotage != Some(Sabotage::LostVote) => self.begin_change(),
            _ => self.damage(),
        }
    }

    fn before_power_cut(&mut self) {
        if self.options.sabotage != Some(Sabotage::LyingDisks) {
            return self.power_cut();
        }
        for machine in self.machines.values_mut() {
            machine.storage.set_fault(Some(Fault::SyncLies));
        }
        self.queue.push(self.now + LIES_NS, Happening::PowerCut);
    }

    pub(super) fn power_cut(&mut self) {
        if !self.settling {
            for member in self.running() {
                self.stop(member, true, true);
            }
        }
    }

    /// Separates members from each other; the leader in half of the cases.
    fn partition(&mut self) {
        self.network.join();
        let members: Vec<u64> = self.machines.keys().copied().collect();
        let one_way = self.random.permille(400);
        let leader = self.leader().filter(|_| self.random.permille(500));
        let apart: Vec<u64> = match leader {
            Some(leader) => vec![leader],
            None => members.iter().copied().filter(|_| self.random.permille(400)).collect(),
        };
        let inward = self.random.permille(500);
        for from in &members {
            for to in &members {
                let (left, right) = (apart.contains(from), apart.contains(to));
                if left != right && (!one_way || right == inward) {
                    self.network.block(*from, *to);
                }
            }
        }
    }

    fn spoil_network(&mut self) {
        self.network.loss_permille = self.random.pick(&[0, 0, 20, 100, 300]).unwrap_or_default();
        self.network.twice_permille = self.random.pick(&[0, 20, 200]).unwrap_or_default();
        self.network.slow_permille = self.random.pick(&[0, 50, 300]).unwrap_or_default();
        self.network.slow_ns_max = self.random.pick(&[10 * MS, 100 * MS, 1500 * MS]).unwrap_or_default();
    }

    fn fault_disk(&mut self) {
        let Some(member) = self.any_running() else { return };
        let chosen = self.random.below(5);
        let amount = self.random.below(4000) as usize;
        let machine = self.machines.get_mut(&member).expect("a running machine is there");
        match chosen {
            0 => machine.slow_down(&mut self.random),
            1 => machine.storage.set_fault(Some(Fault::Full { left: amount })),
            2 => machine.storage.set_fault(Some(Fault::SyncFails)),
            _ => machine.storage.set_fault(Some(Fault::Dies { after: amount % 20 })),
        }
    }

    pub(super) fn heal_disks(&mut self) {
        for machine in self.machines.values_mut() {
            machine.slowness = 1;
            machine.storage.set_fault(None);
        }
    }

    /// Asks for a compaction that leaves what nobody has been compared on yet.
    fn compact(&mut self) {
        // Only what the comparison of members remembers may go.
        let Some(member) = self.any_running().filter(|_| !self.options.only_clients) else { return };
        let keep = self.random.below(60) as i64;
        let revision = crate::model::FIRST_REVISION + self.events.len() as i64 - keep;
        self.history.compacted = self.history.compacted.max(revision);
        let command: Command = Op::Compact(CompactionRequest { revision, physical: false }).into();
        self.give(member, Waiting::Nobody, |ticket| Input::Propose { ticket, command });
    }

    fn move_leader(&mut self) {
        let Some(leader) = self.leader() else { return };
        let others: Vec<u64> = self.running().into_iter().filter(|member| *member != leader).collect();
        let Some(target) = self.random.pick(&others) else { return };
        self.give(leader, Waiting::Nobody, |ticket| Input::MoveLeader { ticket, target });
    }

    /// Damages a disk: a bit is inverted while the machine is off, or all of it is lost. The member has to be replaced,
    /// so this happens only while all others are well, and once at a time.
    fn damage(&mut self) {
        if self.options.sabotage == Some(Sabotage::LostVote) {
            return self.lose_vote();
        }
        if self.options.members < 3 || self.change.is_some() || !self.all_know_all() {
            return;
        }
        let Some(member) = self.any_running() else { return };
        self.stop(member, true, true);
        let random = &mut self.random;
        let machine = self.machines.get_mut(&member).expect("just stopped");
        let names = machine.storage.list().unwrap_or_default();
        let Some(index) = random.pick(&(0..names.len()).collect::<Vec<_>>()) else { return };
        let content = machine.storage.content(&names[index]).unwrap_or_default();
        let Some(last) = content.iter().rposition(|byte| *byte != 0) else { return };
        machine.flipped = machine.storage.flip_bit(&names[index], last + 1).is_some();
        self.stats.flips += 1;
    }

    /// What must never be done: an empty disk in the place of a voter's.
    fn lose_vote(&mut self) {
        let Some(member) = self.any_running() else { return };
        self.stop(member, true, true);
        let seed = self.random.number();
        self.machine(member).storage = SimStorage::new(seed);
    }

    /// Whether every member runs, is sound, and has the same list of members. To lose one for good while others have not
    /// heard yet of a change that was decided is more than a group survives.
    fn all_know_all(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let members = self.members_of(leader);
        members.len() >= self.options.members
            && members.iter().all(|member| {
                let machine = self.machines.get(&member.id);
                machine.is_some_and(|machine| machine.member.is_some() && !machine.flipped)
                    && self.members_of(member.id) == members
            })
    }

    /// Switches a machine off: without power what is not synced is lost in part. `again` says that it will be switched on.
    pub(super) fn stop(&mut self, member: u64, power: bool, again: bool) {
        let down = self.random.between(DOWN_NS.0, DOWN_NS.1);
        let machine = self.machines.get_mut(&member).expect("a known machine");
        if machine.member.take().is_none() {
            return;
        }
        self.stats.stops += 1;
        machine.busy = false;
        machine.inbox.clear();
        machine.paused_until = 0;
        let waiting = std::mem::take(&mut machine.waiting);
        if power {
            machine.storage.crash();
        }
        let run = machine.run;
        if again {
            self.queue.push(self.now + down, Happening::Start { member, run });
        }
        for waiting in waiting.into_values() {
            if let Waiting::Client { client, number } = waiting {
                self.respond(client, number, crate::history::Outcome::Unknown);
            }
        }
        self.detach(member);
    }

    /// Starts a machine; one whose disk is damaged has to say so.
    pub(super) fn start(&mut self, member: u64) {
        use isopod_etcd::OpenError;
        self.runs += 1;
        let (run, now) = (self.runs, self.now);
        let machine = self.machines.get_mut(&member).expect("a known machine");
        if machine.gone || machine.member.is_some() {
            return;
        }
        if !self.settling && self.random.permille(100) {
            let after = self.random.below(6) as usize;
            machine.storage.set_fault(Some(Fault::Dies { after }));
        }
        match machine.start(run, now, &mut self.random) {
            Ok(()) => {
                self.agreement.started(member);
                self.observe(member);
                let tick = self.tick_ns(member);
                self.queue.push(now + tick, Happening::Tick { member, run });
                self.wake(member);
            }
            Err(OpenError::Corrupt { .. }) if machine.flipped => {
                machine.gone = true;
                self.stats.refusals += 1;
                self.replace(member);
            }
            Err(OpenError::Io { .. }) if !self.settling => {
                // It died once more, or the disk is full still.
                machine.storage.crash();
                machine.run = run;
                self.queue.push(now + 200 * MS, Happening::Start { member, run });
            }
            Err(error) => {
                self.violations.push(crate::check::Violation::Start { member, error: error.to_string() });
            }
        }
    }

    pub(super) fn tick_ns(&self, member: u64) -> u64 {
        let machine = &self.machines[&member];
        machine.true_ns(machine.config().heartbeat_interval).max(MS)
    }

    /// Where a new machine's member comes from.
    pub(super) fn joining(&self, id: u64) -> Bootstrap {
        let members = self.leader().map(|leader| self.members_of(leader)).unwrap_or_default();
        Bootstrap::Join { cluster_id: super::CLUSTER_ID, member_id: id, members }
    }

    /// Undoes all that can be undone.
    pub(super) fn heal(&mut self) {
        self.settling = true;
        self.network.heal();
        self.heal_disks();
        let now = self.now;
        let ids: Vec<u64> = self.machines.keys().copied().collect();
        for id in ids {
            let machine = self.machine(id);
            machine.paused_until = now;
            if machine.member.is_none() && !machine.gone {
                self.start(id);
            } else {
                self.wake(id);
            }
        }
    }

    pub(super) const fn settle_time() -> Duration {
        Duration::from_secs(120)
    }
}
