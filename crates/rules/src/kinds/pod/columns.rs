//! The table of pods: one word of status out of phase, conditions and every container's state.

use isopod_api::Value;
use jiff::Timestamp;

use crate::kinds::columns::{Column, age, joined, labels, name, or, or_none};
use crate::kinds::shared::{at, bool_at, int_at, list_at, str_at};

pub(super) const POD: &[Column] = &[
    Column::text("Ready", "Containers that are ready, of all."),
    Column::text("Status", "State of the pod and its containers in one word."),
    Column::text("Restarts", "How often containers were restarted, and when last."),
    Column::text("IP", "Address of the pod.").wide(),
    Column::text("Node", "Node that the pod is bound to.").wide(),
    Column::text("Nominated Node", "Node on which room is being made for the pod.").wide(),
    Column::text("Readiness Gates", "Readiness gates that are true, of all.").wide(),
];

pub(super) const POD_TEMPLATE: &[Column] = &[
    crate::kinds::columns::NAME,
    Column::text("Containers", "Names of the template's containers."),
    Column::text("Images", "Images of the template's containers."),
    Column::text("Pod Labels", "Labels of the template's pods."),
];

/// Cells of a PodTemplate.
pub(super) fn pod_template(object: &Value, _: Timestamp) -> Vec<Value> {
    let containers = list_at(object, "template.spec.containers");
    vec![
        name(object),
        joined(containers, "name").into(),
        joined(containers, "image").into(),
        labels(at(object, "template.metadata.labels")),
    ]
}

/// Restarts and the time of the last one.
#[derive(Default, Clone, Copy)]
struct Restarts<'v> {
    count: i64,
    last: Option<&'v str>,
}

impl<'v> Restarts<'v> {
    fn add(&mut self, status: &'v Value) {
        self.count += int_at(status, "restartCount");
        let finished = at(status, "lastState.terminated.finishedAt").and_then(Value::as_str);
        // Timestamps of one form compare as texts.
        self.last = self.last.max(finished);
    }

    fn text(self, now: Timestamp) -> String {
        match self.last {
            Some(last) if self.count != 0 => {
                format!("{} ({} ago)", self.count, age(Some(&Value::from(last)), now))
            }
            _ => self.count.to_string(),
        }
    }
}

/// What the walk over the containers finds out.
struct Summary<'v> {
    reason: String,
    ready: usize,
    total: usize,
    restarts: Restarts<'v>,
}

/// Cells of a pod.
pub(super) fn pod(pod: &Value, now: Timestamp) -> Vec<Value> {
    let Summary { mut reason, ready, total, restarts } = summary(pod);
    let phase = str_at(pod, "status.phase");
    if at(pod, "metadata.deletionTimestamp").is_some() {
        if str_at(pod, "status.reason") == "NodeLost" {
            reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            reason = "Terminating".to_owned();
        }
    }
    let ip = list_at(pod, "status.podIPs").first().map_or("", |first| str_at(first, "ip"));
    vec![
        format!("{ready}/{total}").into(),
        reason.into(),
        restarts.text(now).into(),
        or(ip, "<none>").into(),
        or_none(pod, "spec.nodeName"),
        or_none(pod, "status.nominatedNodeName"),
        readiness_gates(pod).into(),
    ]
}

fn summary(pod: &Value) -> Summary<'_> {
    let phase = str_at(pod, "status.phase");
    let mut reason = or(str_at(pod, "status.reason"), phase);
    let conditions = list_at(pod, "status.conditions");
    if conditions
        .iter()
        .any(|c| str_at(c, "type") == "PodScheduled" && str_at(c, "reason") == "SchedulingGated")
    {
        reason = "SchedulingGated".to_owned();
    }
    let sidecars: Vec<&str> = list_at(pod, "spec.initContainers")
        .iter()
        .filter(|c| str_at(c, "restartPolicy") == "Always")
        .map(|c| str_at(c, "name"))
        .collect();
    let mut summary = Summary {
        reason,
        ready: 0,
        total: list_at(pod, "spec.containers").len() + sidecars.len(),
        restarts: Restarts::default(),
    };
    let mut sidecar_restarts = Restarts::default();
    let initializing = init_containers(pod, &sidecars, &mut summary, &mut sidecar_restarts);
    if !initializing || condition(conditions, "Initialized") {
        summary.restarts = sidecar_restarts;
        containers(pod, conditions, &mut summary);
    }
    summary
}

fn condition(conditions: &[Value], kind: &str) -> bool {
    conditions.iter().any(|c| str_at(c, "type") == kind && str_at(c, "status") == "True")
}

/// Whether some init container is still in the way, with the reason it gives.
fn init_containers<'v>(
    pod: &'v Value,
    sidecars: &[&str],
    summary: &mut Summary<'v>,
    sidecar_restarts: &mut Restarts<'v>,
) -> bool {
    let total = list_at(pod, "spec.initContainers").len();
    for (i, status) in list_at(pod, "status.initContainerStatuses").iter().enumerate() {
        summary.restarts.add(status);
        let sidecar = sidecars.contains(&str_at(status, "name"));
        if sidecar {
            sidecar_restarts.add(status);
        }
        let terminated = at(status, "state.terminated");
        let waiting = str_at(status, "state.waiting.reason");
        if terminated.is_some_and(|t| int_at(t, "exitCode") == 0) {
            continue;
        }
        if sidecar && bool_at(status, "started") {
            summary.ready += usize::from(bool_at(status, "ready"));
            continue;
        }
        summary.reason = match terminated {
            Some(terminated) => format!("Init:{}", end_of(terminated)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{i}/{total}"),
        };
        return true;
    }
    false
}

/// Why a container ended.
fn end_of(terminated: &Value) -> String {
    match (str_at(terminated, "reason"), int_at(terminated, "signal")) {
        ("", 0) => format!("ExitCode:{}", int_at(terminated, "exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn containers<'v>(pod: &'v Value, conditions: &[Value], summary: &mut Summary<'v>) {
    let mut running = false;
    // The first container's reason wins.
    for status in list_at(pod, "status.containerStatuses").iter().rev() {
        summary.restarts.add(status);
        let waiting = str_at(status, "state.waiting.reason");
        if !waiting.is_empty() {
            summary.reason = waiting.to_owned();
        } else if let Some(terminated) = at(status, "state.terminated") {
            summary.reason = end_of(terminated);
        } else if bool_at(status, "ready") && at(status, "state.running").is_some() {
            running = true;
            summary.ready += 1;
        }
    }
    // Some container still runs beside completed ones.
    if summary.reason == "Completed" && running {
        let ready = condition(conditions, "Ready");
        summary.reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list_at(pod, "spec.readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let conditions = list_at(pod, "status.conditions");
    let ready = gates.iter().filter(|gate| condition(conditions, str_at(gate, "conditionType"))).count();
    format!("{ready}/{}", gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn status_in_one_word() {
        let now: Timestamp = "2024-01-01T01:00:00Z".parse().unwrap();
        let spec = json!({"nodeName": "n1", "containers": [{"name": "a"}, {"name": "b"}],
            "initContainers": [{"name": "i"}, {"name": "side", "restartPolicy": "Always"}]});
        let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        let side = json!({"name": "side", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}},
            "lastState": {"terminated": {"finishedAt": "2024-01-01T00:55:00Z"}}});
        let running = json!({"name": "a", "ready": true, "restartCount": 2, "state": {"running": {}}});
        let completed = json!({"name": "b", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        let crash =
            json!({"name": "b", "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}}});
        for (metadata, status, want) in [
            (json!({}), json!({"phase": "Pending"}), ["0/3", "Pending", "0"]),
            (
                json!({}),
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}),
                ["0/3", "SchedulingGated", "0"],
            ),
            (
                json!({}),
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}),
                ["0/3", "Init:0/2", "0"],
            ),
            (
                json!({}),
                json!({"phase": "Pending", "initContainerStatuses":
                    [{"name": "i", "restartCount": 3, "state": {"terminated": {"exitCode": 7}}}]}),
                ["0/3", "Init:ExitCode:7", "3"],
            ),
            (
                json!({}),
                json!({"phase": "Running", "initContainerStatuses": [done, side], "containerStatuses": [running, crash]}),
                ["2/3", "CrashLoopBackOff", "7 (5m ago)"],
            ),
            (
                json!({}),
                json!({"phase": "Running", "initContainerStatuses": [done, side], "containerStatuses": [running, completed],
                    "conditions": [{"type": "Ready", "status": "True"}]}),
                ["2/3", "Running", "3 (5m ago)"],
            ),
            (
                json!({"deletionTimestamp": "2024-01-01T00:00:00Z"}),
                json!({"phase": "Running"}),
                ["0/3", "Terminating", "0"],
            ),
            (
                json!({"deletionTimestamp": "2024-01-01T00:00:00Z"}),
                json!({"phase": "Running", "reason": "NodeLost"}),
                ["0/3", "Unknown", "0"],
            ),
        ] {
            let row = pod(&json!({"metadata": metadata, "spec": spec, "status": status}), now);
            assert_eq!(row[..3], want, "{status}");
            assert_eq!(row[3..], ["<none>", "n1", "<none>", "<none>"]);
        }
    }
}
