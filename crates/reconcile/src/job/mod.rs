//! Jobs: pods run to completion, each counted exactly once.
//!
//! A pod carries a finalizer until its end is counted: first its uid is written into
//! `status.uncountedTerminatedPods`, then the finalizer goes, then the counter takes the place of the uid. A crash
//! between any two of these neither loses a pod nor counts it twice. Matches upstream's pkg/controller/job.

mod indexes;
mod manage;
mod policy;
mod track;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec};
use k8s_openapi::api::core::v1::Pod;

pub use indexes::Indexes;

use crate::claim::claim;
use crate::labels;
use crate::meta::{Meta, plus_seconds, reference, time, until};
use crate::plan::{Event, Plan, Step};
use crate::pods;
use policy::Verdict;

/// Finalizer of a Job's pods.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Label and annotation with a pod's completion index.
pub const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
const FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED_COUNT: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// What is known about one Job.
#[derive(Debug, Default)]
pub struct View {
    /// Pods that the Job controls, and those of its namespace without a controller.
    pub pods: Vec<Arc<Pod>>,
    /// Uids of pods whose finalizer was removed, which the cache may not show yet.
    pub released: HashSet<String>,
    /// The cache has caught up with this Job's earlier creations and deletions.
    pub settled: bool,
}

/// The condition of this type, if it is true.
pub fn condition<'a>(job: &'a Job, kind: &str) -> Option<&'a JobCondition> {
    let list = job.status.as_ref()?.conditions.as_ref()?;
    list.iter().find(|condition| condition.type_ == kind && condition.status == "True")
}

/// Whether the Job is over, and since when.
pub fn finished(job: &Job) -> Option<&JobCondition> {
    condition(job, "Complete").or_else(|| condition(job, "Failed"))
}

/// Whether another controller looks after the Job.
pub fn is_managed_elsewhere(job: &Job) -> bool {
    let by = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
    by.is_some_and(|by| by != "kubernetes.io/job-controller")
}

/// Whether a pod still carries the finalizer.
pub fn is_tracked(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|finalizer| finalizer == TRACKING)
}

/// A pod's completion index.
pub fn completion_index(pod: &Pod) -> Option<i32> {
    pod.annotations().get(COMPLETION_INDEX)?.parse().ok().filter(|index| *index >= 0)
}

fn new_condition(kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(time(now)),
        last_transition_time: Some(time(now)),
    }
}

/// One pass over one Job.
struct Pass {
    original: Arc<Job>,
    job: Job,
    now: Timestamp,
    /// All pods of the Job.
    pods: Vec<Arc<Pod>>,
    active: Vec<Arc<Pod>>,
    released: HashSet<String>,
    uncounted_succeeded: BTreeSet<String>,
    uncounted_failed: BTreeSet<String>,
    terminating: i32,
    ready: i32,
    succeeded: i32,
    failed: i32,
    /// Indexes that the status says have succeeded, and those that have by now.
    previous_indexes: Indexes,
    succeeded_indexes: Indexes,
    failed_indexes: Option<Indexes>,
    /// Last failed pod of each index, kept until its replacement is made, since it holds the failure count.
    delayed: BTreeMap<i32, Arc<Pod>>,
    /// FailureTarget or SuccessCriteriaMet.
    verdict: Option<JobCondition>,
    suspend_changed: bool,
    events: Vec<Event>,
    requeue: Option<std::time::Duration>,
}

impl Pass {
    fn spec(&self) -> &JobSpec {
        self.job.spec.as_ref().expect("checked before the pass")
    }
    fn completions(&self) -> i32 {
        self.spec().completions.unwrap_or(0)
    }
    fn is_indexed(&self) -> bool {
        self.spec().completion_mode.as_deref() == Some("Indexed")
    }
    fn is_suspended(&self) -> bool {
        self.spec().suspend == Some(true)
    }
    fn replaces_failed_only(&self) -> bool {
        self.spec().pod_replacement_policy.as_deref() == Some("Failed")
    }
    fn limit_per_index(&self) -> Option<i32> {
        self.spec().backoff_limit_per_index
    }
    fn valid_index(&self, pod: &Pod) -> Option<i32> {
        completion_index(pod).filter(|index| *index < self.completions())
    }
    /// Failed, or on its way out where that counts as failed.
    fn is_failed(&self, pod: &Pod) -> bool {
        let phase = pods::phase(pod);
        phase == "Failed" || (!self.replaces_failed_only() && phase != "Succeeded" && pod.deleting())
    }
    fn requeue(&mut self, after: std::time::Duration) {
        self.requeue = Some(self.requeue.map_or(after, |old| old.min(after)));
    }
}

/// Decides for one Job.
pub fn reconcile(job: &Arc<Job>, view: View, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let Some(spec) = &job.spec else { return plan };
    if finished(job).is_some() || is_managed_elsewhere(job) {
        return plan;
    }
    let selector = spec.selector.clone().unwrap_or_default();
    let mut claimed = claim(
        job.as_ref(),
        &view.pods,
        |pod| !labels::is_empty(&selector) && labels::matches(&selector, pod.labels()),
        Some(TRACKING),
    );
    if let Some(step) = claimed.step() {
        // Adopted pods come back through the cache with their finalizer; count them then.
        plan.steps.push(step);
        return plan;
    }
    let mut pass = Pass::new(job, claimed.owned, view.released, now);
    pass.judge();
    let act = if pass.verdict.is_some() {
        manage::Act::delete(pass.active.clone())
    } else if view.settled && !job.deleting() {
        pass.manage()
    } else {
        manage::Act::wait()
    };
    plan.steps.extend(act.step(&pass));
    let asked = view.settled && pass.verdict.is_none();
    plan.then = Some(Box::new(move |outcome| {
        let (made, removed) = act.outcome(outcome);
        pass.conclude(asked, made, removed)
    }));
    plan
}

impl Pass {
    fn new(job: &Arc<Job>, owned: Vec<Arc<Pod>>, released: HashSet<String>, now: Timestamp) -> Self {
        let status = job.status.clone().unwrap_or_default();
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let active: Vec<_> = owned.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let count = |test: &dyn Fn(&Arc<Pod>) -> bool| {
            i32::try_from(owned.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
        };
        let mut pass = Self {
            original: job.clone(),
            job: job.as_ref().clone(),
            now,
            terminating: count(&|pod| pods::is_terminating(pod)),
            ready: count(&|pod| pods::is_active(pod) && pods::is_ready(pod)),
            pods: owned,
            active,
            released,
            uncounted_succeeded: uncounted.succeeded.unwrap_or_default().into_iter().collect(),
            uncounted_failed: uncounted.failed.unwrap_or_default().into_iter().collect(),
            succeeded: 0,
            failed: 0,
            previous_indexes: Indexes::default(),
            succeeded_indexes: Indexes::default(),
            failed_indexes: None,
            delayed: BTreeMap::new(),
            verdict: None,
            suspend_changed: false,
            events: Vec::new(),
            requeue: None,
        };
        pass.count();
        pass
    }

    /// Pods that ended and are in no counter and no list yet.
    fn is_new_end(&self, pod: &Pod, known: &BTreeSet<String>) -> bool {
        is_tracked(pod) && !known.contains(pod.uid()) && !self.released.contains(pod.uid())
    }

    fn count(&mut self) {
        let status = self.job.status.clone().unwrap_or_default();
        let size = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let new_succeeded = self
            .pods
            .iter()
            .filter(|pod| pods::phase(pod) == "Succeeded" && self.is_new_end(pod, &self.uncounted_succeeded))
            .count();
        let new_failed = self
            .pods
            .iter()
            .filter(|pod| self.is_failed(pod) && self.is_new_end(pod, &self.uncounted_failed))
            .filter(|pod| policy::failure(&self.job, pod) != Verdict::Ignore)
            .count();
        self.succeeded =
            status.succeeded.unwrap_or(0) + size(new_succeeded) + size(self.uncounted_succeeded.len());
        self.failed = status.failed.unwrap_or(0) + size(new_failed) + size(self.uncounted_failed.len());
        if !self.is_indexed() {
            return;
        }
        self.previous_indexes =
            Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), self.completions());
        let fresh: Vec<i32> = self
            .pods
            .iter()
            .filter(|pod| pods::phase(pod) == "Succeeded" && is_tracked(pod))
            .filter_map(|pod| self.valid_index(pod))
            .collect();
        self.succeeded_indexes = self.previous_indexes.with(fresh);
        self.succeeded = self.succeeded_indexes.total();
        if let Some(limit) = self.limit_per_index() {
            let old =
                Indexes::parse(status.failed_indexes.as_deref().unwrap_or_default(), self.completions());
            let fresh: Vec<i32> = self
                .pods
                .iter()
                .filter(|pod| is_tracked(pod) && self.is_failed(pod))
                .filter(|pod| self.ends_its_index(pod, limit))
                .filter_map(|pod| self.valid_index(pod))
                .filter(|index| !self.succeeded_indexes.has(*index))
                .collect();
            let failed = old.with(fresh);
            self.delayed = self.last_failures(&failed);
            self.failed_indexes = Some(failed);
        }
    }

    fn ends_its_index(&self, pod: &Pod, limit: i32) -> bool {
        match policy::failure(&self.job, pod) {
            Verdict::FailIndex => true,
            Verdict::Ignore => false,
            _ => manage::failure_count(pod) >= limit,
        }
    }

    fn last_failures(&self, failed: &Indexes) -> BTreeMap<i32, Arc<Pod>> {
        let mut last: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
        let attempt = |pod: &Pod| manage::failure_count(pod) + manage::ignored_count(pod);
        for pod in &self.pods {
            let Some(index) = self.valid_index(pod) else { continue };
            if last.get(&index).is_none_or(|other| attempt(other) <= attempt(pod)) {
                last.insert(index, pod.clone());
            }
        }
        last.retain(|index, pod| !failed.has(*index) && self.is_failed(pod) && is_tracked(pod));
        last
    }

    /// Whether the Job has failed or succeeded as a whole.
    fn judge(&mut self) {
        if self.job.status.as_ref().is_none_or(|status| status.start_time.is_none()) && !self.is_suspended() {
            self.job.status.get_or_insert_default().start_time = Some(time(self.now));
        }
        self.verdict = self.find_verdict();
        if self.verdict.is_none() && !self.is_suspended() {
            let start = self.job.status.as_ref().and_then(|status| status.start_time.clone());
            if let (Some(deadline), Some(start)) = (self.spec().active_deadline_seconds, start) {
                let end = plus_seconds(start.0, deadline);
                self.requeue(until(end, self.now));
            }
        }
    }

    fn find_verdict(&self) -> Option<JobCondition> {
        for kind in ["FailureTarget", "SuccessCriteriaMet"] {
            if let Some(condition) = condition(&self.job, kind) {
                return Some(condition.clone());
            }
        }
        let now = self.now;
        let failure =
            |reason, message: &str| Some(new_condition("FailureTarget", "True", reason, message, now));
        let fatal = self.pods.iter().filter(|pod| is_tracked(pod) && self.is_failed(pod)).find_map(|pod| {
            match policy::failure(&self.job, pod) {
                Verdict::FailJob(message) => Some(message),
                _ => None,
            }
        });
        if let Some(message) = fatal {
            return failure("PodFailurePolicy", &message);
        }
        if self.failed > self.spec().backoff_limit.unwrap_or(6) || self.restarted_too_often() {
            return failure("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if self.past_deadline() {
            return failure("DeadlineExceeded", "Job was active longer than specified deadline");
        }
        if let Some(indexes) = &self.failed_indexes {
            let failed = indexes.total();
            if self.spec().max_failed_indexes.is_some_and(|max| failed > max) {
                let text = "Job has exceeded the specified maximal number of failed indexes";
                return failure("MaxFailedIndexesExceeded", text);
            }
            if failed > 0 && failed + self.succeeded >= self.completions() {
                return failure("FailedIndexes", "Job has failed indexes");
            }
        }
        if self.is_indexed()
            && let Some(rule) = policy::success(&self.job, self.completions(), &self.succeeded_indexes)
        {
            let text = format!("Matched rules at index {rule}");
            return Some(new_condition("SuccessCriteriaMet", "True", "SuccessPolicy", &text, now));
        }
        None
    }

    fn past_deadline(&self) -> bool {
        let start = self.job.status.as_ref().and_then(|status| status.start_time.as_ref());
        let (Some(deadline), Some(start)) = (self.spec().active_deadline_seconds, start) else {
            return false;
        };
        !self.is_suspended() && plus_seconds(start.0, deadline) <= self.now
    }

    /// With restartPolicy OnFailure the kubelet restarts containers in place; those count against the limit.
    fn restarted_too_often(&self) -> bool {
        let template = self.spec().template.spec.as_ref();
        if template.and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let restarts: i32 = self
            .pods
            .iter()
            .filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"))
            .filter_map(|pod| pod.status.as_ref())
            .flat_map(|status| {
                let init = status.init_container_statuses.iter().flatten();
                init.chain(status.container_statuses.iter().flatten())
            })
            .map(|container| container.restart_count)
            .sum();
        match self.spec().backoff_limit.unwrap_or(6) {
            0 => restarts > 0,
            limit => restarts >= limit,
        }
    }

    /// After pods were made or removed: is it complete, suspended or resumed? Then track and report.
    fn conclude(mut self, asked: bool, made: i32, removed: i32) -> Plan {
        let size = i32::try_from(self.active.len()).unwrap_or(i32::MAX);
        let active = size + made - removed;
        if asked && self.verdict.is_none() {
            let complete = match self.spec().completions {
                None => self.succeeded > 0 && active == 0,
                Some(completions) => self.succeeded >= completions && active == 0,
            };
            if complete {
                let text = "Reached expected number of succeeded pods";
                let met = new_condition("SuccessCriteriaMet", "True", "CompletionsReached", text, self.now);
                self.verdict = Some(met);
            } else if !self.original.deleting() {
                self.suspend_or_resume();
            }
        }
        self.track(active, removed)
    }

    fn suspend_or_resume(&mut self) {
        let about = reference(self.original.as_ref());
        let now = self.now;
        let suspended = self.is_suspended();
        let list = self.job.status.get_or_insert_default().conditions.get_or_insert_default();
        let old = list.iter_mut().find(|condition| condition.type_ == "Suspended");
        let (status, reason, message) = if suspended {
            ("True", "JobSuspended", "Job suspended")
        } else {
            ("False", "JobResumed", "Job resumed")
        };
        match old {
            Some(old) if old.status == status => return,
            Some(old) => *old = new_condition("Suspended", status, reason, message, now),
            None if !suspended => {
                if list.is_empty() {
                    self.job.status.get_or_insert_default().conditions = None;
                }
                return;
            }
            None => list.push(new_condition("Suspended", status, reason, message, now)),
        }
        self.suspend_changed = true;
        let event = if suspended { "Suspended" } else { "Resumed" };
        self.events.push(Event::normal(about, event, message));
        if !suspended {
            self.job.status.get_or_insert_default().start_time = Some(time(now));
            if let Some(deadline) = self.spec().active_deadline_seconds {
                self.requeue(until(plus_seconds(now, deadline), now));
            }
        }
    }
}

/// Removes the finalizer of a pod whose Job is gone; nobody will count it.
pub fn release_orphan(pod: &Pod) -> Plan {
    let mut plan = Plan::nothing();
    if is_tracked(pod) {
        plan.steps.push(Step::One(track::remove_finalizer(pod)));
    }
    plan
}

#[cfg(test)]
mod tests;
