//! Deployment: rolling update, recreation, scaling in proportion, revisions, rollback by template, progress.
//!
//! The pass works on copies of the ReplicaSets and of the Deployment. What differs from the originals at the end
//! becomes one write each, so a pass never conflicts with itself. Pods are never touched: ReplicaSets own them.
//! Matches upstream's pkg/controller/deployment; a collision is recognised when the creation is refused.

mod conditions;
mod revisions;
mod rollout;
mod scaling;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;

use crate::claim::claim;
use crate::labels;
use crate::meta::{Meta, reference};
use crate::plan::{Action, Event, Plan};

pub use revisions::{REVISION, REVISION_HISTORY};
pub use scaling::{max_surge, max_unavailable};

/// What is known about one Deployment.
#[derive(Debug, Default)]
pub struct View {
    /// ReplicaSets that the Deployment controls, and those of its namespace without a controller.
    pub replica_sets: Vec<Arc<ReplicaSet>>,
    /// Pods by the uid of the ReplicaSet that controls them; asked for only by the Recreate strategy.
    pub pods: BTreeMap<String, Vec<Arc<Pod>>>,
}

/// A ReplicaSet in the course of a pass.
struct Replica {
    original: Arc<ReplicaSet>,
    now: ReplicaSet,
    events: Vec<Event>,
}

impl Replica {
    fn replicas(&self) -> i32 {
        self.now.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }
    fn status_replicas(&self) -> i32 {
        self.now.status.as_ref().map_or(0, |status| status.replicas)
    }
    fn available(&self) -> i32 {
        self.now.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
    }
    fn ready(&self) -> i32 {
        self.now.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
    }
}

/// One pass over one Deployment.
struct Pass {
    original: Arc<Deployment>,
    deployment: Deployment,
    /// ReplicaSets, oldest first.
    sets: Vec<Replica>,
    /// Index of the ReplicaSet with the current template.
    new: Option<usize>,
    /// A ReplicaSet to create, with its wanted revision.
    creation: Option<ReplicaSet>,
    deletions: Vec<Action>,
    pods: BTreeMap<String, Vec<Arc<Pod>>>,
    now: Timestamp,
    requeue: Option<std::time::Duration>,
}

/// Decides for one Deployment.
pub fn reconcile(deployment: &Arc<Deployment>, view: View, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let Some(spec) = &deployment.spec else { return plan };
    if labels::is_empty(&spec.selector) {
        return selecting_all(deployment);
    }
    let mut claimed = claim(
        deployment.as_ref(),
        &view.replica_sets,
        |set| labels::matches(&spec.selector, set.labels()),
        None,
    );
    if let Some(step) = claimed.step() {
        // The adopted sets come back through the cache with their new owner; go on from there.
        plan.steps.push(step);
        return plan;
    }
    let mut sets = claimed.owned;
    sets.sort_by(|a, b| a.created().cmp(&b.created()).then_with(|| a.name().cmp(b.name())));
    let sets: Vec<Replica> = sets
        .into_iter()
        .map(|original| Replica { now: original.as_ref().clone(), original, events: Vec::new() })
        .collect();
    let mut pass = Pass {
        original: deployment.clone(),
        deployment: deployment.as_ref().clone(),
        new: None,
        sets,
        creation: None,
        deletions: Vec::new(),
        pods: view.pods,
        now,
        requeue: None,
    };
    pass.new = pass.find_new();
    pass.decide();
    pass.finish()
}

fn selecting_all(deployment: &Arc<Deployment>) -> Plan {
    let mut plan = Plan::nothing();
    plan.note(Event::warning(
        reference(deployment.as_ref()),
        "SelectingAll",
        "This deployment is selecting all pods. A non-empty selector is required.",
    ));
    let observed = deployment.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
    if observed < deployment.generation() {
        let mut copy = deployment.as_ref().clone();
        copy.status.get_or_insert_default().observed_generation = Some(deployment.generation());
        plan.push(Action::update_status(&copy));
    }
    plan
}

impl Pass {
    fn spec(&self) -> &k8s_openapi::api::apps::v1::DeploymentSpec {
        self.deployment.spec.as_ref().expect("checked before the pass")
    }
    fn status(&mut self) -> &mut DeploymentStatus {
        self.deployment.status.get_or_insert_default()
    }
    fn wanted(&self) -> i32 {
        self.spec().replicas.unwrap_or(1)
    }
    fn olds(&self) -> Vec<usize> {
        (0..self.sets.len()).filter(|index| Some(*index) != self.new).collect()
    }
    fn active_olds(&self) -> Vec<usize> {
        self.olds().into_iter().filter(|index| self.sets[*index].replicas() > 0).collect()
    }

    fn decide(&mut self) {
        if self.deployment.deleting() {
            self.sync_status();
            return;
        }
        self.check_paused();
        if self.spec().paused == Some(true) {
            self.sync_revision(false);
            self.scale();
            self.clean_up();
            self.sync_status();
            return;
        }
        self.sync_revision(false);
        if self.is_scaling() {
            self.scale();
            self.sync_status();
            return;
        }
        if self.is_rolling() { self.roll() } else { self.recreate() }
    }

    /// Turns what changed into writes.
    fn finish(self) -> Plan {
        let mut plan = Plan::nothing();
        plan.requeue_after = self.requeue;
        for set in self.sets {
            if set.now != *set.original {
                let mut action = Action::update(&set.now);
                action.on_ok = set.events;
                plan.push(action);
            }
        }
        for deletion in self.deletions {
            plan.push(deletion);
        }
        let changed = self.deployment != *self.original;
        match self.creation {
            Some(set) => revisions::create(&mut plan, &self.original, self.deployment, set, self.now),
            None if changed => plan.push(Action::update_status(&self.deployment)),
            None => {}
        }
        plan
    }
}

#[cfg(test)]
mod tests;
