//! Conditions of a Deployment, as upstream sets and keeps them.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus};

use super::Pass;
use crate::meta::time;

pub(super) const PROGRESSING: &str = "Progressing";
pub(super) const AVAILABLE: &str = "Available";
pub(super) const REPLICA_FAILURE: &str = "ReplicaFailure";
pub(super) const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
pub(super) const TIMED_OUT: &str = "ProgressDeadlineExceeded";

pub(super) fn condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(time(now)),
        last_update_time: Some(time(now)),
    }
}

pub(super) fn get<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// Sets a condition. Nothing changes when status and reason stay; the transition time stays with the status.
pub(super) fn set(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    if let Some(old) = get(status, &condition.type_) {
        if old.status == condition.status && old.reason == condition.reason {
            return;
        }
        if old.status == condition.status {
            condition.last_transition_time = old.last_transition_time.clone();
        }
    }
    remove(status, &condition.type_.clone());
    status.conditions.get_or_insert_default().push(condition);
}

pub(super) fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(list) = &mut status.conditions {
        list.retain(|condition| condition.type_ != kind);
        if list.is_empty() {
            status.conditions = None;
        }
    }
}

impl Pass {
    /// The deadline in seconds; upstream's maximum stands for none.
    pub(super) fn progress_deadline(&self) -> Option<i32> {
        self.spec().progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)
    }

    /// Records that the Deployment was paused or resumed, so that the progress deadline does not run on.
    pub(super) fn check_paused(&mut self) {
        if self.progress_deadline().is_none() {
            return;
        }
        let paused = self.spec().paused == Some(true);
        let now = self.now;
        let status = self.status();
        let reason = get(status, PROGRESSING).and_then(|condition| condition.reason.as_deref());
        if reason == Some(TIMED_OUT) {
            return;
        }
        let recorded = reason == Some("DeploymentPaused");
        let (reason, message) = match (paused, recorded) {
            (true, false) => ("DeploymentPaused", "Deployment is paused"),
            (false, true) => ("DeploymentResumed", "Deployment is resumed"),
            _ => return,
        };
        set(status, condition(PROGRESSING, "Unknown", reason, message.to_owned(), now));
    }
}
