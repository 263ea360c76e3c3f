//! Counting ends: status first, then finalizers, then status again.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::policy::{self, Verdict};
use super::{Pass, TRACKING, is_tracked, new_condition};
use crate::meta::{Meta, reference};
use crate::plan::{Action, Event, Outcome, PatchKind, Plan, Step, Target, Tolerate};
use crate::pods;

/// Ends taken into the status in one pass at most, so that it stays small.
const UNCOUNTED_MAX: usize = 500;

/// The patch that lets a pod go.
pub(super) fn remove_finalizer(pod: &Pod) -> Action {
    let body = json!({
        "metadata": { "uid": pod.uid(), "$deleteFromPrimitiveList/finalizers": [TRACKING] },
    });
    Action::patch(Target::of(pod), PatchKind::Strategic, body).tolerating(Tolerate {
        not_found: true,
        invalid: true,
        ..Tolerate::default()
    })
}

fn uncounted(status: &mut JobStatus) -> &mut UncountedTerminatedPods {
    status.uncounted_terminated_pods.get_or_insert_default()
}

/// Moves uids that need no remembering any more into the counters.
fn settle(status: &mut JobStatus, remembered: &BTreeSet<String>) {
    let split = |list: &mut Option<Vec<String>>| -> i32 {
        let Some(uids) = list else { return 0 };
        let before = uids.len();
        uids.retain(|uid| remembered.contains(uid));
        let moved = before - uids.len();
        if uids.is_empty() {
            *list = None;
        }
        i32::try_from(moved).unwrap_or(i32::MAX)
    };
    let lists = uncounted(status);
    let (succeeded, failed) = (split(&mut lists.succeeded), split(&mut lists.failed));
    if succeeded > 0 {
        status.succeeded = Some(status.succeeded.unwrap_or(0) + succeeded);
    }
    if failed > 0 {
        status.failed = Some(status.failed.unwrap_or(0) + failed);
    }
}

impl Pass {
    /// Writes down what was counted and lets the counted pods go.
    pub(super) fn track(mut self, active: i32, removed: i32) -> Plan {
        let mut plan = Plan::nothing();
        plan.requeue_after = self.requeue;
        let pods = std::mem::take(&mut self.pods);
        let with_finalizer: BTreeSet<String> = pods
            .iter()
            .filter(|pod| is_tracked(pod) && !self.released.contains(pod.uid()))
            .map(|pod| pod.uid().to_owned())
            .collect();
        let mut status = self.job.status.clone().unwrap_or_default();
        uncounted(&mut status);
        status.active = (active != 0).then_some(active);
        status.ready = Some(self.ready.min(active));
        status.terminating = Some(self.terminating + removed);
        settle(&mut status, &with_finalizer);

        let (release, complete) = self.collect(&pods, &mut status);
        self.write_indexes(&mut status);
        let finish = self.write_verdict(&mut status);
        self.job.status = Some(status);

        let changed = self.job != *self.original;
        if changed {
            plan.push(Action::update_status(&self.job));
        }
        for event in std::mem::take(&mut self.events) {
            plan.note(event);
        }
        let released: Vec<String> = release.iter().map(|pod| pod.uid().to_owned()).collect();
        if !release.is_empty() {
            plan.steps.push(Step::All(release.iter().map(|pod| remove_finalizer(pod)).collect()));
        }
        let (job, now) = (self.job, self.now);
        plan.then = Some(Box::new(move |outcome: &Outcome| {
            let mut results = outcome.results.iter();
            let mut latest = job;
            if changed {
                match results.next() {
                    Some(Ok(value)) => {
                        // The next write builds on what was stored.
                        let version = value.pointer("/metadata/resourceVersion");
                        latest.metadata.resource_version =
                            version.and_then(|v| v.as_str()).map(str::to_owned);
                    }
                    _ => return Plan::nothing(),
                }
            }
            let gone: BTreeSet<&String> = released
                .iter()
                .zip(results)
                .filter(|(_, result)| result.as_ref().done_or_gone())
                .map(|(uid, _)| uid)
                .collect();
            let left = with_finalizer.iter().filter(|uid| !gone.contains(uid)).cloned().collect();
            last_write(latest, &left, finish.filter(|_| complete), active, now)
        }));
        plan
    }

    /// Takes ends into the status; the pods that may go, and whether that was all.
    fn collect(&self, pods: &[Arc<Pod>], status: &mut JobStatus) -> (Vec<Arc<Pod>>, bool) {
        let failing = self.verdict.as_ref().is_some_and(|verdict| verdict.type_ == "FailureTarget");
        let over = self.verdict.is_some();
        let mut release = Vec::new();
        let mut fresh = 0;
        for pod in pods.iter().filter(|pod| is_tracked(pod) && !self.released.contains(pod.uid())) {
            let index = self.valid_index(pod);
            let lists = uncounted(status);
            let known = |list: &Option<Vec<String>>| list.iter().flatten().any(|uid| uid == pod.uid());
            let (in_succeeded, in_failed) = (known(&lists.succeeded), known(&lists.failed));
            if pods::phase(pod) == "Succeeded" && !in_failed {
                if !self.is_indexed() && !in_succeeded {
                    lists.succeeded.get_or_insert_default().push(pod.uid().to_owned());
                    fresh += 1;
                }
                release.push(pod.clone());
            } else if self.is_failed(pod) || (failing && !pods::is_active(pod)) || in_failed {
                let counts = !self.is_indexed() || index.is_some();
                let ignored = policy::failure(&self.job, pod) == Verdict::Ignore;
                if !in_failed && counts && !ignored {
                    lists.failed.get_or_insert_default().push(pod.uid().to_owned());
                    fresh += 1;
                }
                let held = !over
                    && !self.original.deleting()
                    && index.and_then(|index| self.delayed.get(&index)).is_some_and(|d| d.uid() == pod.uid());
                if !held {
                    release.push(pod.clone());
                } else if !in_failed && counts && !ignored {
                    // Held back: counted only once it is let go, or it would be counted at every pass.
                    if let Some(list) = &mut lists.failed {
                        list.retain(|uid| uid != pod.uid());
                        if list.is_empty() {
                            lists.failed = None;
                        }
                    }
                    fresh -= 1;
                }
            }
            if fresh >= UNCOUNTED_MAX {
                return (release, false);
            }
        }
        (release, true)
    }

    fn write_indexes(&self, status: &mut JobStatus) {
        if !self.is_indexed() {
            return;
        }
        let total = self.succeeded_indexes.total();
        status.succeeded = (total != 0).then_some(total);
        let text = self.succeeded_indexes.to_string();
        status.completed_indexes = (!text.is_empty()).then_some(text);
        if let Some(failed) = &self.failed_indexes {
            let text = failed.to_string();
            let old = status.failed_indexes.is_some();
            status.failed_indexes =
                (old || !text.is_empty() || self.limit_per_index().is_some()).then_some(text);
        }
    }

    /// Notes the verdict in the status; returns the condition that will end the Job.
    fn write_verdict(&self, status: &mut JobStatus) -> Option<JobCondition> {
        let verdict = self.verdict.clone()?;
        let list = status.conditions.get_or_insert_default();
        if !list.iter().any(|c| c.type_ == verdict.type_ && c.status == "True") {
            list.retain(|condition| condition.type_ != verdict.type_);
            list.push(verdict.clone());
        }
        let kind = if verdict.type_ == "FailureTarget" { "Failed" } else { "Complete" };
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        Some(new_condition(kind, "True", &text(&verdict.reason), &text(&verdict.message), self.now))
    }
}

trait OkOrGone {
    fn done_or_gone(self) -> bool;
}
impl<T> OkOrGone for Result<&T, &crate::plan::ApiError> {
    fn done_or_gone(self) -> bool {
        self.map_or_else(|error| error.is_not_found() || error.is_invalid(), |_| true)
    }
}

/// Counters take the place of the uids of released pods; the Job ends once nothing is left to count or to wait for.
fn last_write(
    mut job: Job,
    left: &BTreeSet<String>,
    finish: Option<JobCondition>,
    active: i32,
    now: jiff::Timestamp,
) -> Plan {
    let mut plan = Plan::nothing();
    let before = job.clone();
    let about = reference(&job);
    let status = job.status.get_or_insert_default();
    settle(status, left);
    let lists = uncounted(status);
    let counted = lists.succeeded.is_none() && lists.failed.is_none();
    let quiet = status.terminating.unwrap_or(0) == 0 && active == 0;
    let mut event = None;
    if let Some(finish) = finish.filter(|_| counted && quiet) {
        if finish.type_ == "Complete" {
            status.completion_time = Some(crate::meta::time(now));
            event = Some(Event::normal(about, "Completed", "Job completed"));
        } else {
            let message = finish.message.clone().unwrap_or_default();
            let reason = fixed_reason(finish.reason.as_deref().unwrap_or_default());
            event = Some(Event::warning(about, reason, message));
        }
        status.conditions.get_or_insert_default().push(finish);
    }
    if job != before {
        let mut action = Action::update_status(&job);
        action.on_ok.extend(event);
        plan.push(action);
    }
    plan
}

/// Reasons of failures are few and known.
fn fixed_reason(reason: &str) -> &'static str {
    const ALL: [&str; 5] = [
        "PodFailurePolicy",
        "BackoffLimitExceeded",
        "DeadlineExceeded",
        "MaxFailedIndexesExceeded",
        "FailedIndexes",
    ];
    ALL.into_iter().find(|known| *known == reason).unwrap_or("BackoffLimitExceeded")
}
