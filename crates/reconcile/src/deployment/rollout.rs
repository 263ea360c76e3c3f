//! The two strategies.

use super::{Pass, max_surge, max_unavailable};
use crate::meta::Meta;
use crate::pods;

impl Pass {
    /// RollingUpdate: grow the new set, then shrink the old ones, never below the minimum of available pods.
    pub(super) fn roll(&mut self) {
        self.sync_revision(true);
        if self.creation.is_some() {
            self.sync_rollout_status();
            return;
        }
        if self.grow_new() || self.shrink_old() {
            self.sync_rollout_status();
            return;
        }
        if self.is_complete() {
            self.clean_up();
        }
        self.sync_rollout_status();
    }

    fn grow_new(&mut self) -> bool {
        let Some(new) = self.new else { return false };
        let (size, wanted) = (self.sets[new].replicas(), self.wanted());
        if size == wanted {
            return false;
        }
        if size > wanted {
            return self.scale_set(new, wanted);
        }
        let target = self.new_set_size(size);
        self.scale_set(new, target)
    }

    /// Size that the new set may have now.
    pub(super) fn new_set_size(&self, current: i32) -> i32 {
        let wanted = self.wanted();
        if !self.is_rolling() {
            return wanted;
        }
        let max_total = wanted + max_surge(&self.deployment);
        let total = self.total_replicas();
        if total >= max_total {
            return current;
        }
        current + (max_total - total).min(wanted - current)
    }

    fn shrink_old(&mut self) -> bool {
        let olds = self.active_olds();
        if olds.is_empty() {
            return false;
        }
        let min_available = self.wanted() - max_unavailable(&self.deployment);
        let new_unavailable =
            self.new.map_or(0, |new| self.sets[new].replicas() - self.sets[new].available());
        let max_down = self.total_replicas() - min_available - new_unavailable;
        if max_down <= 0 {
            return false;
        }
        // Unhealthy pods first: they do not count as available, so removing them costs nothing.
        let mut down = 0;
        for index in &olds {
            if down >= max_down {
                break;
            }
            let set = &self.sets[*index];
            let unhealthy = set.replicas() - set.available();
            if set.replicas() == 0 || unhealthy <= 0 {
                continue;
            }
            let count = unhealthy.min(max_down - down);
            let size = set.replicas() - count;
            self.scale_set(*index, size);
            down += count;
        }
        let available: i32 = self.sets.iter().map(super::Replica::available).sum();
        let mut budget = available - min_available;
        for index in olds {
            if budget <= 0 {
                break;
            }
            let size = self.sets[index].replicas();
            if size == 0 {
                continue;
            }
            let count = size.min(budget);
            self.scale_set(index, size - count);
            budget -= count;
            down += count;
        }
        down > 0
    }

    /// Recreate: all old pods must be gone before the new set is made.
    pub(super) fn recreate(&mut self) {
        let olds = self.active_olds();
        if !olds.is_empty() {
            for index in olds {
                self.scale_set(index, 0);
            }
            self.sync_rollout_status();
            return;
        }
        if self.old_pods_running() {
            self.sync_rollout_status();
            return;
        }
        self.sync_revision(true);
        if let Some(new) = self.new {
            let wanted = self.wanted();
            if self.sets[new].replicas() != wanted {
                self.scale_set(new, wanted);
            }
        }
        if self.is_complete() {
            self.clean_up();
        }
        self.sync_rollout_status();
    }

    fn old_pods_running(&self) -> bool {
        if self.olds().into_iter().any(|index| self.sets[index].status_replicas() > 0) {
            return true;
        }
        let new_uid = self.new.map(|new| self.sets[new].now.uid().to_owned());
        self.pods
            .iter()
            .filter(|(uid, _)| Some(*uid) != new_uid.as_ref())
            .any(|(_, pods)| pods.iter().any(|pod| !pods::is_terminal(pod)))
    }
}
