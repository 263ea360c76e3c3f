//! Tables of Jobs and CronJobs.

use isopod_api::Value;
use jiff::Timestamp;

use crate::kinds::columns::{
    CONTAINERS, Column, IMAGES, SELECTOR, age, containers_and_images, human_duration, or_none, selector,
};
use crate::kinds::shared::{at, int_at, list_at, str_at};

pub(super) const JOB: &[Column] = &[
    Column::text("Status", "State of the job in one word."),
    Column::text("Completions", "Pods that succeeded, of those wanted."),
    Column::text("Duration", "Time from start to completion, or until now."),
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) fn job(job: &Value, now: Timestamp) -> Vec<Value> {
    let [containers, images] = containers_and_images(job, "spec.template.spec");
    vec![
        status(job).into(),
        completions(job).into(),
        duration(job, now).into(),
        containers,
        images,
        selector(at(job, "spec.selector")),
    ]
}

fn status(job: &Value) -> &'static str {
    let conditions = list_at(job, "status.conditions");
    let is =
        |kind: &str| conditions.iter().any(|c| str_at(c, "type") == kind && str_at(c, "status") == "True");
    if let Some(end) = ["Complete", "Failed"].into_iter().find(|kind| is(kind)) {
        return end;
    }
    if at(job, "metadata.deletionTimestamp").is_some() {
        return "Terminating";
    }
    ["Suspended", "FailureTarget", "SuccessCriteriaMet"]
        .into_iter()
        .find(|kind| is(kind))
        .unwrap_or("Running")
}

fn completions(job: &Value) -> String {
    let succeeded = int_at(job, "status.succeeded");
    match (at(job, "spec.completions").and_then(Value::as_i64), int_at(job, "spec.parallelism")) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn duration(job: &Value, now: Timestamp) -> String {
    let time = |path: &str| str_at(job, path).parse::<Timestamp>().ok();
    let Some(start) = time("status.startTime") else { return String::new() };
    let end = time("status.completionTime").unwrap_or(now);
    human_duration(end.as_second() - start.as_second())
}

pub(super) const CRON_JOB: &[Column] = &[
    Column::text("Schedule", "When jobs start, in cron's form."),
    Column::text("Timezone", "Time zone of the schedule."),
    Column::boolean("Suspend", "Whether no new jobs are started."),
    Column::integer("Active", "Jobs that run now."),
    Column::text("Last Schedule", "Time since a job was last started."),
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) fn cron_job(cron_job: &Value, now: Timestamp) -> Vec<Value> {
    let [containers, images] = containers_and_images(cron_job, "spec.jobTemplate.spec.template.spec");
    let last = at(cron_job, "status.lastScheduleTime").filter(|t| !t.is_null());
    let suspend = match at(cron_job, "spec.suspend").and_then(Value::as_bool) {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    vec![
        str_at(cron_job, "spec.schedule").into(),
        or_none(cron_job, "spec.timeZone"),
        suspend.into(),
        list_at(cron_job, "status.active").len().into(),
        last.map_or_else(|| "<none>".to_owned(), |last| age(Some(last), now)).into(),
        containers,
        images,
        selector(at(cron_job, "spec.jobTemplate.spec.selector")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells() {
        let now: Timestamp = "2024-01-01T00:02:00Z".parse().unwrap();
        let failed = json!({"conditions": [{"type": "Failed", "status": "True"}]});
        let done = json!({"succeeded": 2, "startTime": "2024-01-01T00:00:00Z", "completionTime": "2024-01-01T00:00:07Z",
            "conditions": [{"type": "Complete", "status": "True"}]});
        for (spec, status, want) in [
            (json!({"completions": 2}), done, ["Complete", "2/2", "7s"]),
            (json!({"parallelism": 3}), failed, ["Failed", "0/1 of 3", ""]),
            (json!({}), json!({"startTime": "2024-01-01T00:00:00Z"}), ["Running", "0/1", "2m"]),
        ] {
            assert_eq!(job(&json!({"spec": spec, "status": status}), now)[..3], want);
        }
        let object = json!({"spec": {"schedule": "* * * * *", "suspend": false}, "status": {"active": [{}],
            "lastScheduleTime": "2024-01-01T00:01:00Z"}});
        assert_eq!(
            cron_job(&object, now)[..5],
            [json!("* * * * *"), json!("<none>"), json!("False"), json!(1), json!("60s")]
        );
    }
}
