//! Jobs and CronJobs.

mod columns;
mod indexes;
mod schedule;
mod status;
mod validate;

use isopod_api::Value;
use isopod_api::object::child_mut;
use serde_json::json;

use super::shared::{at, str_at};
use super::{Context, Strategy, pod};

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy {
        group: "batch",
        kind: "Job",
        generation: true,
        prepare_for_create: prepare_job,
        validate: validate::job,
        validate_update: validate::job_update,
        validate_status_update: status::job_status,
        warnings: |new, old| pod::template_warnings(new, old, "spec.template"),
        selectable: &[("status.successful", "status.succeeded")],
        selectable_absent: &[("status.successful", "0")],
        orphan_by_default: true,
        columns: columns::JOB,
        row: columns::job,
        ..Strategy::DEFAULT
    },
    &Strategy {
        group: "batch",
        kind: "CronJob",
        generation: true,
        validate: validate::cron_job,
        validate_update: validate::cron_job_update,
        warnings: |new, old| pod::template_warnings(new, old, "spec.jobTemplate.spec.template"),
        columns: columns::CRON_JOB,
        row: columns::cron_job,
        ..Strategy::DEFAULT
    },
];

/// Gives a job without a manual selector the selector on its own uid, and its pods the labels for it.
fn prepare_job(job: &mut Value, _: &Context<'_>) {
    if at(job, "spec.manualSelector") == Some(&Value::Bool(true)) {
        return;
    }
    let uid = str_at(job, "metadata.uid").to_owned();
    let name = str_at(job, "metadata.name").to_owned();
    let spec = child_mut(job, "spec");
    let template = spec.entry("template").or_insert_with(|| json!({}));
    let metadata = template.as_object_mut().map(|t| t.entry("metadata").or_insert_with(|| json!({})));
    if let Some(metadata) = metadata {
        let labels = child_mut(metadata, "labels");
        for (key, value) in [
            ("controller-uid", &uid),
            ("job-name", &name),
            ("batch.kubernetes.io/controller-uid", &uid),
            ("batch.kubernetes.io/job-name", &name),
        ] {
            // Labels that the client has set are judged by validation.
            labels.entry(key).or_insert_with(|| value.as_str().into());
        }
    }
    let selector = spec.entry("selector").or_insert_with(|| json!({}));
    child_mut(selector, "matchLabels")
        .entry("batch.kubernetes.io/controller-uid")
        .or_insert_with(|| uid.into());
}
