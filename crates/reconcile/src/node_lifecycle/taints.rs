//! Taints that follow from a node's conditions.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use serde_json::json;

use crate::meta::{Meta, time};
use crate::plan::{Action, PatchKind, Plan, Target, Tolerate};

/// Key of the taint of a node that says it is not ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Key of the taint of a node that says nothing.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// (condition, its status, taint key)
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

/// Status of a condition of the node.
pub fn condition_status<'a>(node: &'a Node, kind: &str) -> Option<&'a str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind).map(|condition| condition.status.as_str())
}

/// The node's taints.
pub fn of(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

/// Whether the node has this taint.
pub fn has(node: &Node, key: &str, effect: &str) -> bool {
    of(node).iter().any(|taint| taint.key == key && taint.effect == effect)
}

fn wanted_no_schedule(node: &Node) -> Vec<&'static str> {
    let mut keys: Vec<_> = BY_CONDITION
        .iter()
        .filter(|(kind, status, _)| condition_status(node, kind) == Some(status))
        .map(|(_, _, key)| *key)
        .collect();
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        keys.push(UNSCHEDULABLE);
    }
    keys
}

/// Keeps the NoSchedule taints equal to the conditions, and takes NoExecute taints off a ready node.
pub fn reconcile(node: &Node, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    if node.deleting() {
        return plan;
    }
    let wanted = wanted_no_schedule(node);
    let managed =
        |key: &str| key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, managed)| *managed == key);
    let ready = condition_status(node, "Ready") == Some("True");
    let mut next: Vec<Taint> = of(node)
        .iter()
        .filter(|taint| match taint.effect.as_str() {
            "NoSchedule" => !managed(&taint.key) || wanted.contains(&taint.key.as_str()),
            "NoExecute" => !(ready && (taint.key == NOT_READY || taint.key == UNREACHABLE)),
            _ => true,
        })
        .cloned()
        .collect();
    for key in wanted {
        if !next.iter().any(|taint| taint.key == key && taint.effect == "NoSchedule") {
            next.push(taint(key, "NoSchedule", now));
        }
    }
    plan.steps.extend(write(node, &next).map(crate::plan::Step::One));
    plan
}

/// Replaces one of the two NoExecute taints by the other, or adds it; `None` if it is there already.
pub fn set_no_execute(node: &Node, key: &'static str, now: Timestamp) -> Option<Action> {
    let other = if key == NOT_READY { UNREACHABLE } else { NOT_READY };
    let mut next: Vec<Taint> =
        of(node).iter().filter(|t| !(t.effect == "NoExecute" && t.key == other)).cloned().collect();
    if !next.iter().any(|t| t.key == key && t.effect == "NoExecute") {
        next.push(taint(key, "NoExecute", now));
    }
    write(node, &next)
}

/// Takes both NoExecute taints off.
pub fn clear_no_execute(node: &Node) -> Option<Action> {
    let ours = |t: &Taint| t.effect == "NoExecute" && (t.key == NOT_READY || t.key == UNREACHABLE);
    let next: Vec<Taint> = of(node).iter().filter(|taint| !ours(taint)).cloned().collect();
    write(node, &next)
}

fn taint(key: &str, effect: &str, now: Timestamp) -> Taint {
    Taint { key: key.to_owned(), effect: effect.to_owned(), value: None, time_added: Some(time(now)) }
}

fn write(node: &Node, next: &[Taint]) -> Option<Action> {
    if next == of(node) {
        return None;
    }
    // The version makes a write on top of a newer node fail, so that nobody's taint is lost.
    let body = json!({
        "metadata": { "resourceVersion": node.metadata.resource_version },
        "spec": { "taints": next },
    });
    Some(
        Action::patch(Target::of(node), PatchKind::Merge, body)
            .tolerating(Tolerate { not_found: true, ..Tolerate::default() }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::describe;
    use expect_test::expect;

    fn node(ready: &str, taints: serde_json::Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "resourceVersion": "7"},
            "spec": {"taints": taints, "unschedulable": ready == "True"},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    #[test]
    fn taints_follow_conditions() {
        let now = Timestamp::UNIX_EPOCH;
        let own = json!([{"key": "mine", "effect": "NoSchedule"}]);
        expect![[r#"
            patch nodes/n {"metadata":{"resourceVersion":"7"},"spec":{"taints":[{"effect":"NoSchedule","key":"mine"},{"effect":"NoSchedule","key":"node.kubernetes.io/unreachable","timeAdded":"1970-01-01T00:00:00Z"}]}}
        "#]].assert_eq(&describe(&reconcile(&node("Unknown", own), now)));
        let stale = json!([
            {"key": NOT_READY, "effect": "NoSchedule"}, {"key": UNREACHABLE, "effect": "NoExecute"},
            {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
        ]);
        expect![[r#"
            patch nodes/n {"metadata":{"resourceVersion":"7"},"spec":{"taints":[{"effect":"NoSchedule","key":"node.kubernetes.io/unschedulable"}]}}
        "#]].assert_eq(&describe(&reconcile(&node("True", stale), now)));
    }
}
