//! Pods that nobody else removes: too many finished ones, those of vanished nodes, those that end on no node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;

use crate::meta::{Meta, time, until};
use crate::node_lifecycle::taints;
use crate::plan::{Action, PatchKind, Plan, Step, Target, Tolerate};
use crate::pods;

/// Time a node must be missing before its pods count as orphaned: the cache may show a pod before its node.
pub const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// What is remembered between passes: since when nodes are missing.
#[derive(Debug, Default)]
pub struct Missing(BTreeMap<String, Timestamp>);

/// What one pass found.
#[derive(Debug, Default)]
pub struct Found {
    /// Deletions that need no further check.
    pub plan: Plan,
    /// Nodes whose pods go if a fresh read confirms that the node does not exist.
    pub suspects: BTreeSet<String>,
}

/// Looks at all pods. `threshold` is the number of finished pods kept; zero or less keeps all.
pub fn pass(
    pods: &[Arc<Pod>],
    nodes: &BTreeMap<String, Arc<Node>>,
    threshold: i64,
    missing: &mut Missing,
    now: Timestamp,
) -> Found {
    let mut found = Found::default();
    let mut actions = Vec::new();
    if threshold > 0 {
        actions.extend(finished(pods, usize::try_from(threshold).unwrap_or(usize::MAX)));
    }
    let mut absent = BTreeSet::new();
    for pod in pods {
        let node = pods::node(pod);
        if node.is_empty() {
            if pod.deleting() {
                actions.extend(fail_and_delete(pod, None, now));
            }
        } else if let Some(node) = nodes.get(node) {
            let down = taints::condition_status(node, "Ready") != Some("True")
                && taints::of(node).iter().any(|taint| taint.key == OUT_OF_SERVICE);
            if pod.deleting() && down {
                let why = "PodGC: node is out-of-service".to_owned();
                actions.extend(fail_and_delete(pod, Some(why), now));
            }
        } else {
            absent.insert(node.to_owned());
        }
    }
    missing.0.retain(|node, _| absent.contains(node));
    for node in absent {
        let since = *missing.0.entry(node.clone()).or_insert(now);
        if until(now, since) >= QUARANTINE {
            found.suspects.insert(node);
        }
    }
    found.plan.steps.extend(actions.into_iter().map(Step::One));
    found
}

/// Deletes the pods of a node that is confirmed not to exist.
pub fn orphaned(pods: &[Arc<Pod>], node: &str, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    for pod in pods.iter().filter(|pod| pods::node(pod) == node) {
        let why = "PodGC: node no longer exists".to_owned();
        plan.steps.extend(fail_and_delete(pod, Some(why), now).into_iter().map(Step::One));
    }
    plan
}

fn finished(pods: &[Arc<Pod>], keep: usize) -> Vec<Action> {
    let mut ended: Vec<&Arc<Pod>> = pods.iter().filter(|pod| pods::is_terminal(pod)).collect();
    let surplus = ended.len().saturating_sub(keep);
    if surplus == 0 {
        return Vec::new();
    }
    let evicted =
        |pod: &Pod| pod.status.as_ref().and_then(|status| status.reason.as_deref()) == Some("Evicted");
    ended.sort_by(|a, b| {
        evicted(b)
            .cmp(&evicted(a))
            .then_with(|| a.created().cmp(&b.created()))
            .then_with(|| a.name().cmp(b.name()))
    });
    ended.into_iter().take(surplus).map(|pod| remove(pod)).collect()
}

fn remove(pod: &Pod) -> Action {
    Action::delete(pod).grace(0).tolerating(Tolerate { not_found: true, ..Tolerate::default() })
}

/// A pod that ran may still be counted by its owner: it must be seen to fail before it is gone.
fn fail_and_delete(pod: &Pod, why: Option<String>, now: Timestamp) -> Vec<Action> {
    let mut actions = Vec::new();
    if !pods::is_terminal(pod) {
        let mut status = json!({ "phase": "Failed" });
        if let Some(message) = why {
            status["conditions"] = json!([{
                "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                "message": message, "lastTransitionTime": time(now),
            }]);
        }
        let body = json!({ "metadata": { "uid": pod.uid() }, "status": status });
        actions.push(
            Action::patch_status(Target::of(pod), PatchKind::Strategic, body).tolerating(Tolerate {
                not_found: true,
                conflict: true,
                ..Tolerate::default()
            }),
        );
    }
    actions.push(remove(pod));
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::plus_seconds;
    use crate::plan::describe;
    use expect_test::expect;

    fn pod(name: &str, node: &str, phase: &str, deleting: bool) -> Arc<Pod> {
        let mut value = json!({
            "metadata": {"name": name, "namespace": "d", "uid": name},
            "spec": {"containers": [], "nodeName": node}, "status": {"phase": phase},
        });
        if deleting {
            value["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:00Z");
        }
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn orphans_wait_and_finished_pods_are_limited() {
        let pods = [
            pod("done1", "n", "Succeeded", false),
            pod("done2", "n", "Failed", false),
            pod("lost", "gone", "Running", false),
            pod("unplaced", "", "Pending", true),
        ];
        let nodes = BTreeMap::from([("n".to_owned(), Arc::new(Node::default()))]);
        let mut missing = Missing::default();
        let start = Timestamp::UNIX_EPOCH;
        let first = pass(&pods, &nodes, 1, &mut missing, start);
        assert!(first.suspects.is_empty());
        expect![[r#"
            delete pods/done1 grace=0
            patch pods/unplaced/status {"metadata":{"uid":"unplaced"},"status":{"phase":"Failed"}}
            delete pods/unplaced grace=0
        "#]]
        .assert_eq(&describe(&first.plan));
        let later = pass(&pods, &nodes, 0, &mut missing, plus_seconds(start, 41));
        assert_eq!(later.suspects, BTreeSet::from(["gone".to_owned()]));
        expect![[r#"
            patch pods/lost/status {"metadata":{"uid":"lost"},"status":{"conditions":[{"lastTransitionTime":"1970-01-01T00:00:00Z","message":"PodGC: node no longer exists","reason":"DeletionByPodGC","status":"True","type":"DisruptionTarget"}],"phase":"Failed"}}
            delete pods/lost grace=0
        "#]].assert_eq(&describe(&orphaned(&pods, "gone", start)));
    }
}
