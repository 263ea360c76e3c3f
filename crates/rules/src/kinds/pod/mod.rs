//! Pods and PodTemplates: initial status, graceful deletion, and what may be written when.

mod annotations;
mod columns;
mod labels;
mod qos;
mod status;
mod subresources;
mod update;
mod warnings;

use isopod_api::Value;
use isopod_api::field::ErrorList;
use isopod_api::object::child_mut;
use serde_json::json;

use super::check::{At, check};
use super::podspec::{self, Owner};
use super::shared::{at, list_at, str_at};
use super::{Context, Strategy};

pub use qos::qos_class;
pub(super) use warnings::template_warnings;

pub(super) const STRATEGIES: &[&Strategy] = &[&POD, &POD_TEMPLATE];

const POD: Strategy = Strategy {
    group: "",
    kind: "Pod",
    generation: true,
    graceful_seconds: Some(graceful_seconds),
    prepare_for_create,
    prepare_for_update: |new, _, _| shortest_grace(new),
    prepare_for_status_update: status::prepare,
    validate,
    validate_update: update::validate,
    validate_status_update: status::validate,
    validate_subresource: subresources::validate,
    warnings: warnings::pod,
    keep_status_on_create: true,
    selectable: &[
        ("spec.nodeName", "spec.nodeName"),
        ("spec.restartPolicy", "spec.restartPolicy"),
        ("spec.schedulerName", "spec.schedulerName"),
        ("spec.serviceAccountName", "spec.serviceAccountName"),
        ("spec.hostNetwork", "spec.hostNetwork"),
        ("status.phase", "status.phase"),
        ("status.podIP", "status.podIP"),
        ("status.podIPs", "status.podIP"),
        ("status.nominatedNodeName", "status.nominatedNodeName"),
    ],
    selectable_absent: &[("spec.hostNetwork", "false")],
    columns: columns::POD,
    row: columns::pod,
    ..Strategy::DEFAULT
};

const POD_TEMPLATE: Strategy = Strategy {
    group: "",
    kind: "PodTemplate",
    generation: true,
    validate: |object, _| check(object, |object| podspec::template(&object.field("template"))),
    validate_update: |new, _, _| check(new, |new| podspec::template(&new.field("template"))),
    warnings: |new, old| template_warnings(new, old, "template"),
    columns: columns::POD_TEMPLATE,
    row: columns::pod_template,
    name_and_age: false,
    ..Strategy::DEFAULT
};

fn prepare_for_create(pod: &mut Value, _: &Context<'_>) {
    pod["status"] = json!({"phase": "Pending", "qosClass": qos_class(pod)});
    if !list_at(pod, "spec.schedulingGates").is_empty() {
        pod["status"]["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates"
        }]);
    }
    shortest_grace(pod);
    labels::merge_match_label_keys(pod);
}

/// A negative grace period means the shortest one.
fn shortest_grace(pod: &mut Value) {
    if at(pod, "spec.terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|s| s < 0) {
        child_mut(pod, "spec").insert("terminationGracePeriodSeconds".to_owned(), 1.into());
    }
}

/// Pods that run somewhere get time to end; those on no node, or already over, go at once.
fn graceful_seconds(pod: &Value, asked: Option<i64>) -> Option<i64> {
    let mut seconds = asked.unwrap_or_else(|| {
        at(pod, "spec.terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30)
    });
    if str_at(pod, "spec.nodeName").is_empty()
        || matches!(str_at(pod, "status.phase"), "Succeeded" | "Failed")
    {
        seconds = 0;
    }
    // A negative period in the spec is read as the shortest one.
    Some(if seconds < 0 { 1 } else { seconds })
}

fn validate(pod: &Value, _: &Context<'_>) -> ErrorList {
    check(pod, |pod| {
        rules(&pod);
        annotations::deletion_cost(&pod);
        let spec = pod.field("spec");
        if !spec.field("ephemeralContainers").is_empty() {
            spec.field("ephemeralContainers").forbidden("cannot be set on create");
        }
        if !spec.field("schedulingGates").is_empty() && !spec.field("nodeName").is_empty() {
            spec.field("nodeName").forbidden("cannot be set until all schedulingGates have been cleared");
        }
    })
}

/// What every pod obeys, new or changed.
fn rules(pod: &At<'_>) {
    podspec::spec_rules(&pod.field("spec"), Owner::Pod);
    annotations::rules(pod);
    let spec = pod.field("spec");
    if !spec.field("serviceAccountName").is_empty() {
        return;
    }
    for source in spec.field("volumes").items().flat_map(|volume| volume.field("projected.sources").items()) {
        let token = source.field("serviceAccountToken");
        if token.is_set() {
            token.forbidden("must not be specified when serviceAccountName is not set");
        }
    }
}

#[cfg(test)]
mod tests;
