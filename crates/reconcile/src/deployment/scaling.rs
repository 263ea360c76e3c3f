//! Replica counts: surge and unavailability, scaling a ReplicaSet, scaling all in proportion.

use k8s_openapi::api::apps::v1::Deployment;

use super::Pass;
use crate::int_or_percent::scaled;
use crate::meta::{Meta, reference, set_annotation};
use crate::plan::Event;

pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";

fn is_rolling(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()).is_none_or(|kind| kind == "RollingUpdate")
}

fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    let spec = deployment.spec.as_ref();
    let wanted = spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let rolling = spec.and_then(|spec| spec.strategy.as_ref()).and_then(|s| s.rolling_update.as_ref());
    let surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()), "25%", wanted, true);
    let mut unavailable = scaled(rolling.and_then(|r| r.max_unavailable.as_ref()), "25%", wanted, false);
    if surge == 0 && unavailable == 0 {
        // Percentages may both round to nothing; then a rollout could not move at all.
        unavailable = 1;
    }
    (surge, unavailable)
}

/// Pods above the wanted number during a rolling update.
pub fn max_surge(deployment: &Deployment) -> i32 {
    if is_rolling(deployment) { fenceposts(deployment).0 } else { 0 }
}

/// Pods that may be missing during a rolling update.
pub fn max_unavailable(deployment: &Deployment) -> i32 {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    if !is_rolling(deployment) || wanted == 0 { 0 } else { fenceposts(deployment).1.min(wanted) }
}

impl Pass {
    pub(super) fn is_rolling(&self) -> bool {
        is_rolling(&self.deployment)
    }

    pub(super) fn total_replicas(&self) -> i32 {
        self.sets.iter().map(super::Replica::replicas).sum()
    }

    /// Whether somebody changed the number of replicas since the ReplicaSets were last scaled.
    pub(super) fn is_scaling(&self) -> bool {
        let wanted = self.wanted();
        self.sets.iter().filter(|set| set.replicas() > 0).any(|set| {
            let desired = set.now.annotations().get(DESIRED).and_then(|text| text.parse::<i32>().ok());
            desired.is_some_and(|desired| desired != wanted)
        })
    }

    /// Sets a ReplicaSet's size and its annotations; true if the size changed.
    pub(super) fn scale_set(&mut self, index: usize, size: i32) -> bool {
        let wanted = self.wanted();
        let max = wanted + max_surge(&self.deployment);
        let about = reference(&self.deployment);
        let set = &mut self.sets[index];
        let old = set.replicas();
        set_annotation(&mut set.now.metadata, DESIRED, wanted.to_string());
        set_annotation(&mut set.now.metadata, MAX, max.to_string());
        if old == size {
            return false;
        }
        let direction = if old < size { "up" } else { "down" };
        if let Some(spec) = &mut set.now.spec {
            spec.replicas = Some(size);
        }
        let text = format!("Scaled {direction} replica set {} from {old} to {size}", set.now.name());
        set.events.push(Event::normal(about, "ScalingReplicaSet", text));
        true
    }

    /// Brings the ReplicaSets to the wanted number without rolling out: used when paused and when only the number
    /// changed, so that an unfinished rollout keeps its proportions.
    pub(super) fn scale(&mut self) {
        let wanted = self.wanted();
        if let Some(index) = self.active_or_latest() {
            self.scale_set(index, wanted);
            return;
        }
        if self.is_saturated() {
            for index in self.active_olds() {
                self.scale_set(index, 0);
            }
            return;
        }
        if self.is_rolling() {
            self.scale_in_proportion();
        }
    }

    /// The only ReplicaSet with pods or, without any, the new one or else the latest.
    fn active_or_latest(&self) -> Option<usize> {
        let active: Vec<usize> = (0..self.sets.len()).filter(|i| self.sets[*i].replicas() > 0).collect();
        match active.as_slice() {
            [] => self.new.or_else(|| self.sets.len().checked_sub(1)),
            [only] => Some(*only),
            _ => None,
        }
    }

    fn is_saturated(&self) -> bool {
        let Some(index) = self.new else { return false };
        let set = &self.sets[index];
        let desired = set.now.annotations().get(DESIRED).and_then(|text| text.parse::<i32>().ok());
        let wanted = self.wanted();
        desired == Some(wanted) && set.replicas() == wanted && set.available() == wanted
    }

    fn scale_in_proportion(&mut self) {
        let mut active: Vec<usize> = (0..self.sets.len()).filter(|i| self.sets[*i].replicas() > 0).collect();
        let wanted = self.wanted();
        let allowed = if wanted > 0 { wanted + max_surge(&self.deployment) } else { 0 };
        let to_add = allowed - self.total_replicas();
        // Sets are kept oldest first; the larger goes first, and of equals the newer when growing.
        if to_add > 0 {
            active.reverse();
        }
        active.sort_by_key(|index| std::cmp::Reverse(self.sets[*index].replicas()));
        let mut added = 0;
        let mut sizes: Vec<(usize, i32)> = Vec::with_capacity(active.len());
        for index in active {
            let share = if to_add == 0 { 0 } else { self.share(index, to_add, added) };
            sizes.push((index, self.sets[index].replicas() + share));
            added += share;
        }
        if let Some(first) = sizes.first_mut()
            && to_add != 0
        {
            first.1 = (first.1 + to_add - added).max(0);
        }
        for (index, size) in sizes {
            self.scale_set(index, size);
        }
    }

    /// How much of the change falls to one ReplicaSet, by its share of the total before the change.
    fn share(&self, index: usize, to_add: i32, added: i32) -> i32 {
        let set = &self.sets[index];
        if set.replicas() == 0 || to_add == added {
            return 0;
        }
        let allowed = to_add - added;
        let fraction = self.fraction(index);
        if to_add > 0 { fraction.min(allowed) } else { fraction.max(allowed) }
    }

    fn fraction(&self, index: usize) -> i32 {
        let set = &self.sets[index];
        if self.wanted() == 0 {
            return -set.replicas();
        }
        let max = self.wanted() + max_surge(&self.deployment);
        let before = set.now.annotations().get(MAX).and_then(|text| text.parse::<i32>().ok()).unwrap_or(0);
        let before = if before != 0 {
            before
        } else {
            self.deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0)
        };
        if before == 0 {
            return 0;
        }
        let size = f64::from(set.replicas()) * f64::from(max) / f64::from(before);
        #[allow(clippy::cast_possible_truncation, reason = "a replica count times a ratio of replica counts")]
        let rounded = size.round() as i32;
        rounded - set.replicas()
    }
}
