//! Revisions: which ReplicaSet is current, numbering, creation, collisions, the history limit.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::scaling::{DESIRED, MAX};
use super::{Pass, conditions, max_surge};
use crate::meta::{Meta, controller_ref, reference, set_annotation};
use crate::plan::{Action, ApiError, Event, Outcome, Plan, Tail, Tolerate};
use crate::template::{POD_TEMPLATE_HASH, equal_ignoring_hash, hash};

/// Annotation with the revision of a Deployment and of each of its ReplicaSets.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotation with the revisions that a ReplicaSet had before a rollback came back to it.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Characters of history kept.
const HISTORY_CHARS_MAX: usize = 2000;
/// Annotations of a Deployment that its ReplicaSets do not inherit.
const NOT_INHERITED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

fn revision(set: &ReplicaSet) -> i64 {
    set.annotations().get(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Copies annotations and numbers the set; true if something changed.
fn annotate(deployment: &Deployment, set: &mut ReplicaSet, new_revision: i64) -> bool {
    let before = set.metadata.annotations.clone();
    for (name, value) in deployment.annotations() {
        if !NOT_INHERITED.contains(&name.as_str()) {
            set_annotation(&mut set.metadata, name, value.clone());
        }
    }
    let old = set.annotations().get(REVISION).cloned();
    let old_number = match &old {
        None => 0,
        Some(text) if text.is_empty() => 0,
        Some(text) => match text.parse::<i64>() {
            Ok(number) => number,
            // Somebody wrote nonsense there: leave it alone.
            Err(_) => return before != set.metadata.annotations,
        },
    };
    if old_number < new_revision {
        set_annotation(&mut set.metadata, REVISION, new_revision.to_string());
        if let Some(old) = old {
            let history = set.annotations().get(REVISION_HISTORY).cloned().unwrap_or_default();
            if let Some(history) = extend_history(&history, &old) {
                set_annotation(&mut set.metadata, REVISION_HISTORY, history);
            }
        }
    }
    before != set.metadata.annotations
}

fn extend_history(history: &str, revision: &str) -> Option<String> {
    let mut parts: Vec<&str> = history.split(',').filter(|part| !part.is_empty()).collect();
    parts.push(revision);
    while parts.len() > 1 && parts.iter().map(|part| part.len() + 1).sum::<usize>() - 1 > HISTORY_CHARS_MAX {
        parts.remove(0);
    }
    let text = parts.join(",");
    (text.len() <= HISTORY_CHARS_MAX).then_some(text)
}

impl Pass {
    /// The oldest ReplicaSet with the Deployment's template.
    pub(super) fn find_new(&self) -> Option<usize> {
        let template = &self.spec().template;
        self.sets.iter().position(|set| {
            let theirs = set.now.spec.as_ref().and_then(|spec| spec.template.as_ref());
            theirs.is_some_and(|theirs| equal_ignoring_hash(template, theirs))
        })
    }

    fn next_revision(&self) -> i64 {
        self.olds().into_iter().map(|index| revision(&self.sets[index].now)).max().unwrap_or(0) + 1
    }

    /// Brings annotations and revision of the current set up to date, or plans its creation.
    pub(super) fn sync_revision(&mut self, create: bool) {
        let next = self.next_revision();
        if let Some(new) = self.new {
            let min_ready = self.spec().min_ready_seconds.unwrap_or(0);
            let deployment = self.deployment.clone();
            let set = &mut self.sets[new];
            annotate(&deployment, &mut set.now, next);
            if let Some(spec) = &mut set.now.spec
                && spec.min_ready_seconds.unwrap_or(0) != min_ready
            {
                spec.min_ready_seconds = Some(min_ready);
            }
            let (name, number) = (set.now.name().to_owned(), set.now.annotations().get(REVISION).cloned());
            self.set_revision(number);
            self.note_progress("FoundNewReplicaSet", format!("Found new replica set \"{name}\""), true);
        } else if create && self.creation.is_none() {
            let set = self.make_set(next);
            self.set_revision(Some(next.to_string()));
            let text = format!("Created new replica set \"{}\"", set.name());
            self.note_progress("NewReplicaSetCreated", text, false);
            self.creation = Some(set);
        }
    }

    fn set_revision(&mut self, number: Option<String>) {
        if let Some(number) = number
            && self.deployment.annotations().get(REVISION) != Some(&number)
        {
            set_annotation(&mut self.deployment.metadata, REVISION, number);
        }
    }

    fn note_progress(&mut self, reason: &'static str, message: String, only_if_absent: bool) {
        if self.progress_deadline().is_none() {
            return;
        }
        let now = self.now;
        let status = self.status();
        if only_if_absent && conditions::get(status, conditions::PROGRESSING).is_some() {
            return;
        }
        conditions::set(status, conditions::condition(conditions::PROGRESSING, "True", reason, message, now));
    }

    fn make_set(&self, number: i64) -> ReplicaSet {
        let spec = self.spec();
        let collisions = self.deployment.status.as_ref().and_then(|status| status.collision_count);
        let hash = hash(&spec.template, collisions);
        let mut template = spec.template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(POD_TEMPLATE_HASH.to_owned(), hash.clone());
        let labels = labels.clone();
        let mut selector = spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(POD_TEMPLATE_HASH.to_owned(), hash.clone());
        let replicas = self.new_set_size(0);
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", self.deployment.name())),
                namespace: self.deployment.metadata.namespace.clone(),
                owner_references: Some(vec![controller_ref(&self.deployment)]),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(replicas),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        };
        annotate(&self.deployment, &mut set, number);
        let wanted = self.wanted();
        set_annotation(&mut set.metadata, DESIRED, wanted.to_string());
        set_annotation(&mut set.metadata, MAX, (wanted + max_surge(&self.deployment)).to_string());
        set
    }

    /// Deletes old, empty ReplicaSets beyond the history limit, lowest revision first.
    pub(super) fn clean_up(&mut self) {
        let Some(limit) = self.spec().revision_history_limit.filter(|limit| *limit != i32::MAX) else {
            return;
        };
        let mut old: Vec<usize> =
            self.olds().into_iter().filter(|index| !self.sets[*index].now.deleting()).collect();
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_key(|index| revision(&self.sets[*index].now));
        for index in old.into_iter().take(surplus) {
            let set = &self.sets[index];
            let observed = set.now.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
            if set.status_replicas() == 0 && set.replicas() == 0 && set.now.generation() <= observed {
                self.deletions.push(Action::delete(&set.now));
            }
        }
    }
}

/// Plans the creation of the new set and, by what the API server says, the status that follows.
pub(super) fn create(
    plan: &mut Plan,
    original: &Arc<Deployment>,
    deployment: Deployment,
    set: ReplicaSet,
    now: Timestamp,
) {
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
    let about = reference(original.as_ref());
    let mut action = Action::create(&set)
        .tolerating(Tolerate { already_exists: true, terminating: true, ..Tolerate::default() })
        .err_event(
            Event::warning(
                about.clone(),
                "ReplicaSetCreateError",
                format!("Failed to create new replica set \"{}\": ", set.name()),
            )
            .tail(Tail::Error),
        );
    if replicas > 0 {
        let text = format!("Scaled up replica set {} from 0 to {replicas}", set.name());
        action = action.ok_event(Event::normal(about, "ScalingReplicaSet", text));
    }
    plan.push(action);
    let original = original.clone();
    plan.then = Some(Box::new(move |outcome: &Outcome| {
        let mut next = Plan::nothing();
        match outcome.results.last() {
            Some(Ok(_)) if deployment != *original => next.push(Action::update_status(&deployment)),
            Some(Err(error)) if error.is_already_exists() => {
                // Our own set, made before, shows up in the cache soon; a foreign one is a hash collision, which the
                // next hash avoids. The collision is counted only where the cache had time to show ours.
                let mut copy = original.as_ref().clone();
                let status = copy.status.get_or_insert_default();
                status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
                next.push(Action::update_status(&copy));
                next.retry = true;
            }
            Some(Err(error)) if !error.namespace_terminating => {
                next.steps.extend(report_failure(&original, &set, error, now).map(crate::plan::Step::One));
            }
            _ => {}
        }
        next
    }));
}

fn report_failure(
    original: &Arc<Deployment>,
    set: &ReplicaSet,
    error: &ApiError,
    now: Timestamp,
) -> Option<Action> {
    let spec = original.spec.as_ref()?;
    spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)?;
    let mut copy = original.as_ref().clone();
    let message = format!("Failed to create new replica set \"{}\": {error}", set.name());
    let status = copy.status.get_or_insert_default();
    conditions::set(
        status,
        conditions::condition(conditions::PROGRESSING, "False", "ReplicaSetCreateError", message, now),
    );
    (copy != **original).then(|| Action::update_status(&copy))
}
