//! NoExecute taints evict pods that do not tolerate them, at once or when their toleration ends.
//!
//! The time of eviction follows from the taint's `timeAdded`, so a restart of this process does not give pods more
//! time. Matches upstream's pkg/controller/tainteviction.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use serde_json::json;

use super::taints;
use crate::meta::{Meta, plus_seconds, reference, time, until};
use crate::plan::{Action, Event, PatchKind, Plan, Target, Tolerate};
use crate::pods;

/// Whether a toleration tolerates a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    let key = toleration.key.as_deref().unwrap_or_default();
    if !key.is_empty() && key != taint.key {
        return false;
    }
    let number = |text: &str| text.parse::<i64>().ok();
    let (have, want) =
        (toleration.value.as_deref().unwrap_or_default(), taint.value.as_deref().unwrap_or_default());
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => have == want,
        "Exists" => true,
        "Lt" => matches!((number(want), number(have)), (Some(taint), Some(limit)) if taint < limit),
        "Gt" => matches!((number(want), number(have)), (Some(taint), Some(limit)) if taint > limit),
        _ => false,
    }
}

/// When a pod on a node is to be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Never: all taints are tolerated without limit.
    Never,
    /// At this time.
    At(Timestamp),
}

/// Judges the node's NoExecute taints against the pod's tolerations.
pub fn due(pod: &Pod, node: &Node, now: Timestamp) -> Due {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let mut at: Option<Timestamp> = None;
    for taint in taints::of(node).iter().filter(|taint| taint.effect == "NoExecute") {
        let matching: Vec<&Toleration> =
            tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
        if matching.is_empty() {
            return Due::At(now);
        }
        let limit = matching.iter().filter_map(|toleration| toleration.toleration_seconds).min();
        if let Some(seconds) = limit {
            let since = taint.time_added.as_ref().map_or(now, |time| time.0);
            // A pod that came after the taint has its own full time.
            let start = pod
                .status
                .as_ref()
                .and_then(|status| status.start_time.as_ref())
                .map_or(since, |started| started.0.max(since));
            let end = plus_seconds(start, seconds.max(0));
            at = Some(at.map_or(end, |old| old.min(end)));
        }
    }
    at.map_or(Due::Never, Due::At)
}

/// Decides for one pod; `scheduled` says whether its eviction was announced before.
pub fn reconcile(pod: &Pod, node: &Node, scheduled: bool, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    if pod.deleting() || pods::is_terminal(pod) {
        return plan;
    }
    let at = match due(pod, node, now) {
        Due::Never => {
            if scheduled {
                let text = format!("Cancelling deletion of Pod {}/{}", pod.namespace(), pod.name());
                plan.note(Event::normal(reference(pod), "TaintManagerEviction", text));
            }
            return plan;
        }
        Due::At(at) => at,
    };
    if at > now {
        plan.requeue(until(at, now).max(Duration::from_millis(10)));
        return plan;
    }
    let text = format!("Marking for deletion Pod {}/{}", pod.namespace(), pod.name());
    plan.note(Event::normal(reference(pod), "TaintManagerEviction", text));
    let gone = Tolerate { not_found: true, ..Tolerate::default() };
    plan.push(disruption(
        pod,
        "DeletionByTaintManager",
        "Taint manager: deleting due to NoExecute taint",
        now,
    ));
    plan.push(Action::delete(pod).tolerating(gone));
    plan
}

/// The patch that says why a pod is about to be deleted.
pub(crate) fn disruption(pod: &Pod, reason: &str, message: &str, now: Timestamp) -> Action {
    let mut condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": time(now),
    });
    if let Some(generation) = pod.metadata.generation {
        condition["observedGeneration"] = json!(generation);
    }
    let body = json!({ "metadata": { "uid": pod.uid() }, "status": { "conditions": [condition] } });
    Action::patch_status(Target::of(pod), PatchKind::Strategic, body).tolerating(Tolerate {
        not_found: true,
        conflict: true,
        ..Tolerate::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn pod(tolerations: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"containers": [], "tolerations": tolerations}, "status": {"phase": "Running"},
        }))
        .unwrap()
    }

    fn node() -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"taints": [
            {"key": taints::UNREACHABLE, "effect": "NoExecute", "timeAdded": "1970-01-01T00:00:00Z"}]}}))
        .unwrap()
    }

    #[test]
    fn eviction_waits_for_the_toleration_to_end() {
        let now = plus_seconds(Timestamp::UNIX_EPOCH, 100);
        let unreachable = |seconds: serde_json::Value| {
            json!([{"key": taints::UNREACHABLE, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": seconds}])
        };
        let show = |tolerations| crate::plan::describe(&reconcile(&pod(tolerations), &node(), false, now));
        assert_eq!(show(unreachable(json!(300))), "requeue 200s\n");
        assert_eq!(show(unreachable(json!(null))), "");
        assert_eq!(show(json!([{"operator": "Exists"}])), "");
        expect![[r#"
            event TaintManagerEviction Marking for deletion Pod d/p
            patch pods/p/status {"metadata":{"uid":"u"},"status":{"conditions":[{"lastTransitionTime":"1970-01-01T00:01:40Z","message":"Taint manager: deleting due to NoExecute taint","reason":"DeletionByTaintManager","status":"True","type":"DisruptionTarget"}]}}
            delete pods/p
        "#]].assert_eq(&show(json!([])));
        assert_eq!(show(unreachable(json!(60))), show(json!([])));
    }

    #[test]
    fn operators() {
        let taint = |value: &str| Taint {
            key: "k".into(),
            effect: "NoExecute".into(),
            value: Some(value.into()),
            time_added: None,
        };
        for (toleration, value, want) in [
            (r#"{"key":"k","value":"a"}"#, "a", true),
            (r#"{"key":"k","value":"a"}"#, "b", false),
            (r#"{"key":"x","operator":"Exists"}"#, "a", false),
            (r#"{"key":"k","operator":"Exists","effect":"NoSchedule"}"#, "a", false),
            (r#"{"key":"k","operator":"Lt","value":"5"}"#, "4", true),
            (r#"{"key":"k","operator":"Gt","value":"5"}"#, "4", false),
        ] {
            let toleration: Toleration = serde_json::from_str(toleration).unwrap();
            assert_eq!(tolerates(&toleration, &taint(value)), want);
        }
    }
}
