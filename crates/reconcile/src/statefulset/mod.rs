//! StatefulSets: pods with names that last, made and removed in order, updated from the end.
//!
//! Invariant of the ordered policy: at most one pod is missing, unready or on its way out by this controller's doing.
//! Matches upstream's pkg/controller/statefulset.

pub mod pod;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};

use crate::claim::claim;
use crate::history::{self, REVISION_HASH};
use crate::labels;
use crate::meta::{Meta, reference};
use crate::plan::{Action, Event, Plan, Step, Tail, Tolerate};
use crate::pods;

/// Label of revisions with their hash.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";

/// What is known about one StatefulSet.
#[derive(Debug, Default)]
pub struct View {
    /// Pods that the set controls, and those of its namespace without a controller.
    pub pods: Vec<Arc<Pod>>,
    /// Claims of the namespace by name, as far as the set's pods may use them.
    pub claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    /// Revisions that the set controls.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// The cache has caught up with this set's earlier creations and deletions.
    pub settled: bool,
}

struct Revision {
    name: String,
    template: PodTemplateSpec,
}

struct Pass<'a> {
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    claims: &'a BTreeMap<String, Arc<PersistentVolumeClaim>>,
    current: Revision,
    update: Revision,
    /// One place for each ordinal that should exist.
    replicas: Vec<Option<Arc<Pod>>>,
    /// Pods beyond, highest ordinal first.
    condemned: Vec<Arc<Pod>>,
    status: StatefulSetStatus,
    now: Timestamp,
}

/// Names of the claims that pods of the set may use; what the caller looks up for the view.
pub fn claim_names(set: &StatefulSet, pods: &[Arc<Pod>]) -> BTreeSet<String> {
    let Some(spec) = &set.spec else { return BTreeSet::new() };
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    let wanted = start..start.saturating_add(spec.replicas.unwrap_or(1));
    let present = pods.iter().filter_map(|pod| pod::ordinal(set, pod));
    let templates = spec.volume_claim_templates.as_deref().unwrap_or_default();
    wanted
        .chain(present)
        .flat_map(|ordinal| templates.iter().map(move |template| pod::claim_name(set, template, ordinal)))
        .collect()
}

/// Decides for one StatefulSet.
pub fn reconcile(set: &Arc<StatefulSet>, view: View, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let Some(spec) = &set.spec else { return plan };
    if labels::is_empty(&spec.selector) {
        return plan;
    }
    let mut claimed = claim(
        set.as_ref(),
        &view.pods,
        |pod| pod::ordinal(set, pod).is_some() && labels::matches(&spec.selector, pod.labels()),
        None,
    );
    if let Some(step) = claimed.step() {
        plan.steps.push(step);
        return plan;
    }
    if !view.settled {
        return plan;
    }
    let Some((current, update)) = revisions(set, spec, &view.revisions, &mut plan) else { return plan };
    let mut pass = Pass::new(set, spec, &view.claims, current, update, claimed.owned, now);
    if !set.deleting() {
        pass.act(&mut plan);
    }
    pass.complete_rollout();
    let live: BTreeSet<&str> = pass
        .pods()
        .filter_map(|pod| pod.labels().get(REVISION_HASH).map(String::as_str))
        .chain([pass.current.name.as_str(), pass.update.name.as_str()])
        .collect();
    let limit = spec.revision_history_limit.unwrap_or(10);
    let idle = history::truncate(&view.revisions, |revision| live.contains(revision.name()), limit);
    plan.steps.extend(pass.report().map(Step::One));
    plan.steps.extend(idle.into_iter().map(Step::One));
    let all: Vec<_> = pass.pods().cloned().collect();
    if let Some(after) = pods::next_availability(&all, spec.min_ready_seconds.unwrap_or(0), now) {
        plan.requeue(after);
    }
    plan
}

/// The current and the update revision; nothing while the update revision must first be made.
fn revisions(
    set: &Arc<StatefulSet>,
    spec: &StatefulSetSpec,
    all: &[Arc<ControllerRevision>],
    plan: &mut Plan,
) -> Option<(Revision, Revision)> {
    let data = history::data(&spec.template);
    let highest = history::next_number(all) - 1;
    let equal = all.iter().filter(|revision| history::holds(revision, &data)).max_by_key(|r| r.revision);
    let Some(update) = equal else {
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let new = history::make(set.as_ref(), &spec.template, highest + 1, collisions, HASH_LABEL);
        let tolerate = Tolerate { terminating: true, already_exists: true, ..Tolerate::default() };
        plan.push(Action::create(&new).tolerating(tolerate));
        let set = set.clone();
        plan.then = Some(Box::new(move |outcome| {
            let mut next = Plan::nothing();
            if matches!(outcome.results.last(), Some(Err(error)) if error.is_already_exists()) {
                let mut copy = set.as_ref().clone();
                let status = copy.status.get_or_insert_default();
                status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
                next.push(Action::update_status(&copy));
                next.retry = true;
            }
            next
        }));
        return None;
    };
    if update.revision < highest {
        // An old template came back: it is the newest now.
        let mut copy = update.as_ref().clone();
        copy.revision = highest + 1;
        plan.push(Action::update(&copy));
    }
    let update = Revision { name: update.name().to_owned(), template: spec.template.clone() };
    let named = set.status.as_ref().and_then(|status| status.current_revision.clone()).unwrap_or_default();
    let current = all
        .iter()
        .find(|revision| revision.name() == named)
        .and_then(|revision| Some(Revision { name: named.clone(), template: history::template(revision)? }))
        .unwrap_or_else(|| Revision { name: update.name.clone(), template: update.template.clone() });
    Some((current, update))
}

fn revision_of(pod: &Pod) -> &str {
    pod.labels().get(REVISION_HASH).map_or("", String::as_str)
}

fn is_running_and_ready(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

fn is_created(pod: &Pod) -> bool {
    !pods::phase(pod).is_empty()
}

impl<'a> Pass<'a> {
    fn new(
        set: &'a StatefulSet,
        spec: &'a StatefulSetSpec,
        claims: &'a BTreeMap<String, Arc<PersistentVolumeClaim>>,
        current: Revision,
        update: Revision,
        owned: Vec<Arc<Pod>>,
        now: Timestamp,
    ) -> Self {
        let count = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
        let mut replicas: Vec<Option<Arc<Pod>>> = vec![None; count];
        let mut condemned = Vec::new();
        for pod in owned {
            let place = pod::ordinal(set, &pod).and_then(|ordinal| usize::try_from(ordinal - start).ok());
            match place.and_then(|place| replicas.get_mut(place)) {
                Some(place) => *place = Some(pod),
                None => condemned.push(pod),
            }
        }
        condemned.sort_by_key(|pod| std::cmp::Reverse(pod::ordinal(set, pod)));
        let old = set.status.clone().unwrap_or_default();
        let mut pass = Self {
            set,
            spec,
            claims,
            status: StatefulSetStatus {
                observed_generation: Some(set.generation()),
                current_revision: Some(current.name.clone()),
                update_revision: Some(update.name.clone()),
                collision_count: Some(old.collision_count.unwrap_or(0)),
                conditions: old.conditions,
                ..StatefulSetStatus::default()
            },
            current,
            update,
            replicas,
            condemned,
            now,
        };
        pass.count();
        pass
    }

    fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.replicas.iter().flatten().chain(&self.condemned)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::phase(pod) == "Running"
            && pods::is_available(pod, self.spec.min_ready_seconds.unwrap_or(0), self.now)
    }

    fn count(&mut self) {
        let (mut all, mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0, 0);
        for pod in self.pods().filter(|pod| is_created(pod)) {
            all += 1;
            ready += i32::from(is_running_and_ready(pod));
            available += i32::from(self.is_available(pod));
            if !pod.deleting() {
                current += i32::from(revision_of(pod) == self.current.name);
                updated += i32::from(revision_of(pod) == self.update.name);
            }
        }
        self.status.replicas = all;
        self.status.ready_replicas = Some(ready);
        self.status.available_replicas = Some(available);
        self.status.current_replicas = Some(current);
        self.status.updated_replicas = Some(updated);
    }

    fn is_ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn start(&self) -> i32 {
        self.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0)
    }

    fn is_rolling(&self) -> bool {
        let strategy = self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref());
        strategy.is_none_or(|kind| kind == "RollingUpdate")
    }

    fn partition(&self) -> Option<i32> {
        self.spec.update_strategy.as_ref()?.rolling_update.as_ref().map(|r| r.partition.unwrap_or(0))
    }

    /// Which template the pod of a place gets when it is made.
    fn revision_for(&self, place: usize) -> &Revision {
        let place = i32::try_from(place).unwrap_or(i32::MAX);
        let kept = match self.partition() {
            Some(partition) => place + self.start() < self.start() + partition,
            None => place < self.set.status.as_ref().and_then(|s| s.current_replicas).unwrap_or(0),
        };
        if self.is_rolling() && kept { &self.current } else { &self.update }
    }

    fn act(&mut self, plan: &mut Plan) {
        for place in 0..self.replicas.len() {
            if self.bring_up(place, plan) && self.is_ordered() {
                return;
            }
        }
        self.repair_claims(plan);
        if self.shrink(plan) || !self.is_rolling() {
            return;
        }
        self.update_pods(plan);
    }

    /// One replica. True if the ordered policy must wait for it.
    fn bring_up(&mut self, place: usize, plan: &mut Plan) -> bool {
        let ordinal = self.start() + i32::try_from(place).unwrap_or(i32::MAX);
        let Some(pod) = self.replicas[place].clone() else {
            self.create(place, ordinal, plan);
            return true;
        };
        if pods::is_terminal(&pod) {
            if !pod.deleting() {
                let name = format!("{}/{}", self.set.namespace(), self.set.name());
                let about = reference(self.set);
                plan.note(if pods::phase(&pod) == "Failed" {
                    let text = format!("StatefulSet {name} is recreating failed Pod {}", pod.name());
                    Event::warning(about, "RecreatingFailedPod", text)
                } else {
                    let text = format!("StatefulSet {name} is recreating terminated Pod {}", pod.name());
                    Event::normal(about, "RecreatingTerminatedPod", text)
                });
                plan.push(self.delete(&pod));
            }
            return true;
        }
        if pods::phase(&pod) == "Pending" && !pod.deleting() {
            self.create_claims(&pod, ordinal, plan);
        }
        if pod.deleting() || !is_running_and_ready(&pod) || !self.is_available(&pod) {
            return true;
        }
        if let Some(repaired) = pod::repaired(&pod, ordinal) {
            plan.push(Action::update(&repaired));
        }
        false
    }

    fn create(&mut self, place: usize, ordinal: i32, plan: &mut Plan) {
        let revision = self.revision_for(place);
        let pod = pod::make(self.set, &revision.template, &revision.name, ordinal);
        let (is_current, is_update) = (revision.name == self.current.name, revision.name == self.update.name);
        self.create_claims(&pod, ordinal, plan);
        let about = reference(self.set);
        let place_of = format!("Pod {} in StatefulSet {}", pod.name(), self.set.name());
        let ok = Event::normal(about.clone(), "SuccessfulCreate", format!("create {place_of} successful"));
        let failed = Event::warning(about, "FailedCreate", format!("create {place_of} failed error: "));
        let tolerate = Tolerate { terminating: true, ..Tolerate::default() };
        plan.push(Action::create(&pod).ok_event(ok).err_event(failed.tail(Tail::Error)).tolerating(tolerate));
        let add = |count: &mut Option<i32>, by: bool| *count = Some(count.unwrap_or(0) + i32::from(by));
        self.status.replicas += 1;
        add(&mut self.status.current_replicas, is_current);
        add(&mut self.status.updated_replicas, is_update);
    }

    fn create_claims(&self, pod: &Pod, ordinal: i32, plan: &mut Plan) {
        for mut claim in pod::claims(self.set, ordinal) {
            if self.claims.contains_key(claim.name()) {
                continue;
            }
            if let Some(owned) = pod::owned_claim(self.set, None, false, &claim) {
                claim = owned;
            }
            let about = reference(self.set);
            let what = format!(
                "create Claim {} Pod {} in StatefulSet {}",
                claim.name(),
                pod.name(),
                self.set.name()
            );
            let ok = Event::normal(about.clone(), "SuccessfulCreate", format!("{what} success"));
            let failed = Event::warning(about, "FailedCreate", format!("{what} failed error: "));
            plan.push(
                Action::create(&claim)
                    .ok_event(ok)
                    .err_event(failed.tail(Tail::Error))
                    .tolerating(Tolerate { already_exists: true, ..Tolerate::default() }),
            );
        }
    }

    fn delete(&self, pod: &Pod) -> Action {
        let about = reference(self.set);
        let what = format!("delete Pod {} in StatefulSet {}", pod.name(), self.set.name());
        let failed = Event::warning(about.clone(), "FailedDelete", format!("{what} failed error: "));
        Action::delete(pod)
            .ok_event(Event::normal(about, "SuccessfulDelete", format!("{what} successful")))
            .err_event(failed.tail(Tail::Error))
    }

    /// Owners of claims follow the retention policy.
    fn repair_claims(&self, plan: &mut Plan) {
        let living = self.replicas.iter().flatten().map(|pod| (pod, false));
        let all = living.chain(self.condemned.iter().map(|pod| (pod, true)));
        for (pod, condemned) in all {
            let Some(ordinal) = pod::ordinal(self.set, pod) else { continue };
            for wanted in pod::claims(self.set, ordinal) {
                let Some(claim) = self.claims.get(wanted.name()) else { continue };
                if let Some(owned) = pod::owned_claim(self.set, Some(pod), condemned, claim) {
                    plan.push(Action::update(&owned));
                }
            }
        }
    }

    /// Removes condemned pods. True if the pass ends here.
    fn shrink(&mut self, plan: &mut Plan) -> bool {
        let ordered = self.is_ordered();
        let unhealthy = |pod: &&Arc<Pod>| !is_running_and_ready(pod) || pod.deleting();
        let first_unhealthy = self
            .replicas
            .iter()
            .flatten()
            .find(unhealthy)
            .or_else(|| self.condemned.iter().rev().find(unhealthy))
            .map(|pod| pod.name().to_owned());
        for pod in self.condemned.clone() {
            if pod.deleting() {
                if ordered {
                    return true;
                }
                continue;
            }
            let is_first = first_unhealthy.as_deref() == Some(pod.name());
            if ordered && !is_first && (!is_running_and_ready(&pod) || !self.is_available(&pod)) {
                return true;
            }
            plan.push(self.delete(&pod));
            self.uncount(&pod);
            if ordered {
                return true;
            }
        }
        false
    }

    fn uncount(&mut self, pod: &Pod) {
        let less = |count: &mut Option<i32>| *count = Some(count.unwrap_or(0) - 1);
        if revision_of(pod) == self.current.name {
            less(&mut self.status.current_replicas);
        }
        if revision_of(pod) == self.update.name {
            less(&mut self.status.updated_replicas);
        }
    }

    /// Replaces pods of older revisions from the highest ordinal down, within the limit of unavailable pods.
    fn update_pods(&mut self, plan: &mut Plan) {
        let partition = self.partition().unwrap_or(0);
        let lowest = usize::try_from(partition - self.start()).unwrap_or(0);
        let rolling = self.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let total = i32::try_from(self.replicas.len()).unwrap_or(i32::MAX);
        let limit = crate::int_or_percent::scaled(
            rolling.and_then(|rolling| rolling.max_unavailable.as_ref()),
            "1",
            total,
            true,
        )
        .max(1);
        let healthy = |pod: &Arc<Pod>| is_running_and_ready(pod) && !pod.deleting() && self.is_available(pod);
        let missing = self.replicas.iter().filter(|pod| !pod.as_ref().is_some_and(healthy)).count();
        let mut room = limit - i32::try_from(missing).unwrap_or(i32::MAX);
        let mut remove = Vec::new();
        for pod in self.replicas.iter().skip(lowest).rev() {
            let Some(pod) = pod else { continue };
            let old = revision_of(pod) != self.update.name && !pod.deleting();
            // A broken pod of an old revision costs nothing to replace.
            let free = !healthy(pod);
            if old && (free || room > 0) {
                room -= i32::from(!free);
                remove.push(pod.clone());
                if limit == 1 {
                    break;
                }
            } else if !healthy(pod) && limit == 1 {
                break;
            }
        }
        for pod in remove {
            plan.push(self.delete(&pod));
            self.uncount(&pod);
        }
    }

    /// When all pods are of the update revision and ready, that is the current one.
    fn complete_rollout(&mut self) {
        let status = &mut self.status;
        let all = self.spec.replicas.unwrap_or(1);
        let strategy = self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref());
        let rolling = strategy.is_none_or(|kind| kind == "RollingUpdate");
        if rolling
            && status.updated_replicas == Some(status.replicas)
            && status.ready_replicas == Some(status.replicas)
            && status.replicas == all
        {
            status.current_replicas = status.updated_replicas;
            status.current_revision = Some(self.update.name.clone());
        }
    }

    fn report(&self) -> Option<Action> {
        let mut status = self.status.clone();
        for count in [&mut status.ready_replicas, &mut status.current_replicas, &mut status.updated_replicas]
        {
            *count = count.filter(|count| *count != 0);
        }
        let old = self.set.status.clone().unwrap_or_default();
        (!crate::template::semantically_equal(&old, &status)).then(|| {
            let mut copy = self.set.clone();
            copy.status = Some(status);
            Action::update_status(&copy)
        })
    }
}
