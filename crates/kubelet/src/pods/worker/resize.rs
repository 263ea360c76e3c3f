//! In-place resize: a changed spec is taken over when the node has room, then carried to the running containers.
//!
//! `Worker::pod` always has the resources that the pod was given; the spec's are seen only here. What was given is
//! found again in the pod's status after a restart of the kubelet.

use std::collections::BTreeMap;
use std::sync::Arc;

use isopod_podplan::resize::{self, Allocation, Verdict};
use isopod_podplan::{Op, Plan, cgroup, conditions, spec};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus, ResourceRequirements};

use super::Worker;
use crate::pods::steps;

/// Pause before what had no room, or failed, is tried again.
const RETRY: SignedDuration = SignedDuration::from_secs(5);
const PENDING: &str = "PodResizePending";
const IN_PROGRESS: &str = "PodResizeInProgress";

/// Resources of the pod's containers.
#[derive(Debug, Default)]
pub(super) struct Resources {
    /// What each container was given.
    given: Allocation,
    /// What each container instance runs with, by id.
    applied: BTreeMap<String, ResourceRequirements>,
    /// What the next instance of each container is started with, by name.
    launching: Allocation,
    /// The spec that was judged last, and the verdict if it is not taken over.
    judged: Option<(Allocation, Verdict)>,
    /// Why the last change of a container failed.
    error: Option<String>,
    pub(super) retry_at: Option<Timestamp>,
}

impl Worker {
    /// At the kubelet's start: what running containers have is what their status says.
    pub(super) fn take_resources_over(&mut self, before: &PodStatus) {
        self.resources.given = resize::wanted(&self.pod);
        if self.shared.is_static {
            return;
        }
        let lists = [&before.container_statuses, &before.init_container_statuses];
        for s in lists.into_iter().flatten().flatten() {
            let Some(has) = s.resources.clone().filter(|_| s.allocated_resources.is_some()) else { continue };
            let Some(id) = s.container_id.as_deref().and_then(|i| i.split_once("://")).map(|(_, id)| id)
            else {
                continue;
            };
            if self.observed.by_id(id).is_some_and(|o| o.running()) {
                let mut given = has.clone();
                given.requests.clone_from(&s.allocated_resources);
                self.resources.given.insert(s.name.clone(), given);
                self.resources.applied.insert(id.to_owned(), has);
            }
        }
    }

    /// Decides whether the spec's resources are taken over, and gives the worker the pod as it was given them.
    pub(super) fn settle_resources(&mut self) {
        let wanted = resize::wanted(&self.pod);
        let over = self.memory.ending.is_some() || self.pod.metadata.deletion_timestamp.is_some();
        if !resize::differs(&wanted, &self.resources.given) {
            // Also spellings of the same amounts, and what cannot be changed in place.
            self.resources.given = wanted;
            self.resources.judged = None;
        } else if !over {
            self.judge_resources(wanted);
        }
        if self.resources.judged.is_some() {
            self.pod = Arc::new(resize::with(&self.pod, &self.resources.given));
        }
        self.shared.view.write().given = Some(self.pod.clone());
    }

    fn judge_resources(&mut self, wanted: Allocation) {
        let now = self.kubelet.now();
        let due = self.resources.retry_at.is_none_or(|at| at <= now);
        match &self.resources.judged {
            Some((known, Verdict::Infeasible(_))) if *known == wanted => return,
            Some((known, _)) if *known == wanted && !due => return,
            _ => {}
        }
        let verdict = if self.shared.is_static {
            Verdict::Infeasible("In-place resize of static-pods is not supported".into())
        } else {
            let pods = &self.kubelet.pods;
            let _one_at_a_time = pods.admission.lock();
            let others = pods.active(&self.shared.uid);
            let verdict = resize::judge(&self.pod, &self.kubelet.node(), others.iter().map(AsRef::as_ref));
            if verdict == Verdict::Fits {
                self.resources.given.clone_from(&wanted);
                // Before the next pod is admitted.
                self.shared.view.write().given = Some(self.pod.clone());
            }
            verdict
        };
        let news = !matches!(&self.resources.judged, Some((known, v)) if *known == wanted && *v == verdict);
        if let (Some((reason, message)), true) = (verdict.pending(), news) {
            let text = format!("Pod resize {}: {message}", reason.to_lowercase());
            self.kubelet.event(&self.pod, None, true, &format!("Resize{reason}"), text);
        }
        self.resources.error = None;
        self.resources.retry_at = None;
        self.resources.judged = match verdict {
            Verdict::Fits => {
                self.kubelet.event(&self.pod, None, false, "ResizeStarted", "Pod resize started".into());
                None
            }
            verdict => {
                if matches!(verdict, Verdict::Deferred(_)) {
                    self.resources.retry_at = now.checked_add(RETRY).ok();
                }
                Some((wanted, verdict))
            }
        };
    }

    /// A container is being started with what it is given at this moment.
    pub(super) fn launching(&mut self, name: &str) {
        if let Some(given) = self.resources.given.get(name) {
            self.resources.launching.insert(name.to_owned(), given.clone());
        }
    }

    /// Running containers that have something else than they were given, with what they have.
    fn outdated(&self) -> Vec<(String, String, ResourceRequirements)> {
        let mut out = Vec::new();
        for (name, given) in &self.resources.given {
            let Some(o) = self.observed.latest(name).filter(|o| o.running()) else { continue };
            match self.resources.applied.get(&o.id) {
                Some(has) if resize::differ(has, given) => {
                    out.push((name.clone(), o.id.clone(), has.clone()))
                }
                _ => {}
            }
        }
        out
    }

    /// Carries what was given to the running containers.
    pub(super) fn apply_resources(&mut self, plan: &Plan, now: Timestamp) {
        self.resources.applied.retain(|id, _| self.observed.by_id(id).is_some());
        self.memory.resize_restarts.retain(|id| self.observed.by_id(id).is_some_and(|o| o.running()));
        for name in self.resources.given.keys() {
            let Some(o) = self.observed.latest(name).filter(|o| o.running()) else { continue };
            let r = &self.resources;
            let with = r.launching.get(name).unwrap_or(&r.given[name]);
            if !r.applied.contains_key(&o.id) {
                let with = with.clone();
                self.resources.applied.insert(o.id.clone(), with);
            }
        }
        let waits = self.resources.error.is_some() && self.resources.retry_at.is_some_and(|at| at > now);
        if plan.over || waits {
            return;
        }
        for (name, id, from) in self.outdated() {
            let Some((_, container)) = spec::find(&self.pod, &name) else { continue };
            let to = container.resources.clone().unwrap_or_default();
            if resize::restarts(&container, &from, &to) {
                if self.memory.resize_restarts.insert(id) {
                    self.shared.wake.notify_one();
                }
                continue;
            }
            let op = Op::Resize(id.clone());
            if self.aborts.contains_key(&op) {
                continue;
            }
            let mut before = self.resources.given.clone();
            before.insert(name, from.clone());
            let pod_from = cgroup::pod_limits(&resize::with(&self.pod, &before));
            let change = steps::Resize { id, container: container.into_owned(), from, pod_from };
            self.spawn(op, steps::resize(self.kubelet.clone(), self.pod.clone(), change));
        }
    }

    /// A container's limits were changed, or not.
    pub(super) fn resized(
        &mut self,
        id: String,
        resources: ResourceRequirements,
        result: Result<(), String>,
        now: Timestamp,
    ) {
        match result {
            Ok(()) => {
                self.resources.applied.insert(id, resources);
                self.resources.error = None;
                if self.outdated().is_empty() {
                    let text = "Pod resize completed".to_owned();
                    self.kubelet.event(&self.pod, None, false, "ResizeCompleted", text);
                }
            }
            Err(error) => {
                if self.resources.error.as_ref() != Some(&error) {
                    self.kubelet.event(&self.pod, None, true, "ResizeError", error.clone());
                }
                self.resources.error = Some(error);
                self.resources.retry_at = now.checked_add(RETRY).ok();
            }
        }
    }

    /// Puts into the status what containers really have, and how far a resize is.
    pub(super) fn show_resources(&self, status: &mut PodStatus, now: Timestamp) {
        let correct = |list: &mut Option<Vec<ContainerStatus>>| {
            for s in list.iter_mut().flatten().filter(|s| s.resources.is_some()) {
                let id = s.container_id.as_deref().and_then(|i| i.split_once("://")).map(|(_, id)| id);
                if let Some(has) = id.and_then(|id| self.resources.applied.get(id)) {
                    s.resources = Some(has.clone());
                }
            }
        };
        correct(&mut status.container_statuses);
        correct(&mut status.init_container_statuses);
        let list = status.conditions.get_or_insert_default();
        match self.resources.judged.as_ref().and_then(|(_, verdict)| verdict.pending()) {
            Some((reason, message)) => conditions::set(list, &self.pod, PENDING, reason, message, now),
            None => list.retain(|c| c.type_ != PENDING),
        }
        if self.outdated().is_empty() {
            list.retain(|c| c.type_ != IN_PROGRESS);
        } else {
            let (reason, message) = self.resources.error.as_deref().map_or(("", ""), |e| ("Error", e));
            conditions::set(list, &self.pod, IN_PROGRESS, reason, message, now);
        }
    }
}
