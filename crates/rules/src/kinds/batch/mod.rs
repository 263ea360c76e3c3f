//! Jobs and CronJobs.

mod columns;

use isopod_api::Value;
use isopod_api::object::child_mut;
use serde_json::json;

use super::shared::{at, str_at};
use super::{Context, Strategy};

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy {
        group: "batch",
        kind: "Job",
        generation: true,
        prepare_for_create: prepare_job,
        selectable: &[("status.successful", "status.succeeded")],
        orphan_by_default: true,
        columns: columns::JOB,
        row: columns::job,
        ..Strategy::DEFAULT
    },
    &Strategy {
        group: "batch",
        kind: "CronJob",
        generation: true,
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
            labels.insert(key.to_owned(), value.as_str().into());
        }
    }
    let selector = spec.entry("selector").or_insert_with(|| json!({}));
    child_mut(selector, "matchLabels").insert("batch.kubernetes.io/controller-uid".to_owned(), uid.into());
}
