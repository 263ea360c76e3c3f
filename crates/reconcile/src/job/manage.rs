//! How many pods a Job should have, and which.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::policy::{self, Verdict};
use super::{COMPLETION_INDEX, FAILURE_COUNT, IGNORED_COUNT, Pass, TRACKING};
use crate::backoff::exponential;
use crate::meta::{Meta, set_annotation, set_label, until};
use crate::plan::{Action, Outcome, Step};
use crate::pods;

/// Pods made or removed in one pass at most.
const BURST: usize = 500;
/// Pause after the first failure, doubled for each that follows, and its limit.
const BACKOFF_MIN: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(600);

fn count_of(pod: &Pod, annotation: &str) -> i32 {
    pod.annotations().get(annotation).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Failures of the pod's index before it.
pub(super) fn failure_count(pod: &Pod) -> i32 {
    count_of(pod, FAILURE_COUNT)
}

/// Ignored failures of the pod's index before it.
pub(super) fn ignored_count(pod: &Pod) -> i32 {
    count_of(pod, IGNORED_COUNT)
}

/// When a pod ended: its last container, or the end of its readiness, or its deletion.
fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let ends: Option<Vec<Timestamp>> = statuses.map(|list| {
        list.iter()
            .filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref())
            .map(|time| time.0)
            .collect()
    });
    ends.and_then(|ends| ends.into_iter().max())
        .or_else(|| Some(pods::condition(pod, "Ready")?.last_transition_time.as_ref()?.0))
        .or_else(|| pod.metadata.deletion_timestamp.as_ref().map(|time| time.0))
        .or_else(|| pod.created())
}

/// Pods to make or to remove.
pub(super) enum Act {
    Create(Vec<Pod>),
    Delete(Vec<Arc<Pod>>),
}

impl Act {
    pub(super) fn wait() -> Self {
        Self::Create(Vec::new())
    }
    pub(super) fn delete(pods: Vec<Arc<Pod>>) -> Self {
        Self::Delete(pods)
    }

    pub(super) fn step(&self, pass: &Pass) -> Option<Step> {
        let owner = pass.original.as_ref();
        match self {
            Self::Create(list) if !list.is_empty() => {
                Some(Step::SlowStart(list.iter().map(|pod| pods::create(owner, pod)).collect()))
            }
            Self::Delete(list) if !list.is_empty() => {
                let each = |pod: &Arc<Pod>| -> Action { pods::delete(owner, pod.as_ref()) };
                Some(Step::All(list.iter().map(each).collect()))
            }
            _ => None,
        }
    }

    /// How many were made and removed.
    pub(super) fn outcome(&self, outcome: &Outcome) -> (i32, i32) {
        let done = outcome.results.iter().filter(|result| result.is_ok()).count();
        let done = i32::try_from(done).unwrap_or(i32::MAX);
        match self {
            Self::Create(_) => (done, 0),
            Self::Delete(_) => (0, done),
        }
    }
}

impl Pass {
    /// Pods to make or remove so that as many run as should.
    pub(super) fn manage(&mut self) -> Act {
        let active = self.active.len();
        if self.is_suspended() {
            return Act::delete(self.to_remove(active));
        }
        let wanted = self.wanted_active();
        let mut surplus = self.to_remove(active.saturating_sub(wanted));
        surplus.truncate(BURST);
        if !surplus.is_empty() {
            // Either removal or creation in one pass: repeated indexes are removed before new ones are made.
            return Act::delete(surplus);
        }
        let terminating =
            if self.replaces_failed_only() { usize::try_from(self.terminating).unwrap_or(0) } else { 0 };
        let missing = wanted.saturating_sub(terminating).saturating_sub(active).min(BURST);
        if missing == 0 {
            return Act::wait();
        }
        if self.limit_per_index().is_none() {
            let pause = self.pause();
            if !pause.is_zero() {
                self.requeue(pause);
                return Act::wait();
            }
        }
        if !self.is_indexed() {
            return Act::Create(vec![self.pod(None); missing]);
        }
        let (indexes, pause) = self.indexes_to_add(missing);
        if indexes.is_empty()
            && let Some(pause) = pause
        {
            self.requeue(pause);
        }
        Act::Create(indexes.into_iter().map(|index| self.pod(Some(index))).collect())
    }

    fn wanted_active(&self) -> usize {
        let parallelism = self.spec().parallelism.unwrap_or(1);
        let wanted = match self.spec().completions {
            None if self.succeeded > 0 => return self.active.len(),
            None => parallelism,
            Some(completions) => {
                let failed = self.failed_indexes.as_ref().map_or(0, super::Indexes::total);
                (completions - self.succeeded - failed).min(parallelism)
            }
        };
        usize::try_from(wanted).unwrap_or(0)
    }

    /// Active pods to remove: those with a wrong or repeated index, then as many as it takes.
    fn to_remove(&self, at_least: usize) -> Vec<Arc<Pod>> {
        let mut left = self.active.clone();
        let mut out = Vec::new();
        if self.is_indexed() {
            pods::sort_for_deletion(&mut left, &BTreeMap::new(), self.now);
            // Of several pods with one index the one that would be deleted last stays.
            let mut kept = BTreeSet::new();
            let mut stay = Vec::new();
            for pod in left.into_iter().rev() {
                let index = self.valid_index(&pod);
                let failed = |index| self.failed_indexes.as_ref().is_some_and(|failed| failed.has(index));
                match index {
                    Some(index) if !failed(index) && kept.insert(index) => stay.push(pod),
                    _ => out.push(pod),
                }
            }
            stay.reverse();
            left = stay;
        }
        if out.len() < at_least {
            pods::sort_for_deletion(&mut left, &BTreeMap::new(), self.now);
            out.extend(left.into_iter().take(at_least - out.len()));
        }
        out
    }

    /// Pause before new pods after failures, from the failures since the last success.
    fn pause(&self) -> Duration {
        let last_success = self
            .pods
            .iter()
            .filter(|pod| pods::phase(pod) == "Succeeded")
            .filter_map(|pod| ended_at(pod))
            .max();
        let failures: Vec<Timestamp> = self
            .pods
            .iter()
            .filter(|pod| self.is_failed(pod) && policy::failure(&self.job, pod) != Verdict::Ignore)
            .filter_map(|pod| ended_at(pod))
            .filter(|at| last_success.is_none_or(|success| *at > success))
            .collect();
        let Some(last) = failures.iter().max() else { return Duration::ZERO };
        let pause =
            exponential(BACKOFF_MIN, BACKOFF_MAX, u32::try_from(failures.len() - 1).unwrap_or(u32::MAX));
        let end = last.saturating_add(pause).unwrap_or(Timestamp::MAX);
        until(end, self.now)
    }

    /// The lowest indexes that neither run nor are done, and how long the next one must still wait.
    fn indexes_to_add(&self, count: usize) -> (Vec<i32>, Option<Duration>) {
        let mut taken: BTreeSet<i32> = self.active.iter().filter_map(|pod| self.valid_index(pod)).collect();
        if self.replaces_failed_only() {
            let leaving = self.pods.iter().filter(|pod| pods::is_terminating(pod));
            taken.extend(leaving.filter_map(|pod| self.valid_index(pod)));
        }
        let (mut out, mut pause): (Vec<i32>, Option<Duration>) = (Vec::new(), None);
        for index in 0..self.completions() {
            if out.len() == count {
                break;
            }
            let failed = self.failed_indexes.as_ref().is_some_and(|failed| failed.has(index));
            if failed || taken.contains(&index) || self.succeeded_indexes.has(index) {
                continue;
            }
            let wait = self.delayed.get(&index).map_or(Duration::ZERO, |last| self.index_pause(last));
            if wait.is_zero() {
                out.push(index);
            } else {
                pause = Some(pause.map_or(wait, |old| old.min(wait)));
            }
        }
        (out, pause)
    }

    fn index_pause(&self, last: &Pod) -> Duration {
        if policy::failure(&self.job, last) == Verdict::Ignore && failure_count(last) == 0 {
            return Duration::ZERO;
        }
        let failures = u32::try_from(failure_count(last)).unwrap_or(0);
        let end = ended_at(last)
            .and_then(|at| at.checked_add(exponential(BACKOFF_MIN, BACKOFF_MAX, failures)).ok());
        end.map_or(Duration::ZERO, |end| until(end, self.now))
    }

    fn pod(&self, index: Option<i32>) -> Pod {
        let mut pod = pods::from_template(&self.spec().template, self.original.as_ref());
        pod.metadata.finalizers.get_or_insert_default().push(TRACKING.to_owned());
        let Some(index) = index else { return pod };
        let name = format!("{}-{index}", self.job.name());
        pod.metadata.generate_name = Some(format!("{name}-"));
        set_annotation(&mut pod.metadata, COMPLETION_INDEX, index.to_string());
        set_label(&mut pod.metadata, COMPLETION_INDEX, index.to_string());
        if self.limit_per_index().is_some() {
            let (mut failures, mut ignored) = (0, 0);
            if let Some(last) = self.delayed.get(&index) {
                (failures, ignored) = (failure_count(last), ignored_count(last));
                match policy::failure(&self.job, last) {
                    Verdict::Ignore => ignored += 1,
                    _ => failures += 1,
                }
            }
            set_annotation(&mut pod.metadata, FAILURE_COUNT, failures.to_string());
            if ignored > 0 {
                set_annotation(&mut pod.metadata, IGNORED_COUNT, ignored.to_string());
            }
        }
        if let Some(spec) = &mut pod.spec {
            spec.hostname = Some(name);
            let all = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
            for container in all {
                let env = container.env.get_or_insert_default();
                if !env.iter().any(|variable| variable.name == "JOB_COMPLETION_INDEX") {
                    env.push(index_variable());
                }
            }
        }
        pod
    }
}

fn index_variable() -> EnvVar {
    EnvVar {
        name: "JOB_COMPLETION_INDEX".to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: format!("metadata.labels['{COMPLETION_INDEX}']"),
            }),
            ..EnvVarSource::default()
        }),
    }
}
