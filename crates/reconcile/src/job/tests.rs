//! Jobs from start to end, in a world where pods end as told.

use std::fmt::Write as _;

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;
use crate::plan::{ApiError, Outcome, Write};

struct World {
    job: Job,
    pods: Vec<Pod>,
    now: Timestamp,
    made: usize,
    log: String,
}

fn world(spec: Value) -> World {
    let mut value = json!({
        "metadata": {"name": "j", "namespace": "d", "uid": "ju"},
        "spec": {"parallelism": 1, "completions": 1, "backoffLimit": 6, "podReplacementPolicy": "TerminatingOrFailed",
            "selector": {"matchLabels": {"u": "ju"}},
            "template": {"metadata": {"labels": {"u": "ju"}},
                "spec": {"containers": [{"name": "c"}], "restartPolicy": "Never"}}},
    });
    for (key, inner) in spec.as_object().unwrap() {
        value["spec"][key] = inner.clone();
    }
    World {
        job: serde_json::from_value(value).unwrap(),
        pods: vec![],
        now: "2026-01-01T00:00:00Z".parse().unwrap(),
        made: 0,
        log: String::new(),
    }
}

impl World {
    fn apply(&mut self, plan: Plan) {
        let mut outcome = Outcome::default();
        let actions: Vec<_> = plan.actions().cloned().collect();
        for step in &plan.steps {
            if let Step::Note(event) = step {
                let _ = writeln!(self.log, "event {} {}", event.reason, event.message);
            }
        }
        for action in actions {
            let result = self.write(&action.write);
            for event in action.on_ok.iter().filter(|event| !event.reason.starts_with("Successful")) {
                let _ = writeln!(self.log, "event {} {}", event.reason, event.message);
            }
            outcome.results.push(result);
        }
        if let Some(then) = plan.then {
            let next = then(&outcome);
            self.apply(next);
        }
    }

    fn write(&mut self, write: &Write) -> Result<Value, ApiError> {
        match write {
            Write::Create { body, .. } => {
                let mut pod: Pod = serde_json::from_value(body.clone()).unwrap();
                let name = format!("{}{}", pod.metadata.generate_name.as_deref().unwrap(), self.made);
                self.made += 1;
                let _ = writeln!(self.log, "create {name}");
                pod.metadata.uid = Some(name.clone());
                pod.metadata.name = Some(name);
                pod.status = Some(serde_json::from_value(json!({"phase": "Running"})).unwrap());
                self.pods.push(pod);
            }
            Write::Update { body, .. } => {
                let status = &body["status"];
                let conditions: Vec<String> = status["conditions"]
                    .as_array()
                    .unwrap_or(&vec![])
                    .iter()
                    .map(|c| format!("{}={}:{}", c["type"], c["status"], c["reason"]).replace('"', ""))
                    .collect();
                let n = |key: &str| status[key].as_i64().unwrap_or(0);
                let _ = writeln!(
                    self.log,
                    "status active={} succeeded={} failed={} terminating={} uncounted={} indexes={}/{} {}",
                    n("active"),
                    n("succeeded"),
                    n("failed"),
                    n("terminating"),
                    status["uncountedTerminatedPods"],
                    status["completedIndexes"].as_str().unwrap_or("-"),
                    status["failedIndexes"].as_str().unwrap_or("-"),
                    conditions.join(" "),
                );
                self.job = serde_json::from_value(body.clone()).unwrap();
            }
            Write::Patch { target, .. } => {
                let _ = writeln!(self.log, "release {}", target.name);
                for pod in self.pods.iter_mut().filter(|pod| pod.name() == target.name) {
                    pod.metadata.finalizers = None;
                }
                self.pods.retain(|pod| !(pod.deleting() && pod.finalizers().is_empty()));
            }
            Write::Delete { target, .. } => {
                let _ = writeln!(self.log, "delete {}", target.name);
                let now = crate::meta::time(self.now);
                for pod in self.pods.iter_mut().filter(|pod| pod.name() == target.name) {
                    pod.metadata.deletion_timestamp = Some(now.clone());
                    // The kubelet ends it at once.
                    pod.status.as_mut().unwrap().phase = Some("Failed".to_owned());
                }
            }
            other @ Write::DeleteCollection { .. } => panic!("{other:?}"),
        }
        Ok(json!({"metadata": {"resourceVersion": "1"}}))
    }

    fn end(&mut self, name: &str, phase: &str, exit: i32) {
        let now = crate::meta::time(self.now);
        let pod = self.pods.iter_mut().find(|pod| pod.name() == name).unwrap();
        let finished = serde_json::to_value(now).unwrap();
        pod.status = serde_json::from_value(json!({"phase": phase, "containerStatuses": [{
            "name": "c", "ready": false, "restartCount": 0, "image": "", "imageID": "",
            "state": {"terminated": {"exitCode": exit, "finishedAt": finished}}}]}))
        .unwrap();
    }

    fn settle(&mut self) {
        for _ in 0..20 {
            let before = (self.job.clone(), self.pods.clone());
            let view = View {
                pods: self.pods.iter().cloned().map(Arc::new).collect(),
                released: HashSet::new(),
                settled: true,
            };
            let plan = reconcile(&Arc::new(self.job.clone()), view, self.now);
            let requeue = plan.requeue_after;
            self.apply(plan);
            if before == (self.job.clone(), self.pods.clone()) {
                let _ = requeue;
                return;
            }
        }
        panic!("never settles:\n{}", self.log);
    }

    fn check(&mut self, want: Expect) {
        self.settle();
        want.assert_eq(&std::mem::take(&mut self.log));
    }

    fn pass(&mut self, seconds: i64) {
        self.now = crate::meta::plus_seconds(self.now, seconds);
    }
}

#[test]
fn completes_after_a_failure() {
    let mut w = world(json!({}));
    w.check(expect![[r#"
        create j-0
        status active=1 succeeded=0 failed=0 terminating=0 uncounted={} indexes=-/- 
    "#]]);
    w.end("j-0", "Failed", 1);
    w.check(expect![[r#"
        status active=0 succeeded=0 failed=0 terminating=0 uncounted={"failed":["j-0"]} indexes=-/- 
        release j-0
        status active=0 succeeded=0 failed=1 terminating=0 uncounted={} indexes=-/- 
    "#]]);
    w.pass(11);
    w.check(expect![[r#"
        create j-1
        status active=1 succeeded=0 failed=1 terminating=0 uncounted={} indexes=-/- 
    "#]]);
    w.end("j-1", "Succeeded", 0);
    w.check(expect![[r#"
        status active=0 succeeded=0 failed=1 terminating=0 uncounted={"succeeded":["j-1"]} indexes=-/- SuccessCriteriaMet=True:CompletionsReached
        release j-1
        status active=0 succeeded=1 failed=1 terminating=0 uncounted={} indexes=-/- SuccessCriteriaMet=True:CompletionsReached Complete=True:CompletionsReached
        event Completed Job completed
    "#]]);
    assert!(finished(&w.job).is_some());
}

#[test]
fn gives_up_at_the_backoff_limit() {
    let mut w = world(json!({"backoffLimit": 0, "parallelism": 2, "completions": 2}));
    w.settle();
    w.log.clear();
    w.end("j-0", "Failed", 1);
    w.check(expect![[r#"
        delete j-1
        status active=0 succeeded=0 failed=0 terminating=1 uncounted={"failed":["j-0"]} indexes=-/- FailureTarget=True:BackoffLimitExceeded
        release j-0
        status active=0 succeeded=0 failed=1 terminating=1 uncounted={} indexes=-/- FailureTarget=True:BackoffLimitExceeded
        status active=0 succeeded=0 failed=1 terminating=0 uncounted={"failed":["j-1"]} indexes=-/- FailureTarget=True:BackoffLimitExceeded
        release j-1
        status active=0 succeeded=0 failed=2 terminating=0 uncounted={} indexes=-/- FailureTarget=True:BackoffLimitExceeded Failed=True:BackoffLimitExceeded
        event BackoffLimitExceeded Job has reached the specified backoff limit
    "#]]);
}

#[test]
fn indexed_with_a_limit_per_index() {
    let mut w = world(json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3,
        "backoffLimitPerIndex": 1, "backoffLimit": 2147483647}));
    w.check(expect![[r#"
        create j-0-0
        create j-1-1
        create j-2-2
        status active=3 succeeded=0 failed=0 terminating=0 uncounted={} indexes=-/ 
    "#]]);
    w.end("j-0-0", "Succeeded", 0);
    w.end("j-1-1", "Failed", 1);
    w.check(expect![[r#"
        status active=1 succeeded=1 failed=0 terminating=0 uncounted={} indexes=0/ 
        release j-0-0
    "#]]);
    w.pass(11);
    w.check(expect![[r#"
        create j-1-3
        status active=2 succeeded=1 failed=0 terminating=0 uncounted={} indexes=0/ 
        status active=2 succeeded=1 failed=0 terminating=0 uncounted={"failed":["j-1-1"]} indexes=0/ 
        release j-1-1
        status active=2 succeeded=1 failed=1 terminating=0 uncounted={} indexes=0/ 
    "#]]);
    w.end("j-1-3", "Failed", 1);
    w.check(expect![[r#"
        status active=1 succeeded=1 failed=1 terminating=0 uncounted={"failed":["j-1-3"]} indexes=0/1 
        release j-1-3
        status active=1 succeeded=1 failed=2 terminating=0 uncounted={} indexes=0/1 
    "#]]);
    w.end("j-2-2", "Succeeded", 0);
    w.check(expect![[r#"
        status active=0 succeeded=2 failed=2 terminating=0 uncounted={} indexes=0,2/1 FailureTarget=True:FailedIndexes
        release j-2-2
        status active=0 succeeded=2 failed=2 terminating=0 uncounted={} indexes=0,2/1 FailureTarget=True:FailedIndexes Failed=True:FailedIndexes
        event FailedIndexes Job has failed indexes
    "#]]);
}

#[test]
fn failure_policy_ends_or_ignores() {
    let policy = json!({"rules": [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]});
    let mut w =
        world(json!({"podFailurePolicy": policy, "podReplacementPolicy": "Failed", "backoffLimit": 0}));
    w.settle();
    w.end("j-0", "Failed", 1);
    w.pods[0].status.as_mut().unwrap().conditions =
        serde_json::from_value(json!([{"type": "DisruptionTarget", "status": "True"}])).unwrap();
    w.log.clear();
    w.check(expect![[r#"
        create j-1
        release j-0
    "#]]);
    w.end("j-1", "Failed", 42);
    w.check(expect![[r#"
        status active=0 succeeded=0 failed=0 terminating=0 uncounted={"failed":["j-1"]} indexes=-/- FailureTarget=True:PodFailurePolicy
        release j-1
        status active=0 succeeded=0 failed=1 terminating=0 uncounted={} indexes=-/- FailureTarget=True:PodFailurePolicy Failed=True:PodFailurePolicy
        event PodFailurePolicy Container c for pod d/j-1 failed with exit code 42 matching FailJob rule at index 0
    "#]]);
}

#[test]
fn success_policy_stops_the_rest() {
    let mut w = world(json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3,
        "successPolicy": {"rules": [{"succeededIndexes": "0-1", "succeededCount": 1}]}}));
    w.settle();
    w.log.clear();
    w.end("j-1-1", "Succeeded", 0);
    w.check(expect![[r#"
        delete j-0-0
        delete j-2-2
        status active=0 succeeded=1 failed=0 terminating=2 uncounted={} indexes=1/- SuccessCriteriaMet=True:SuccessPolicy
        release j-1-1
        status active=0 succeeded=1 failed=0 terminating=0 uncounted={"failed":["j-0-0","j-2-2"]} indexes=1/- SuccessCriteriaMet=True:SuccessPolicy
        release j-0-0
        release j-2-2
        status active=0 succeeded=1 failed=2 terminating=0 uncounted={} indexes=1/- SuccessCriteriaMet=True:SuccessPolicy Complete=True:SuccessPolicy
        event Completed Job completed
    "#]]);
}

#[test]
fn suspend_resume_and_deadline() {
    let mut w = world(json!({"suspend": true, "activeDeadlineSeconds": 60}));
    w.check(expect![[r#"
        event Suspended Job suspended
        status active=0 succeeded=0 failed=0 terminating=0 uncounted={} indexes=-/- Suspended=True:JobSuspended
    "#]]);
    w.job.spec.as_mut().unwrap().suspend = Some(false);
    w.check(expect![[r#"
        create j-0
        event Resumed Job resumed
        status active=1 succeeded=0 failed=0 terminating=0 uncounted={} indexes=-/- Suspended=False:JobResumed
    "#]]);
    w.pass(61);
    w.check(expect![[r#"
        delete j-0
        status active=0 succeeded=0 failed=0 terminating=1 uncounted={} indexes=-/- Suspended=False:JobResumed FailureTarget=True:DeadlineExceeded
        status active=0 succeeded=0 failed=0 terminating=0 uncounted={"failed":["j-0"]} indexes=-/- Suspended=False:JobResumed FailureTarget=True:DeadlineExceeded
        release j-0
        status active=0 succeeded=0 failed=1 terminating=0 uncounted={} indexes=-/- Suspended=False:JobResumed FailureTarget=True:DeadlineExceeded Failed=True:DeadlineExceeded
        event DeadlineExceeded Job was active longer than specified deadline
    "#]]);
}
