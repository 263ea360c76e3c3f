//! Defaults of the batch group.

use super::{Hook, is_empty, missing, object_or_new, objects, set};
use crate::{Map, Value};

pub(super) fn hook(name: &str) -> Option<Hook> {
    Some(match name {
        "Job" => job,
        "CronJob" => cron_job,
        _ => return None,
    })
}

fn job(job: &mut Map) {
    let spec = object_or_new(job, "spec");
    if missing(spec, "completions") && missing(spec, "parallelism") {
        spec.insert("completions".into(), 1.into());
    }
    set(spec, "parallelism", 1);
    let limit = if missing(spec, "backoffLimitPerIndex") { 6 } else { i32::MAX };
    set(spec, "backoffLimit", limit);
    set(spec, "completionMode", "NonIndexed");
    set(spec, "suspend", false);
    let replacement = if missing(spec, "podFailurePolicy") { "TerminatingOrFailed" } else { "Failed" };
    set(spec, "podReplacementPolicy", replacement);
    set(spec, "manualSelector", false);
    let policy = spec.get_mut("podFailurePolicy").and_then(Value::as_object_mut);
    for rule in policy.into_iter().flat_map(|policy| objects(policy, "rules")) {
        for condition in objects(rule, "onPodConditions") {
            set(condition, "status", "True");
        }
    }
    let labels = spec.get("template").and_then(|template| template.pointer("/metadata/labels")).cloned();
    let metadata = object_or_new(job, "metadata");
    if let Some(labels) = labels.filter(Value::is_object)
        && is_empty(metadata, "labels")
    {
        metadata.insert("labels".into(), labels);
    }
}

fn cron_job(cron: &mut Map) {
    let spec = object_or_new(cron, "spec");
    set(spec, "concurrencyPolicy", "Allow");
    set(spec, "suspend", false);
    set(spec, "successfulJobsHistoryLimit", 3);
    set(spec, "failedJobsHistoryLimit", 1);
}
