//! ReplicaSet, and ReplicationController by the same core.
//!
//! Invariant: pods are created or deleted only when the cache has shown every earlier creation and deletion of the
//! same owner (`View::settled`); the status is reported in any case.
//! Matches upstream's replica_set.go: burst of 500, slow start, deletion order, status and ReplicaFailure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    Pod, PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};

use crate::claim::claim;
use crate::labels;
use crate::meta::{Meta, time};
use crate::plan::{Action, Object, Plan, Step};
use crate::pods;

/// Pods created or deleted in one pass at most, so that one owner cannot keep a worker for long.
pub const BURST_REPLICAS: usize = 500;

/// What the core asks of an owner of identical pods.
pub trait Replicated: Object + Clone + Send + Sync + 'static {
    /// Wanted pods.
    fn replicas(&self) -> i32;
    /// Seconds a pod must be ready to count as available.
    fn min_ready_seconds(&self) -> i32;
    /// Template of the pods.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// Whether a pod with these labels belongs to the owner.
    fn selects(&self, labels: &BTreeMap<String, String>) -> bool;
    /// Current status, in the ReplicaSet's form.
    fn current_status(&self) -> ReplicaSetStatus;
    /// The owner with a new status.
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
    /// Whether the status counts terminating pods.
    const COUNTS_TERMINATING: bool;
}

impl Replicated for ReplicaSet {
    const COUNTS_TERMINATING: bool = true;

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }
    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }
    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }
    fn selects(&self, of: &BTreeMap<String, String>) -> bool {
        self.spec
            .as_ref()
            .is_some_and(|spec| !labels::is_empty(&spec.selector) && labels::matches(&spec.selector, of))
    }
    fn current_status(&self) -> ReplicaSetStatus {
        self.status.clone().unwrap_or_default()
    }
    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self { status: Some(status), ..self.clone() }
    }
}

impl Replicated for ReplicationController {
    const COUNTS_TERMINATING: bool = false;

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }
    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }
    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }
    fn selects(&self, of: &BTreeMap<String, String>) -> bool {
        let selector = self.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|selector| !selector.is_empty() && labels::includes(of, selector))
    }
    fn current_status(&self) -> ReplicaSetStatus {
        let status = self.status.clone().unwrap_or_default();
        ReplicaSetStatus {
            available_replicas: status.available_replicas,
            conditions: status.conditions.map(|list| {
                list.into_iter()
                    .map(|c| ReplicaSetCondition {
                        type_: c.type_,
                        status: c.status,
                        reason: c.reason,
                        message: c.message,
                        last_transition_time: c.last_transition_time,
                    })
                    .collect()
            }),
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
            terminating_replicas: None,
        }
    }
    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        let status = ReplicationControllerStatus {
            available_replicas: status.available_replicas,
            conditions: status.conditions.map(|list| {
                list.into_iter()
                    .map(|c| ReplicationControllerCondition {
                        type_: c.type_,
                        status: c.status,
                        reason: c.reason,
                        message: c.message,
                        last_transition_time: c.last_transition_time,
                    })
                    .collect()
            }),
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
        };
        Self { status: Some(status), ..self.clone() }
    }
}

/// What is known about one owner's pods.
#[derive(Debug, Default)]
pub struct View {
    /// Pods that the owner controls, and pods of its namespace without a controller.
    pub pods: Vec<Arc<Pod>>,
    /// Pods of owners that share this owner's controller (other ReplicaSets of a Deployment), for the deletion order.
    pub related: Vec<Arc<Pod>>,
    /// The cache has caught up with this owner's earlier writes.
    pub settled: bool,
}

/// Decides for one owner.
pub fn reconcile<O: Replicated>(owner: &Arc<O>, view: View, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let live: Vec<_> = view.pods.into_iter().filter(|pod| !pods::is_terminal(pod)).collect();
    let mut claimed = claim(owner.as_ref(), &live, |pod| owner.selects(pod.labels()), None);
    plan.steps.extend(claimed.step());
    let (active, terminating): (Vec<_>, Vec<_>) = claimed.owned.into_iter().partition(|pod| !pod.deleting());

    let wanted = usize::try_from(owner.replicas()).unwrap_or(0);
    if view.settled && !owner.deleting() {
        plan.steps.extend(manage(owner.as_ref(), &active, &view.related, wanted, now));
    }
    if let Some(after) = pods::next_availability(&active, owner.min_ready_seconds(), now) {
        plan.requeue(after);
    }

    let owner = owner.clone();
    let surplus = active.len() > wanted;
    plan.then = Some(Box::new(move |outcome| {
        let error = outcome.error();
        let failure = error.map(|message| (if surplus { "FailedDelete" } else { "FailedCreate" }, message));
        let mut next = Plan::nothing();
        next.steps.extend(report(owner.as_ref(), &active, terminating.len(), failure, now).map(Step::One));
        next
    }));
    plan
}

fn manage<O: Replicated>(
    owner: &O,
    active: &[Arc<Pod>],
    related: &[Arc<Pod>],
    wanted: usize,
    now: Timestamp,
) -> Option<Step> {
    if active.len() < wanted {
        let missing = (wanted - active.len()).min(BURST_REPLICAS);
        let pod = pods::from_template(owner.template()?, owner);
        let create = pods::create(owner, &pod);
        return Some(Step::SlowStart(vec![create; missing]));
    }
    let surplus = (active.len() - wanted).min(BURST_REPLICAS);
    if surplus == 0 {
        return None;
    }
    let mut candidates = active.to_vec();
    if surplus < candidates.len() {
        let mut rank: BTreeMap<&str, usize> = BTreeMap::new();
        for pod in related.iter().filter(|pod| pods::is_active(pod)) {
            *rank.entry(pods::node(pod)).or_default() += 1;
        }
        pods::sort_for_deletion(&mut candidates, &rank, now);
    }
    Some(Step::All(candidates[..surplus].iter().map(|pod| pods::delete(owner, pod.as_ref())).collect()))
}

/// The status update, if the status changed.
fn report<O: Replicated>(
    owner: &O,
    active: &[Arc<Pod>],
    terminating: usize,
    failure: Option<(&'static str, String)>,
    now: Timestamp,
) -> Option<Action> {
    let old = owner.current_status();
    let template_labels =
        owner.template().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.clone()).unwrap_or_default();
    let count = |test: &dyn Fn(&Pod) -> bool| {
        i32::try_from(active.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
    };
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let present = conditions.iter().any(|condition| condition.type_ == "ReplicaFailure");
    match failure {
        Some((reason, message)) if !present => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(time(now)),
        }),
        None if present => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
        _ => {}
    }
    let new = ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: some(count(&|pod| labels::includes(pod.labels(), &template_labels))),
        ready_replicas: some(count(&pods::is_ready)),
        available_replicas: some(count(&|pod| pods::is_available(pod, owner.min_ready_seconds(), now))),
        terminating_replicas: O::COUNTS_TERMINATING.then(|| i32::try_from(terminating).unwrap_or(i32::MAX)),
        conditions: (!conditions.is_empty()).then_some(conditions),
        observed_generation: Some(owner.generation()),
    };
    let same = |a: Option<i32>, b: Option<i32>| a.unwrap_or(0) == b.unwrap_or(0);
    let unchanged = old.replicas == new.replicas
        && same(old.fully_labeled_replicas, new.fully_labeled_replicas)
        && same(old.ready_replicas, new.ready_replicas)
        && same(old.available_replicas, new.available_replicas)
        && same(old.terminating_replicas, new.terminating_replicas)
        && old.conditions.clone().unwrap_or_default() == new.conditions.clone().unwrap_or_default()
        && old.observed_generation.unwrap_or(0) == owner.generation();
    (!unchanged).then(|| Action::update_status(&owner.with_status(new)))
}

/// These counts are omitted when zero.
fn some(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{ApiError, Outcome, Write, describe};
    use expect_test::{Expect, expect};
    use serde_json::json;

    fn set(replicas: i32) -> Arc<ReplicaSet> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": "web", "namespace": "d", "uid": "u1", "generation": 2},
                "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                    "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}},
            }))
            .unwrap(),
        )
    }

    fn pod(name: &str, owner: Option<&str>, app: &str, ready: bool) -> Arc<Pod> {
        let owners = owner.map(|uid| {
            json!([{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web","uid":uid,"controller":true}])
        });
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": app},
                    "ownerReferences": owners.unwrap_or(json!([]))},
                "spec": {"containers": [], "nodeName": "n"},
                "status": {"phase": "Running", "conditions": [{"type": "Ready",
                    "status": if ready {"True"} else {"False"}, "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
            }))
            .unwrap(),
        )
    }

    fn check(replicas: i32, pods: Vec<Arc<Pod>>, settled: bool, want: Expect) {
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        let view = View { related: pods.clone(), pods, settled };
        let mut plan = reconcile(&set(replicas), view, now);
        let then = plan.then.take().unwrap();
        let mut text = describe(&plan);
        let after = then(&Outcome::default());
        for action in after.actions() {
            if let Write::Update { body, .. } = &action.write {
                text += &format!("status {}\n", body["status"]);
            }
        }
        want.assert_eq(&text);
    }

    #[test]
    fn creates_what_is_missing() {
        check(
            2,
            vec![pod("a", Some("u1"), "web", true)],
            true,
            expect![[r#"
                slow: create pods/
                  ok: SuccessfulCreate Created pod: 
                status {"availableReplicas":1,"fullyLabeledReplicas":1,"observedGeneration":2,"readyReplicas":1,"replicas":1,"terminatingReplicas":0}
            "#]],
        );
    }

    #[test]
    fn waits_for_the_cache() {
        check(
            2,
            vec![],
            false,
            expect![[r#"
                status {"observedGeneration":2,"replicas":0,"terminatingReplicas":0}
            "#]],
        );
    }

    #[test]
    fn deletes_the_unready_first_adopts_and_releases() {
        check(
            1,
            vec![
                pod("a", Some("u1"), "web", true),
                pod("b", Some("u1"), "web", false),
                pod("orphan", None, "web", true),
                pod("stray", Some("u1"), "other", true),
                pod("foreign", Some("u2"), "web", true),
            ],
            true,
            expect![[r#"
                all: patch pods/orphan {"metadata":{"ownerReferences":[{"apiVersion":"apps/v1","blockOwnerDeletion":true,"controller":true,"kind":"ReplicaSet","name":"web","uid":"u1"}],"uid":"orphan"}}
                all: patch pods/stray {"metadata":{"ownerReferences":[{"$patch":"delete","uid":"u1"}],"uid":"stray"}}
                all: delete pods/b
                  ok: SuccessfulDelete Deleted pod: b
                all: delete pods/a
                  ok: SuccessfulDelete Deleted pod: a
                status {"availableReplicas":2,"fullyLabeledReplicas":3,"observedGeneration":2,"readyReplicas":2,"replicas":3,"terminatingReplicas":0}
            "#]],
        );
    }

    #[test]
    fn reports_failure_once() {
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        let plan = reconcile(&set(1), View { settled: true, ..View::default() }, now);
        let failed = Outcome {
            failures: vec![ApiError {
                code: 403,
                reason: "Forbidden".into(),
                message: "exceeded quota".into(),
                namespace_terminating: false,
            }],
            results: vec![],
        };
        let after = plan.then.unwrap()(&failed);
        let Some(Write::Update { body, .. }) = after.actions().next().map(|a| &a.write) else { panic!() };
        expect![[r#"[{"lastTransitionTime":"2026-01-01T01:00:00Z","message":"exceeded quota","reason":"FailedCreate","status":"True","type":"ReplicaFailure"}]"#]]
            .assert_eq(&body["status"]["conditions"].to_string());
    }
}
