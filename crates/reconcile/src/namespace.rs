//! Deleting a namespace: what to delete in which order, what to report, when it is final.
//!
//! Pods go first and everything else only once they are gone, so that what guards pods (network policies, …) outlives
//! them. Matches upstream's pkg/controller/namespace/deletion, conditions and messages included.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};

use crate::meta::{Meta, time};
use crate::plan::{Action, Plan, Resource};

/// The finalizer that stands for this controller in `spec.finalizers`.
pub const FINALIZER: &str = "kubernetes";

/// What the passes over the namespace's resources found.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// Groups whose discovery failed, with the error.
    pub discovery_failures: Vec<String>,
    /// Failures to list or delete.
    pub content_failures: Vec<String>,
    /// Objects left, by resource.
    pub remaining: BTreeMap<Resource, usize>,
    /// Objects left that have each finalizer.
    pub finalizers: BTreeMap<String, usize>,
    /// Seconds until the longest graceful deletion should be over.
    pub estimate_seconds: i64,
}

impl Report {
    /// Whether nothing is left and nothing went wrong.
    pub fn is_empty(&self) -> bool {
        self.discovery_failures.is_empty() && self.content_failures.is_empty() && self.remaining.is_empty()
    }
}

/// Whether the namespace is being deleted and still has our finalizer.
pub fn wants_work(namespace: &Namespace) -> bool {
    namespace.deleting()
}

/// Whether our finalizer is gone.
pub fn is_finalized(namespace: &Namespace) -> bool {
    namespace.spec.as_ref().is_none_or(|spec| spec.finalizers.as_ref().is_none_or(Vec::is_empty))
}

/// The update that shows the namespace as terminating, if it is not shown yet.
pub fn mark_terminating(namespace: &Namespace) -> Option<Action> {
    let status = namespace.status.as_ref();
    if status.and_then(|status| status.phase.as_deref()) == Some("Terminating") {
        return None;
    }
    let mut copy = namespace.clone();
    copy.status.get_or_insert_default().phase = Some("Terminating".to_owned());
    Some(Action::update_status(&copy))
}

/// The order of deletion: pods alone first, then all the rest.
pub fn order(resources: Vec<Resource>) -> (Option<Resource>, Vec<Resource>) {
    let (pods, rest): (Vec<_>, Vec<_>) =
        resources.into_iter().partition(|resource| resource.group.is_empty() && resource.plural == "pods");
    (pods.into_iter().next(), rest)
}

/// What to write after a pass over the content.
pub fn conclude(namespace: &Namespace, report: &Report, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let mut copy = namespace.clone();
    let mut list = copy.status.get_or_insert_default().conditions.take().unwrap_or_default();
    for (kind, finding) in findings(report) {
        set(&mut list, kind, &finding, now);
    }
    copy.status.get_or_insert_default().conditions = Some(list);
    let changed = copy.status != namespace.status;
    if report.is_empty() {
        if changed {
            plan.push(Action::update_status(&copy));
        }
        let namespace = copy;
        plan.then = Some(Box::new(move |outcome| {
            let stored = outcome.results.last().and_then(|result| result.as_ref().ok());
            let current = stored
                .and_then(|value| serde_json::from_value::<Namespace>(value.clone()).ok())
                .unwrap_or(namespace);
            let mut next = Plan::nothing();
            if outcome.failures.is_empty() {
                next.push(finalize(&current));
            }
            next
        }));
        return plan;
    }
    if changed {
        plan.push(Action::update_status(&copy));
    }
    if report.estimate_seconds > 0 && report.content_failures.is_empty() {
        let after = u64::try_from(report.estimate_seconds / 2 + 1).unwrap_or(1);
        plan.requeue(Duration::from_secs(after));
    } else {
        plan.retry = true;
    }
    plan
}

/// The update that takes our finalizer away.
pub fn finalize(namespace: &Namespace) -> Action {
    let mut copy = namespace.clone();
    if let Some(finalizers) = copy.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    Action::update_subresource(&copy, "finalize")
        .tolerating(crate::plan::Tolerate { not_found: true, ..Default::default() })
}

struct Finding {
    bad: bool,
    reason: &'static str,
    message: String,
}

fn finding(bad: Option<(&'static str, String)>, good: (&'static str, &str)) -> Finding {
    match bad {
        Some((reason, message)) => Finding { bad: true, reason, message },
        None => Finding { bad: false, reason: good.0, message: good.1.to_owned() },
    }
}

fn findings(report: &Report) -> [(&'static str, Finding); 5] {
    let list = |errors: &[String]| format!("[{}]", errors.join(", "));
    let aggregate = |errors: &[String]| if errors.len() == 1 { errors[0].clone() } else { list(errors) };
    let discovery = (!report.discovery_failures.is_empty()).then(|| {
        let errors = aggregate(&report.discovery_failures);
        (
            "DiscoveryFailed",
            format!(
                "Discovery failed for some groups, {} failing: {errors}",
                report.discovery_failures.len()
            ),
        )
    });
    let content = (!report.content_failures.is_empty()).then(|| {
        let errors = aggregate(&report.content_failures);
        let count = report.content_failures.len();
        ("ContentDeletionFailed", format!("Failed to delete all resource types, {count} remaining: {errors}"))
    });
    let remaining = (!report.remaining.is_empty()).then(|| {
        let parts: Vec<_> = report
            .remaining
            .iter()
            .map(|(resource, count)| {
                format!("{}.{} has {count} resource instances", resource.plural, resource.group)
            })
            .collect();
        ("SomeResourcesRemain", format!("Some resources are remaining: {}", parts.join(", ")))
    });
    let finalizers = (!report.finalizers.is_empty()).then(|| {
        let parts: Vec<_> = report
            .finalizers
            .iter()
            .map(|(name, count)| format!("{name} in {count} resource instances"))
            .collect();
        (
            "SomeFinalizersRemain",
            format!("Some content in the namespace has finalizers remaining: {}", parts.join(", ")),
        )
    });
    [
        (
            "NamespaceDeletionDiscoveryFailure",
            finding(discovery, ("ResourcesDiscovered", "All resources successfully discovered")),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            finding(None, ("ParsedGroupVersions", "All legacy kube types successfully parsed")),
        ),
        (
            "NamespaceDeletionContentFailure",
            finding(
                content,
                ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
            ),
        ),
        (
            "NamespaceContentRemaining",
            finding(remaining, ("ContentRemoved", "All content successfully removed")),
        ),
        (
            "NamespaceFinalizersRemaining",
            finding(finalizers, ("ContentHasNoFinalizers", "All content-preserving finalizers finished")),
        ),
    ]
}

fn set(list: &mut Vec<NamespaceCondition>, kind: &str, finding: &Finding, now: Timestamp) {
    let status = if finding.bad { "True" } else { "False" };
    let new = NamespaceCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(finding.reason.to_owned()),
        message: Some(finding.message.clone()),
        last_transition_time: Some(time(now)),
    };
    match list.iter_mut().find(|condition| condition.type_ == kind) {
        Some(old) if old.status == new.status && old.reason == new.reason && old.message == new.message => {}
        Some(old) => {
            let since = (old.status == new.status).then(|| old.last_transition_time.clone()).flatten();
            *old = NamespaceCondition {
                last_transition_time: since.or_else(|| new.last_transition_time.clone()),
                ..new
            };
        }
        None => list.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Outcome, Write, describe};
    use expect_test::expect;
    use serde_json::json;

    fn namespace() -> Namespace {
        serde_json::from_value(json!({
            "metadata": {"name": "a", "uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Terminating"},
        }))
        .unwrap()
    }

    #[test]
    fn remaining_content_is_reported_and_awaited() {
        let pods = Resource { group: String::new(), version: "v1".into(), plural: "pods".into() };
        let report = Report {
            remaining: BTreeMap::from([(pods, 2)]),
            finalizers: BTreeMap::from([("example.com/hold".to_owned(), 1)]),
            estimate_seconds: 30,
            ..Report::default()
        };
        let plan = conclude(&namespace(), &report, Timestamp::UNIX_EPOCH);
        expect![[r#"
            update namespaces/a/status
            requeue 16s
        "#]]
        .assert_eq(&describe(&plan));
        let Some(Write::Update { body, .. }) = plan.actions().next().map(|a| &a.write) else { panic!() };
        let text: Vec<String> = body["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| {
                format!("{} {} {} {}", c["type"], c["status"], c["reason"], c["message"]).replace('"', "")
            })
            .collect();
        expect![[r#"
            NamespaceDeletionDiscoveryFailure False ResourcesDiscovered All resources successfully discovered
            NamespaceDeletionGroupVersionParsingFailure False ParsedGroupVersions All legacy kube types successfully parsed
            NamespaceDeletionContentFailure False ContentDeleted All content successfully deleted, may be waiting on finalization
            NamespaceContentRemaining True SomeResourcesRemain Some resources are remaining: pods. has 2 resource instances
            NamespaceFinalizersRemaining True SomeFinalizersRemain Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"#]].assert_eq(&text.join("\n"));
    }

    #[test]
    fn an_empty_namespace_is_finalized() {
        let plan = conclude(&namespace(), &Report::default(), Timestamp::UNIX_EPOCH);
        let next = plan.then.unwrap()(&Outcome::default());
        assert_eq!(describe(&next), "update namespaces/a/finalize\n");
        let Some(Write::Update { body, .. }) = next.actions().next().map(|a| &a.write) else { panic!() };
        assert_eq!(body["spec"]["finalizers"], json!([]));
    }
}
