//! Deletes finished Jobs some time after their end.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;

use crate::job::finished;
use crate::meta::{Meta, alive, plus_seconds, until};
use crate::plan::{Action, Plan, Propagation, Tolerate};

/// Decides for one Job.
pub fn reconcile(job: &Job, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let ttl = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished);
    let end = finished(job).and_then(|condition| condition.last_transition_time.as_ref());
    let (Some(ttl), Some(end)) = (ttl, end) else { return plan };
    if job.deleting() {
        return plan;
    }
    let due = plus_seconds(end.0, ttl.into());
    if due > now {
        plan.requeue(until(due, now));
        return plan;
    }
    // The version makes sure that the lifetime was not extended meanwhile.
    plan.push(
        Action::delete(job)
            .at_version(job.metadata.resource_version.clone())
            .propagation(Propagation::Foreground)
            .guarded(alive(job))
            .tolerating(Tolerate { not_found: true, ..Tolerate::default() }),
    );
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::describe;
    use serde_json::json;

    #[test]
    fn waits_then_deletes() {
        let job: Job = serde_json::from_value(json!({
            "metadata": {"name": "j", "namespace": "d", "uid": "u"},
            "spec": {"ttlSecondsAfterFinished": 10, "template": {}},
            "status": {"conditions": [
                {"type": "Complete", "status": "True", "lastTransitionTime": "1970-01-01T00:00:00Z"}]},
        }))
        .unwrap();
        let at = |seconds| describe(&reconcile(&job, plus_seconds(Timestamp::UNIX_EPOCH, seconds)));
        assert_eq!(at(4), "requeue 6s\n");
        assert_eq!(at(10), "delete jobs/j Foreground\n");
    }
}
