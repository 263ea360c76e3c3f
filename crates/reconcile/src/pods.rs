//! What controllers ask of pods: readiness, availability, which to delete first, and making one from a template.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::meta::{Meta, controller_ref, plus_seconds, reference, until};
use crate::plan::{Action, Event, Object, Tail, Tolerate};

/// Annotation that says how dear a pod is when a set shrinks.
pub const POD_DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The pod's phase, or the empty string.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The pod's node, or the empty string.
pub fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// One condition of the pod.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// Whether the Ready condition is true.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Succeeded or Failed.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither finished nor being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !pod.deleting()
}

/// Being deleted, and not finished yet.
pub fn is_terminating(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.deleting()
}

/// Ready for at least `min_ready_seconds`.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    if !is_ready(pod) {
        return false;
    }
    min_ready_seconds == 0
        || ready_since(pod).is_some_and(|since| plus_seconds(since, min_ready_seconds.into()) <= now)
}

/// When the pod became ready.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready")
        .filter(|condition| condition.status == "True")
        .and_then(|condition| condition.last_transition_time.as_ref())
        .map(|time| time.0)
}

/// The shortest time after which one of the pods becomes available by the passing of time alone.
pub fn next_availability(pods: &[Arc<Pod>], min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    if min_ready_seconds <= 0 {
        return None;
    }
    pods.iter()
        .filter(|pod| is_ready(pod) && !is_available(pod, min_ready_seconds, now))
        .filter_map(|pod| ready_since(pod))
        .map(|since| until(plus_seconds(since, min_ready_seconds.into()), now))
        .min()
}

fn phase_rank(pod: &Pod) -> u8 {
    match phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    }
}

fn deletion_cost(pod: &Pod) -> i32 {
    pod.annotations().get(POD_DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let containers = status.and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    containers.iter().map(|container| container.restart_count).max().unwrap_or(0)
}

/// Order of times on a logarithmic scale of age, so that pods of about the same age are chosen evenly and not
/// always the youngest.
fn age_order(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Option<Ordering> {
    match (a, b) {
        (None, None) => None,
        (None, Some(_)) => Some(Ordering::Less),
        (Some(_), None) => Some(Ordering::Greater),
        (Some(a), Some(b)) if a == b => None,
        (Some(a), Some(b)) => {
            let bucket = |at: Timestamp| {
                let age = now.duration_since(at).as_nanos();
                if age > 0 { i64::from(age.ilog2()) } else { -1 }
            };
            Some(bucket(a).cmp(&bucket(b)))
        }
    }
}

/// Sorts pods so that those to delete first come first. `rank` tells how many related pods share the pod's node.
pub fn sort_for_deletion(pods: &mut [Arc<Pod>], rank: &BTreeMap<&str, usize>, now: Timestamp) {
    let rank_of = |pod: &Pod| rank.get(node(pod)).copied().unwrap_or(0);
    pods.sort_by(|a, b| {
        let assigned = |pod: &Pod| !node(pod).is_empty();
        let mut order = assigned(a)
            .cmp(&assigned(b))
            .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
            .then_with(|| is_ready(a).cmp(&is_ready(b)))
            .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
            .then_with(|| rank_of(b).cmp(&rank_of(a)));
        if order.is_eq()
            && is_ready(a)
            && let Some(by_age) = age_order(ready_since(a), ready_since(b), now)
        {
            order = by_age.then_with(|| a.uid().cmp(b.uid()));
        }
        order = order.then_with(|| restarts(b).cmp(&restarts(a)));
        if order.is_eq()
            && let Some(by_age) = age_order(a.created(), b.created(), now)
        {
            order = by_age.then_with(|| a.uid().cmp(b.uid()));
        }
        order
    });
}

/// A pod made from a template for an owner; the API server completes the name.
pub fn from_template<O: Object>(template: &PodTemplateSpec, owner: &O) -> Pod {
    let of = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.name())),
            namespace: owner.meta().namespace.clone(),
            labels: of.labels,
            annotations: of.annotations,
            finalizers: of.finalizers,
            owner_references: Some(vec![controller_ref(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Creates a pod and records upstream's events on its owner.
pub fn create<O: Object>(owner: &O, pod: &Pod) -> Action {
    Action::create(pod)
        .ok_event(Event::normal(reference(owner), "SuccessfulCreate", "Created pod: ").tail(Tail::Name))
        .err_event(Event::warning(reference(owner), "FailedCreate", "Error creating: ").tail(Tail::Error))
        .tolerating(Tolerate { terminating: true, ..Tolerate::default() })
}

/// Deletes a pod and records upstream's events on its owner.
pub fn delete<O: Object>(owner: &O, pod: &Pod) -> Action {
    Action::delete(pod)
        .ok_event(Event::normal(reference(owner), "SuccessfulDelete", format!("Deleted pod: {}", pod.name())))
        .err_event(Event::warning(reference(owner), "FailedDelete", "Error deleting: ").tail(Tail::Error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(
        name: &str,
        node: &str,
        phase: &str,
        ready_at: Option<&str>,
        extra: serde_json::Value,
    ) -> Arc<Pod> {
        let mut value = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [], "nodeName": node},
            "status": {"phase": phase},
        });
        if let Some(at) = ready_at {
            value["status"]["conditions"] =
                json!([{"type": "Ready", "status": "True", "lastTransitionTime": at}]);
        }
        if !extra.is_null() {
            value["metadata"]["annotations"] = extra;
        }
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn deletion_order() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let mut pods = vec![
            pod("dear", "n1", "Running", Some("2026-01-01T23:59:59Z"), json!({POD_DELETION_COST: "10"})),
            pod("old", "n1", "Running", Some("2026-01-01T00:00:00Z"), json!(null)),
            pod("young", "n1", "Running", Some("2026-01-01T23:59:59Z"), json!(null)),
            pod("crowded", "n2", "Running", Some("2026-01-01T00:00:00Z"), json!(null)),
            pod("unready", "n1", "Running", None, json!(null)),
            pod("pending", "n1", "Pending", None, json!(null)),
            pod("unassigned", "", "Pending", None, json!(null)),
        ];
        let rank = BTreeMap::from([("n1", 1), ("n2", 5)]);
        sort_for_deletion(&mut pods, &rank, now);
        let names: Vec<_> = pods.iter().map(|pod| pod.name()).collect();
        assert_eq!(names, ["unassigned", "pending", "unready", "crowded", "young", "old", "dear"]);
    }

    #[test]
    fn availability() {
        let now: Timestamp = "2026-01-01T00:00:10Z".parse().unwrap();
        let ready = pod("a", "n", "Running", Some("2026-01-01T00:00:05Z"), json!(null));
        assert!(is_available(&ready, 5, now));
        assert!(!is_available(&ready, 6, now));
        assert_eq!(next_availability(&[ready], 8, now), Some(Duration::from_secs(3)));
    }
}
