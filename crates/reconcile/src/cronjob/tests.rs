//! CronJobs by table.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;
use crate::plan::{Outcome, describe};

fn cron(spec: Value, status: Value) -> Arc<CronJob> {
    let mut value = json!({
        "metadata": {"name": "c", "namespace": "d", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"schedule": "*/10 * * * *", "concurrencyPolicy": "Allow", "jobTemplate": {"spec": {"template": {}}}},
        "status": status,
    });
    for (key, inner) in spec.as_object().unwrap() {
        value["spec"][key] = inner.clone();
    }
    Arc::new(serde_json::from_value(value).unwrap())
}

fn job(name: &str, condition: Option<&str>) -> Arc<Job> {
    let conditions = condition.map(|kind| json!([{"type": kind, "status": "True"}])).unwrap_or(json!([]));
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "d", "uid": name}, "spec": {"template": {}},
            "status": {"conditions": conditions, "startTime": "2026-01-01T00:00:00Z",
                "completionTime": "2026-01-01T00:01:00Z"},
        }))
        .unwrap(),
    )
}

fn check(cron: &Arc<CronJob>, jobs: &[Arc<Job>], now: &str, want: Expect) {
    let plan = reconcile(cron, jobs, Some(&TimeZone::UTC), now.parse().unwrap());
    let mut text = describe(&plan);
    if let Some(then) = plan.then {
        let made = json!({"metadata": {"name": "c-1", "namespace": "d", "uid": "new"}});
        let outcome = Outcome { results: vec![Ok(made)], ..Outcome::default() };
        let next = then(&outcome);
        for action in next.actions() {
            if let Write::Update { body, .. } = &action.write {
                text += &format!("status {}\n", body["status"]);
            }
        }
    }
    want.assert_eq(&text);
}

#[test]
fn starts_at_its_time_and_waits_otherwise() {
    check(
        &cron(json!({}), json!({})),
        &[],
        "2026-01-01T00:05:00Z",
        expect![[r#"
        requeue 300.1s
    "#]],
    );
    check(
        &cron(json!({}), json!({})),
        &[],
        "2026-01-01T00:10:01Z",
        expect![[r#"
        create jobs/c-29453770
          ok: SuccessfulCreate Created job c-29453770
        requeue 599.1s
        status {"active":[{"apiVersion":"batch/v1","kind":"Job","name":"c-1","namespace":"d","uid":"new"}],"lastScheduleTime":"2026-01-01T00:10:00Z"}
    "#]],
    );
    let last = json!({"lastScheduleTime": "2026-01-01T00:10:00Z"});
    check(
        &cron(json!({}), last),
        &[],
        "2026-01-01T00:10:01Z",
        expect![[r#"
        requeue 599.1s
    "#]],
    );
}

#[test]
fn policies_and_deadline() {
    let active = json!({"active": [{"name": "old", "uid": "old"}]});
    let running = [job("old", None)];
    let forbid = cron(json!({"concurrencyPolicy": "Forbid"}), active.clone());
    check(
        &forbid,
        &running,
        "2026-01-01T00:10:01Z",
        expect![[r#"
        event JobAlreadyActive Not starting job because prior execution is running and concurrency policy is Forbid
        requeue 599.1s
    "#]],
    );
    let replace = cron(json!({"concurrencyPolicy": "Replace"}), active);
    check(
        &replace,
        &running,
        "2026-01-01T00:10:01Z",
        expect![[r#"
        delete jobs/old Background
          ok: SuccessfulDelete Deleted job old
        create jobs/c-29453770
          ok: SuccessfulCreate Created job c-29453770
        requeue 599.1s
        status {"active":[{"apiVersion":"batch/v1","kind":"Job","name":"c-1","namespace":"d","uid":"new"}],"lastScheduleTime":"2026-01-01T00:10:00Z"}
    "#]],
    );
    check(&cron(json!({"suspend": true}), json!({})), &[], "2026-01-01T00:10:01Z", expect![[""]]);
    check(
        &cron(json!({"schedule": "x"}), json!({})),
        &[],
        "2026-01-01T00:10:01Z",
        expect![[r#"
        event UnparseableCronJobSchedule unparseable schedule: "x" : expected exactly 5 fields, found 1: [x]
    "#]],
    );
}

#[test]
fn finished_jobs_leave_the_list_and_old_ones_go() {
    let active = json!({"active": [{"name": "a", "uid": "a"}, {"name": "lost", "uid": "lost"}]});
    let spec = json!({"suspend": true, "successfulJobsHistoryLimit": 1});
    let jobs = [job("a", Some("Complete")), job("b", Some("Complete")), job("f", Some("Failed"))];
    check(
        &cron(spec, active),
        &jobs,
        "2026-01-01T00:10:01Z",
        expect![[r#"
        event SawCompletedJob Saw completed job: a, condition: Complete
        event MissingJob Active job went missing: lost
        delete jobs/a Background
          ok: SuccessfulDelete Deleted job a
        update cronjobs/c/status
    "#]],
    );
}
