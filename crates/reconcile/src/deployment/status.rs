//! The status of a Deployment, and whether it makes progress.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus};

use super::conditions::{
    self, AVAILABLE, NEW_SET_AVAILABLE, PROGRESSING, REPLICA_FAILURE, TIMED_OUT, condition,
};
use super::{Pass, max_unavailable};
use crate::meta::{Meta, plus_seconds, until};

impl Pass {
    fn count(&self) -> DeploymentStatus {
        let old = self.deployment.status.clone().unwrap_or_default();
        let coming = self.creation.as_ref().and_then(|set| set.spec.as_ref()?.replicas).unwrap_or(0);
        let total = self.total_replicas() + coming;
        let sum = |of: fn(&super::Replica) -> i32| self.sets.iter().map(of).sum::<i32>();
        let available = sum(super::Replica::available);
        let terminating: Vec<i32> = self
            .sets
            .iter()
            .filter_map(|set| set.now.status.as_ref().and_then(|status| status.terminating_replicas))
            .collect();
        let updated = self.new.map_or(0, |new| self.sets[new].status_replicas());
        let mut status = DeploymentStatus {
            observed_generation: Some(self.deployment.generation()),
            replicas: some(sum(super::Replica::status_replicas)),
            updated_replicas: some(updated),
            ready_replicas: some(sum(super::Replica::ready)),
            available_replicas: some(available),
            unavailable_replicas: some((total - available).max(0)),
            terminating_replicas: (!terminating.is_empty()).then(|| terminating.iter().sum()),
            collision_count: old.collision_count,
            conditions: old.conditions,
        };
        let enough = available >= self.wanted() - max_unavailable(&self.deployment);
        let new = if enough {
            let text = "Deployment has minimum availability.";
            condition(AVAILABLE, "True", "MinimumReplicasAvailable", text.to_owned(), self.now)
        } else {
            let text = "Deployment does not have minimum availability.";
            condition(AVAILABLE, "False", "MinimumReplicasUnavailable", text.to_owned(), self.now)
        };
        conditions::set(&mut status, new);
        status
    }

    /// Counts only: for paused, scaled and deleted Deployments.
    pub(super) fn sync_status(&mut self) {
        let status = self.count();
        self.store(status);
    }

    fn store(&mut self, status: DeploymentStatus) {
        // Absent and zero are the same on the wire; keep the original so that nothing is written for nothing.
        let old = self.deployment.status.clone().unwrap_or_default();
        if !crate::template::semantically_equal(&normal(old), &normal(status.clone())) {
            self.deployment.status = Some(status);
        }
    }

    /// Counts and judges progress: for Deployments in the course of a rollout.
    pub(super) fn sync_rollout_status(&mut self) {
        let mut status = self.count();
        let Some(deadline) = self.progress_deadline() else {
            conditions::remove(&mut status, PROGRESSING);
            self.copy_failure(&mut status);
            self.store(status);
            return;
        };
        let current = conditions::get(&status, PROGRESSING).cloned();
        let n = |value: Option<i32>| value.unwrap_or(0);
        let done = n(status.replicas) == n(status.updated_replicas)
            && current.as_ref().is_some_and(|c| c.reason.as_deref() == Some(NEW_SET_AVAILABLE));
        if !done {
            self.judge(&mut status, current, deadline);
        }
        self.copy_failure(&mut status);
        self.check_again(&status, deadline);
        self.store(status);
    }

    fn judge(&self, status: &mut DeploymentStatus, current: Option<DeploymentCondition>, deadline: i32) {
        let subject = match (self.new, &self.creation) {
            (Some(new), _) => format!("ReplicaSet \"{}\"", self.sets[new].now.name()),
            (None, Some(set)) => format!("ReplicaSet \"{}\"", set.name()),
            (None, None) => format!("Deployment \"{}\"", self.deployment.name()),
        };
        let now = self.now;
        if self.complete(status) {
            let text = format!("{subject} has successfully progressed.");
            conditions::set(status, condition(PROGRESSING, "True", NEW_SET_AVAILABLE, text, now));
        } else if self.progressing(status) {
            let text = format!("{subject} is progressing.");
            let mut new = condition(PROGRESSING, "True", "ReplicaSetUpdated", text, now);
            if let Some(current) = current {
                if current.status == "True" {
                    new.last_transition_time = current.last_transition_time;
                }
                conditions::remove(status, PROGRESSING);
            }
            conditions::set(status, new);
        } else if self.timed_out(current.as_ref(), deadline) {
            let text = format!("{subject} has timed out progressing.");
            conditions::set(status, condition(PROGRESSING, "False", TIMED_OUT, text, now));
        }
    }

    /// Whether the stored status says that the rollout is done.
    pub(super) fn is_complete(&self) -> bool {
        self.complete(&self.deployment.status.clone().unwrap_or_default())
    }

    fn complete(&self, status: &DeploymentStatus) -> bool {
        let wanted = self.wanted();
        let n = |value: Option<i32>| value.unwrap_or(0);
        n(status.updated_replicas) == wanted
            && n(status.replicas) == wanted
            && n(status.available_replicas) == wanted
            && status.observed_generation.unwrap_or(0) >= self.deployment.generation()
    }

    fn progressing(&self, new: &DeploymentStatus) -> bool {
        let old = self.original.status.clone().unwrap_or_default();
        let n = |value: Option<i32>| value.unwrap_or(0);
        let olds = |status: &DeploymentStatus| n(status.replicas) - n(status.updated_replicas);
        n(new.updated_replicas) > n(old.updated_replicas)
            || olds(new) < olds(&old)
            || n(new.ready_replicas) > n(old.ready_replicas)
            || n(new.available_replicas) > n(old.available_replicas)
    }

    fn timed_out(&self, current: Option<&DeploymentCondition>, deadline: i32) -> bool {
        let Some(current) = current else { return false };
        match current.reason.as_deref() {
            Some(NEW_SET_AVAILABLE) => false,
            Some(TIMED_OUT) => true,
            _ => current
                .last_update_time
                .as_ref()
                .is_some_and(|at| plus_seconds(at.0, deadline.into()) < self.now),
        }
    }

    /// Looks again when the deadline passes.
    fn check_again(&mut self, status: &DeploymentStatus, deadline: i32) {
        let Some(current) = conditions::get(status, PROGRESSING) else { return };
        // With the reason of a finished rollout the deadline no longer counts.
        if self.complete(status) || matches!(current.reason.as_deref(), Some(TIMED_OUT | NEW_SET_AVAILABLE)) {
            return;
        }
        let Some(at) = &current.last_update_time else { return };
        let after = until(plus_seconds(at.0, deadline.into()), self.now);
        self.requeue = Some(after + Duration::from_secs(1));
    }

    fn copy_failure(&self, status: &mut DeploymentStatus) {
        let order = self.new.into_iter().chain(self.olds());
        let failure = order
            .filter_map(|index| self.sets[index].now.status.as_ref()?.conditions.as_ref())
            .flatten()
            .find(|condition| condition.type_ == REPLICA_FAILURE);
        match failure {
            Some(c) => conditions::set(
                status,
                DeploymentCondition {
                    type_: c.type_.clone(),
                    status: c.status.clone(),
                    reason: c.reason.clone(),
                    message: c.message.clone(),
                    last_transition_time: c.last_transition_time.clone(),
                    last_update_time: c.last_transition_time.clone(),
                },
            ),
            None => conditions::remove(status, REPLICA_FAILURE),
        }
    }
}

/// Upstream omits zeros of a Deployment's counts.
fn some(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

fn normal(mut status: DeploymentStatus) -> DeploymentStatus {
    for field in [
        &mut status.replicas,
        &mut status.updated_replicas,
        &mut status.ready_replicas,
        &mut status.available_replicas,
        &mut status.unavailable_replicas,
    ] {
        *field = field.filter(|count| *count != 0);
    }
    status
}
