//! Pod failure policy and success policy.

use k8s_openapi::api::batch::v1::{Job, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::indexes::Indexes;
use crate::meta::Meta;
use crate::pods;

/// What the first matching rule says of a failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Counts as any failure; also without a matching rule.
    Count,
    /// Does not count.
    Ignore,
    /// Its index has failed.
    FailIndex,
    /// The whole Job has failed; the text says why.
    FailJob(String),
}

/// Judges a failed pod.
pub(super) fn failure(job: &Job, pod: &Pod) -> Verdict {
    let policy = job.spec.as_ref().and_then(|spec| spec.pod_failure_policy.as_ref());
    let Some(policy) = policy else { return Verdict::Count };
    if pods::phase(pod) != "Failed" {
        return Verdict::Count;
    }
    for (number, rule) in policy.rules.iter().enumerate() {
        let Some(why) = matched(rule, pod) else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{why} matching FailJob rule at index {number}")),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

fn matched(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    if let Some(codes) = &rule.on_exit_codes {
        let fits = |status: &ContainerStatus| {
            let exit = status.state.as_ref()?.terminated.as_ref()?.exit_code;
            let named = codes.container_name.as_ref().is_none_or(|name| *name == status.name);
            let listed = codes.values.contains(&exit);
            let fits = match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            };
            (exit != 0 && named && fits).then_some(exit)
        };
        let status = pod.status.as_ref()?;
        let lists = [status.container_statuses.as_ref(), status.init_container_statuses.as_ref()];
        return lists.into_iter().flatten().flatten().find_map(|container| {
            let exit = fits(container)?;
            Some(format!(
                "Container {} for pod {}/{} failed with exit code {exit}",
                container.name,
                pod.namespace(),
                pod.name()
            ))
        });
    }
    rule.on_pod_conditions.iter().flatten().find_map(|pattern| {
        let condition = pods::condition(pod, &pattern.type_)?;
        let wanted = pattern.status.as_deref().unwrap_or("True");
        (condition.status == wanted)
            .then(|| format!("Pod {}/{} has condition {}", pod.namespace(), pod.name(), pattern.type_))
    })
}

/// The number of the first success rule that the succeeded indexes meet.
pub(super) fn success(job: &Job, completions: i32, succeeded: &Indexes) -> Option<usize> {
    let policy = job.spec.as_ref()?.success_policy.as_ref()?;
    policy.rules.iter().position(|rule| {
        let of = rule.succeeded_indexes.as_deref().map(|text| Indexes::parse(text, completions));
        let have = of.as_ref().map_or_else(|| succeeded.total(), |of| of.common(succeeded));
        match (rule.succeeded_count, &of) {
            (Some(count), _) => have >= count,
            (None, Some(of)) => have == of.total() && have > 0,
            (None, None) => false,
        }
    })
}
