//! The status of PodDisruptionBudgets: how many pods may be evicted now.
//!
//! The API server spends what is allowed and notes each evicted pod; this controller gives new allowance only once
//! those pods are really going. Matches upstream's pkg/controller/disruption.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::int_or_percent::scaled;
use crate::meta::{Meta, plus_seconds, reference, time, until};
use crate::plan::{Action, Event, Plan, Tolerate};
use crate::pods;

/// Seconds within which an evicted pod is expected to go.
const DELETION_TIMEOUT_SECONDS: i64 = 120;

/// The uid and wanted pods of the workload that a controller reference leads to, or why it cannot be told.
pub type Scale<'a> = dyn Fn(&Pod, &OwnerReference) -> Result<(String, i32), String> + 'a;

/// Decides for one budget; `pods` are those it selects.
pub fn reconcile(
    budget: &PodDisruptionBudget,
    selected: &[Arc<Pod>],
    scale: &Scale<'_>,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::nothing();
    let about = || reference(budget);
    if selected.is_empty() {
        plan.note(Event::normal(about(), "NoPods", "No matching pods found"));
    }
    let old = budget.status.clone().unwrap_or_default();
    let mut disrupted = BTreeMap::new();
    let mut recheck: Option<Duration> = None;
    for pod in selected {
        let Some(at) = old.disrupted_pods.as_ref().and_then(|map| map.get(pod.name())) else { continue };
        if pod.deleting() {
            continue;
        }
        let end = plus_seconds(at.0, DELETION_TIMEOUT_SECONDS);
        if end <= now {
            let text = format!(
                "Pod was expected by PDB {}/{} to be deleted but it wasn't",
                budget.namespace(),
                budget.name()
            );
            plan.note(Event::warning(reference(pod.as_ref()), "NotDeleted", text));
        } else {
            disrupted.insert(pod.name().to_owned(), at.clone());
            let left = until(end, now);
            recheck = Some(recheck.map_or(left, |old| old.min(left)));
        }
    }
    if let Some(recheck) = recheck {
        plan.requeue(recheck);
    }
    let wanted = match wanted(budget, selected, scale) {
        Ok(wanted) => wanted,
        Err(error) => {
            let text = format!("Failed to calculate the number of expected pods: {error}");
            plan.note(Event::warning(about(), "CalculateExpectedPodCountFailed", text));
            let mut status = old.clone();
            status.disruptions_allowed = Some(0);
            set_condition(&mut status, budget.generation(), "False", "SyncFailed", &error, now);
            write(&mut plan, budget, &old, status);
            plan.retry = true;
            return plan;
        }
    };
    let healthy = selected
        .iter()
        .filter(|pod| !pod.deleting() && !disrupted.contains_key(pod.name()) && pods::is_ready(pod))
        .count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    let allowed = if wanted.expected <= 0 { 0 } else { (healthy - wanted.healthy).max(0) };
    let mut status = status(&old, &wanted, healthy, allowed, disrupted);
    status.observed_generation = Some(budget.generation());
    let (value, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    set_condition(&mut status, budget.generation(), value, reason, "", now);
    write(&mut plan, budget, &old, status);
    plan
}

struct Wanted {
    expected: i32,
    healthy: i32,
}

fn wanted(budget: &PodDisruptionBudget, selected: &[Arc<Pod>], scale: &Scale<'_>) -> Result<Wanted, String> {
    let spec = budget.spec.clone().unwrap_or_default();
    if let Some(max) = &spec.max_unavailable {
        let expected = expected_scale(selected, scale)?;
        let unavailable = scaled(Some(max), "0", expected, true);
        return Ok(Wanted { expected, healthy: (expected - unavailable).max(0) });
    }
    match &spec.min_available {
        Some(IntOrString::Int(number)) => {
            Ok(Wanted { expected: i32::try_from(selected.len()).unwrap_or(i32::MAX), healthy: *number })
        }
        Some(percent) => {
            let expected = expected_scale(selected, scale)?;
            Ok(Wanted { expected, healthy: scaled(Some(percent), "0", expected, true) })
        }
        None => Ok(Wanted { expected: 0, healthy: 0 }),
    }
}

/// The sum of the sizes of the workloads that the pods belong to, each counted once.
fn expected_scale(selected: &[Arc<Pod>], scale: &Scale<'_>) -> Result<i32, String> {
    let mut sizes: BTreeMap<String, i32> = BTreeMap::new();
    let mut seen: BTreeMap<String, ()> = BTreeMap::new();
    for pod in selected {
        let Some(controller) = pod.controller() else { continue };
        if seen.insert(controller.uid.clone(), ()).is_none() {
            let (uid, size) = scale(pod, controller)?;
            sizes.insert(uid, size);
        }
    }
    Ok(sizes.values().sum())
}

fn status(
    old: &PodDisruptionBudgetStatus,
    wanted: &Wanted,
    healthy: i32,
    allowed: i32,
    disrupted: BTreeMap<String, Time>,
) -> PodDisruptionBudgetStatus {
    PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(wanted.healthy),
        expected_pods: Some(wanted.expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        conditions: old.conditions.clone(),
        observed_generation: old.observed_generation,
    }
}

fn set_condition(
    status: &mut PodDisruptionBudgetStatus,
    generation: i64,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let list = status.conditions.get_or_insert_default();
    let old = list.iter().position(|condition| condition.type_ == "DisruptionAllowed");
    let since =
        old.filter(|index| list[*index].status == value).map(|i| list[i].last_transition_time.clone());
    let condition = Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since.unwrap_or_else(|| time(now)),
        observed_generation: Some(generation),
    };
    match old {
        Some(index) => list[index] = condition,
        None => list.push(condition),
    }
}

fn write(
    plan: &mut Plan,
    budget: &PodDisruptionBudget,
    old: &PodDisruptionBudgetStatus,
    status: PodDisruptionBudgetStatus,
) {
    if *old != status {
        let mut copy = budget.clone();
        copy.status = Some(status);
        plan.push(
            Action::update_status(&copy).tolerating(Tolerate { not_found: true, ..Tolerate::default() }),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Write;
    use serde_json::json;

    fn pod(name: &str, ready: bool) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "d", "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "rs", "controller": true}]},
                "status": {"conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}]},
            }))
            .unwrap(),
        )
    }

    fn run(spec: serde_json::Value, disrupted: serde_json::Value) -> (i64, i64, i64, String) {
        let budget = serde_json::from_value(json!({
            "metadata": {"name": "b", "namespace": "d", "generation": 1}, "spec": spec,
            "status": {"disruptedPods": disrupted, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0,
                "disruptionsAllowed": 0},
        }))
        .unwrap();
        let selected = [pod("a", true), pod("b", true), pod("c", true), pod("x", false)];
        let now = plus_seconds(Timestamp::UNIX_EPOCH, 60);
        let plan = reconcile(&budget, &selected, &|_, _| Ok(("web".to_owned(), 4)), now);
        let Some(Write::Update { body, .. }) = plan.actions().next().map(|a| &a.write) else { panic!() };
        let s = &body["status"];
        let n = |key: &str| s[key].as_i64().unwrap();
        let reason = s["conditions"][0]["reason"].as_str().unwrap().to_owned();
        (n("currentHealthy"), n("desiredHealthy"), n("disruptionsAllowed"), reason)
    }

    #[test]
    fn allowance() {
        let none = json!({});
        assert_eq!(run(json!({"minAvailable": 2}), none.clone()), (3, 2, 1, "SufficientPods".into()));
        assert_eq!(run(json!({"minAvailable": "50%"}), none.clone()), (3, 2, 1, "SufficientPods".into()));
        assert_eq!(run(json!({"maxUnavailable": 1}), none), (3, 3, 0, "InsufficientPods".into()));
        let evicted = json!({"a": "1970-01-01T00:00:30Z"});
        assert_eq!(run(json!({"minAvailable": 2}), evicted), (2, 2, 0, "InsufficientPods".into()));
    }
}
