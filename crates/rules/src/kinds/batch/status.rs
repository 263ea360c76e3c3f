//! What a change of a Job's status obeys, worded as upstream's `ValidateJobUpdateStatus`. Most rules judge what the
//! change touches only, so that a status from an older controller can still be worked on.

use std::collections::BTreeSet;

use isopod_api::Value;
use isopod_api::field::{Error, ErrorKind, ErrorList};
use jiff::Timestamp;

use super::indexes;
use crate::kinds::Context;
use crate::kinds::check::{At, check_update};

pub(super) fn job_status(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
    check_update(new, old, |new, old| {
        let change = Change { spec: new.field("spec"), now: new.field("status"), was: old.field("status") };
        for field in ["active", "succeeded", "failed", "ready", "terminating"] {
            change.now.field(field).not_negative();
        }
        change.uncounted();
        change.ends();
        change.times();
        change.indexes();
        change.counters();
        change.conditions_stay();
    })
}

struct Change<'v> {
    spec: At<'v>,
    now: At<'v>,
    was: At<'v>,
}

fn is(status: &At<'_>, kind: &str) -> bool {
    status
        .field("conditions")
        .items()
        .any(|c| c.field("type").str() == kind && c.field("status").str() == "True")
}

fn is_finished(status: &At<'_>) -> bool {
    is(status, "Complete") || is(status, "Failed")
}

fn count(status: &At<'_>, field: &'static str) -> i64 {
    status.field(field).int().unwrap_or(0)
}

fn time(at: &At<'_>) -> Option<Timestamp> {
    at.str().parse().ok()
}

impl Change<'_> {
    fn touches(&self, field: &'static str) -> bool {
        self.now.field(field).value() != self.was.field(field).value()
    }

    fn turns(&self, kind: &str) -> bool {
        is(&self.now, kind) != is(&self.was, kind)
    }

    fn turns_finished(&self) -> bool {
        is_finished(&self.now) != is_finished(&self.was)
    }

    fn wrong_conditions(&self, detail: impl Into<String>) {
        let conditions = self.now.field("conditions");
        let path = conditions.path();
        conditions.report(Error { kind: ErrorKind::Invalid, path, value: None, detail: detail.into() });
    }

    fn uncounted(&self) {
        let mut seen = BTreeSet::new();
        for list in ["succeeded", "failed"] {
            for uid in self.now.field("uncountedTerminatedPods").field(list).items() {
                if uid.is_empty() {
                    uid.invalid("must not be empty");
                } else {
                    uid.unique(&mut seen);
                }
            }
        }
    }

    /// What goes together when a job ends.
    fn ends(&self) {
        let [complete, failed, failing, succeeding] =
            ["Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"].map(|kind| is(&self.now, kind));
        let [new_complete, new_failed, new_failing, new_succeeding] =
            ["Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"].map(|kind| self.turns(kind));
        for (wrong, detail) in [
            (
                (new_complete || new_failed) && complete && failed,
                "cannot set Complete=True and Failed=true conditions",
            ),
            (
                (new_complete || new_failing) && complete && failing,
                "cannot set Complete=True and FailureTarget=true conditions",
            ),
            (
                (new_failed || new_failing) && failed && !failing,
                "cannot set Failed=True condition without the FailureTarget=true condition",
            ),
            (
                (new_complete || new_succeeding) && complete && !succeeding,
                "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
            ),
            (succeeding && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
            (succeeding && failing, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
            (
                self.spec.field("successPolicy").is_set() && complete && !succeeding,
                "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
            ),
        ] {
            if wrong {
                self.wrong_conditions(detail);
            }
        }
        if !is_finished(&self.now) {
            return;
        }
        for (field, detail) in [
            ("active", "active>0 is invalid for finished job"),
            ("terminating", "terminating>0 is invalid for finished job"),
        ] {
            if (self.turns_finished() || self.touches(field)) && count(&self.now, field) > 0 {
                self.now.field(field).invalid(detail);
            }
        }
        if (self.turns_finished() || self.touches("startTime")) && !self.now.field("startTime").is_set() {
            self.now.field("startTime").required("startTime is required for finished job");
        }
        let uncounted = self.now.field("uncountedTerminatedPods");
        if (self.turns_finished() || self.touches("uncountedTerminatedPods"))
            && ["succeeded", "failed"].iter().any(|list| !uncounted.field(list).is_empty())
        {
            uncounted.invalid("must be empty for finished job");
        }
    }

    fn times(&self) {
        let (start, end) = (self.now.field("startTime"), self.now.field("completionTime"));
        let complete = is(&self.now, "Complete");
        if self.turns("Complete") || self.touches("completionTime") {
            if end.is_set() && !complete {
                end.invalid("cannot set completionTime when there is no Complete=True condition");
            }
            if !end.is_set() && complete {
                end.required("completionTime is required for Complete jobs");
            }
        }
        if (self.touches("startTime") || self.touches("completionTime"))
            && let (Some(start), Some(stop)) = (time(&start), time(&end))
            && stop < start
        {
            end.invalid("must be equal to or after `startTime`");
        }
        if end.is_set() && self.was.field("completionTime").is_set() && self.touches("completionTime") {
            end.invalid("field is immutable");
        }
        // A job that is resumed starts anew.
        let resumed = is(&self.was, "Suspended") && start.is_set();
        if self.was.field("startTime").is_set()
            && self.touches("startTime")
            && !self.spec.field("suspend").is_true()
            && !resumed
        {
            start.required("startTime cannot be removed for unsuspended job");
        }
    }

    fn indexes(&self) {
        let (done, lost) = (self.now.field("completedIndexes"), self.now.field("failedIndexes"));
        let (new_done, new_lost) = (self.touches("completedIndexes"), self.touches("failedIndexes"));
        let per_index = self.spec.field("backoffLimitPerIndex").is_set();
        if let Some(completions) = self.spec.field("completions").int() {
            for (list, new, name) in
                [(&done, new_done, "completedIndexes"), (&lost, new_lost && per_index, "failedIndexes")]
            {
                if let (true, Err(fault)) = (new, indexes::parse(list.str(), completions)) {
                    list.invalid(format!("error parsing {name}: {fault}"));
                }
            }
            if (new_done || new_lost)
                && let Some(index) = indexes::overlap(done.str(), lost.str(), completions)
            {
                lost.invalid(format!("failedIndexes and completedIndexes overlap at index: {index}"));
            }
        }
        if new_done && !done.is_empty() && self.spec.field("completionMode").str() != "Indexed" {
            done.invalid("cannot set non-empty completedIndexes when non-indexed completion mode");
        }
        if new_lost && lost.is_set() && !per_index {
            lost.invalid("cannot set non-null failedIndexes when backoffLimitPerIndex is null");
        }
    }

    fn counters(&self) {
        if (self.touches("ready") || self.touches("active"))
            && count(&self.now, "ready") > count(&self.now, "active")
        {
            self.now.field("ready").invalid("cannot set more ready pods than active");
        }
        // Indexed jobs that run all at once can be made smaller.
        let elastic = self.spec.field("completionMode").str() == "Indexed"
            && self.spec.field("completions").value() == self.spec.field("parallelism").value();
        for (field, may_shrink) in [("failed", false), ("succeeded", elastic)] {
            if !may_shrink && count(&self.now, field) < count(&self.was, field) {
                let shown = count(&self.now, field);
                self.now.field(field).invalid_as(shown, format!("cannot decrease the {field} counter"));
            }
        }
    }

    fn conditions_stay(&self) {
        for kind in ["Failed", "Complete", "FailureTarget"] {
            if is(&self.was, kind) && !is(&self.now, kind) {
                self.wrong_conditions(format!("cannot disable the terminal {kind}=True condition"));
            }
        }
        let succeeding = (is(&self.now, "SuccessCriteriaMet"), is(&self.was, "SuccessCriteriaMet"));
        if succeeding == (false, true) {
            self.wrong_conditions("cannot disable the SuccessCriteriaMet=True condition");
        }
        if succeeding == (true, false) && is(&self.was, "Complete") {
            self.wrong_conditions(
                "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::check::texts;
    use serde_json::json;

    const START: &str = "2024-01-01T00:00:00Z";

    fn faults(spec: Value, old: Value, new: Value) -> Vec<String> {
        let job = |status: Value| json!({"spec": spec, "status": status});
        texts(&job_status(&job(new), &job(old), &Context::TEST))
    }

    fn conditions(kinds: &[&str]) -> Value {
        kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect()
    }

    #[test]
    fn jobs_end_in_order() {
        let complete = json!({"startTime": START, "completionTime": "2024-01-01T00:00:07Z", "succeeded": 1,
            "conditions": conditions(&["SuccessCriteriaMet", "Complete"])});
        let running = json!({"startTime": START, "active": 1, "ready": 1});
        assert_eq!(faults(json!({}), running.clone(), complete.clone()), Vec::<String>::new());
        let failed =
            json!({"startTime": START, "failed": 1, "conditions": conditions(&["FailureTarget", "Failed"])});
        assert_eq!(faults(json!({}), running.clone(), failed.clone()), Vec::<String>::new());
        for (new, want) in [
            (
                json!({"startTime": START, "conditions": conditions(&["Failed"]), "active": 2}),
                vec![
                    "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition",
                    "status.active: Invalid value: 2: active>0 is invalid for finished job",
                ],
            ),
            (
                json!({"conditions": conditions(&["Complete", "SuccessCriteriaMet"]), "terminating": 1,
                    "uncountedTerminatedPods": {"failed": ["a"]}}),
                vec![
                    "status.terminating: Invalid value: 1: terminating>0 is invalid for finished job",
                    "status.startTime: Required value: startTime is required for finished job",
                    "status.uncountedTerminatedPods: Invalid value: {\"failed\":[\"a\"]}: must be empty for finished job",
                    "status.completionTime: Required value: completionTime is required for Complete jobs",
                    "status.startTime: Required value: startTime cannot be removed for unsuspended job",
                ],
            ),
            (
                json!({"startTime": START, "ready": 2, "active": 1, "uncountedTerminatedPods": {"failed": ["a", ""], "succeeded": ["a"]}}),
                vec![
                    "status.uncountedTerminatedPods.failed[0]: Duplicate value: \"a\"",
                    "status.uncountedTerminatedPods.failed[1]: Invalid value: \"\": must not be empty",
                    "status.ready: Invalid value: 2: cannot set more ready pods than active",
                ],
            ),
        ] {
            assert_eq!(faults(json!({}), running.clone(), new), want);
        }
        assert_eq!(
            faults(json!({}), failed, running),
            [
                "status.failed: Invalid value: 0: cannot decrease the failed counter",
                "status.conditions: Invalid value: cannot disable the terminal Failed=True condition",
                "status.conditions: Invalid value: cannot disable the terminal FailureTarget=True condition",
            ]
        );
        let suspended = json!({"startTime": START, "conditions": conditions(&["Suspended"])});
        let resumed = json!({"startTime": "2024-01-02T00:00:00Z", "conditions": []});
        assert_eq!(faults(json!({"suspend": false}), suspended, resumed.clone()), Vec::<String>::new());
        assert_eq!(faults(json!({}), json!({"startTime": START}), resumed).len(), 1);
        // An old status that breaks a rule can be worked on where it does not.
        let odd = json!({"conditions": conditions(&["Complete"]), "completionTime": START, "active": 1});
        let mut labelled = odd.clone();
        labelled["succeeded"] = json!(1);
        assert_eq!(faults(json!({}), odd, labelled), Vec::<String>::new());
    }

    #[test]
    fn lists_of_indexes() {
        let indexed = json!({"completionMode": "Indexed", "completions": 5, "parallelism": 5, "backoffLimitPerIndex": 1});
        for (done, lost, want) in [
            ("0,2-3", "1,4", vec![]),
            (
                "3,1",
                "",
                vec![
                    "status.completedIndexes: Invalid value: \"3,1\": error parsing completedIndexes: non-increasing order, previous: 3, current: 1",
                ],
            ),
            (
                "0-2",
                "2,7",
                vec![
                    "status.failedIndexes: Invalid value: \"2,7\": error parsing failedIndexes: too large index: \"7\"",
                    "status.failedIndexes: Invalid value: \"2,7\": failedIndexes and completedIndexes overlap at index: 2",
                ],
            ),
        ] {
            let status = json!({"completedIndexes": done, "failedIndexes": lost});
            assert_eq!(faults(indexed.clone(), json!({}), status), want, "{done} {lost}");
        }
        assert_eq!(
            faults(
                json!({"completions": 2}),
                json!({}),
                json!({"completedIndexes": "0", "failedIndexes": "1"})
            ),
            [
                "status.completedIndexes: Invalid value: \"0\": cannot set non-empty completedIndexes when non-indexed completion mode",
                "status.failedIndexes: Invalid value: \"1\": cannot set non-null failedIndexes when backoffLimitPerIndex is null",
            ]
        );
        // An elastic job may forget successes when it shrinks.
        assert_eq!(faults(indexed, json!({"succeeded": 5}), json!({"succeeded": 3})), Vec::<String>::new());
    }
}
