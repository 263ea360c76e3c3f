//! What ResourceQuotas and LimitRanges obey.

use std::collections::BTreeSet;

use isopod_api::field::ErrorList;
use isopod_api::quantity::Quantity;
use isopod_api::{Value, names};

use crate::kinds::Context;
use crate::kinds::check::{At, check, check_update};
use crate::kinds::podspec::{known_resource, resource_quantity};

const QUOTA_RESOURCES: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];
/// Scopes that exclude each other.
const CONFLICTS: [(&str, &str); 2] = [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")];

pub(super) fn quota(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |quota| {
        let spec = quota.field("spec");
        hard(&spec.field("hard"));
        scopes(&spec);
    })
}

fn hard(hard: &At<'_>) {
    for (name, amount) in hard.entries() {
        known_resource(name, &amount);
        let huge = ["hugepages-", "requests.hugepages-"].iter().any(|prefix| name.starts_with(prefix));
        if !name.contains('/') && !huge && !QUOTA_RESOURCES.contains(&name) {
            amount.invalid_as(name, "must be a standard resource for quota");
        }
        resource_quantity(name, &amount);
    }
}

fn scopes(spec: &At<'_>) {
    let scopes = spec.field("scopes");
    let mut names: Vec<&str> = scopes.texts().collect();
    for scope in names.iter().filter(|scope| !SCOPES.contains(scope)) {
        scopes.invalid_as(*scope, "unsupported scope");
    }
    let expressions = spec.field("scopeSelector.matchExpressions");
    for expression in expressions.items() {
        let (scope, operator) = (expression.field("scopeName"), expression.field("operator"));
        names.push(scope.str());
        if !SCOPES.contains(&scope.str()) {
            scope.invalid("unsupported scope");
        }
        let values = expression.field("values");
        match operator.str() {
            "In" | "NotIn" if values.is_empty() => {
                values.required(
                    "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
                );
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                values.invalid(
                    "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => operator.invalid("not a valid selector operator"),
        }
        if !matches!(scope.str(), "PriorityClass" | "VolumeAttributesClass") && operator.str() != "Exists" {
            operator.invalid("must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity");
        }
    }
    for (one, other) in CONFLICTS {
        if names.contains(&one) && names.contains(&other) {
            scopes.invalid("conflicting scopes");
        }
    }
}

pub(super) fn quota_update(new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
    let mut errors = quota(new, context);
    errors.extend(check_update(new, old, |new, old| {
        let sorted = |scopes: &At<'_>| scopes.texts().map(str::to_owned).collect::<BTreeSet<_>>();
        let (scopes, before) = (new.field("spec.scopes"), old.field("spec.scopes"));
        if sorted(&scopes) != sorted(&before) {
            scopes.unchanged(&before);
        }
    }));
    errors
}

pub(super) fn quota_status(new: &Value, _: &Value, _: &Context<'_>) -> ErrorList {
    check(new, |quota| {
        let status = quota.field("status");
        hard(&status.field("hard"));
        hard(&status.field("used"));
    })
}

pub(super) fn limit_range(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |range| {
        let mut seen = BTreeSet::new();
        for limit in range.field("spec.limits").items() {
            let kind = limit.field("type");
            kind.must_follow(names::is_qualified_name);
            if !kind.str().contains('/')
                && !matches!(kind.str(), "Pod" | "Container" | "PersistentVolumeClaim")
            {
                kind.invalid("must be a standard limit type or fully qualified");
            }
            kind.unique(&mut seen);
            one_limit(&limit, kind.str());
        }
    })
}

fn one_limit(limit: &At<'_>, kind: &str) {
    if kind == "Pod" {
        for field in ["default", "defaultRequest"].map(|field| limit.field(field)) {
            if !field.is_empty() {
                field.forbidden("may not be specified when `type` is 'Pod'");
            }
        }
    }
    let bound = |field: &'static str, name: &str| -> Option<Quantity> {
        limit.value().get(field)?.get(name)?.as_str()?.parse().ok()
    };
    if kind == "PersistentVolumeClaim"
        && bound("min", "storage").is_none()
        && bound("max", "storage").is_none()
    {
        limit
            .field("limits")
            .required("either minimum or maximum storage value is required, but neither was provided");
    }
    let fields = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];
    for field in fields {
        for (name, amount) in limit.field(field).entries() {
            resource_quantity(name, &amount);
        }
    }
    // Each must not be greater than the next where both are given.
    let order = [
        ("min", "max", "min"),
        ("min", "defaultRequest", "defaultRequest"),
        ("min", "default", "default"),
        ("defaultRequest", "max", "defaultRequest"),
        ("defaultRequest", "default", "defaultRequest"),
        ("default", "max", "default"),
    ];
    let words = |field| match field {
        "defaultRequest" => "default request",
        other => other,
    };
    for (low, high, blamed) in order {
        for (name, _) in limit.field(low).entries() {
            if let (Some(l), Some(h)) = (bound(low, name), bound(high, name))
                && l > h
            {
                let shown = if blamed == low { l } else { h };
                let detail = format!("{} value {l} is greater than {} value {h}", words(low), words(high));
                limit.field(blamed).entry(name).invalid_as(shown.to_string(), detail);
            }
        }
    }
    ratios(limit, &bound);
}

fn ratios(limit: &At<'_>, bound: &dyn Fn(&'static str, &str) -> Option<Quantity>) {
    for (name, ratio) in limit.field("maxLimitRequestRatio").entries() {
        let Some(value) = ratio.quantity() else { continue };
        if value < Quantity::from_milli(1000) {
            ratio.invalid(format!("ratio {value} is less than 1"));
        }
        if let (Some(min), Some(max)) = (bound("min", name), bound("max", name))
            && min.signum() > 0
            && value.as_f64() > max.as_f64() / min.as_f64()
        {
            let most = max.as_f64() / min.as_f64();
            ratio.invalid(format!("ratio {value} is greater than max/min = {most:.6}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::check::texts;
    use serde_json::json;

    #[test]
    fn faults() {
        let context = Context::TEST;
        let object = json!({"spec": {"hard": {"cpu": "1", "foo": "1", "pods": "1500m"}, "scopes": ["BestEffort", "NotBestEffort"]}});
        assert_eq!(
            texts(&quota(&object, &context)),
            [
                "spec.hard[foo]: Invalid value: \"foo\": must be a standard resource type or fully qualified",
                "spec.hard[foo]: Invalid value: \"foo\": must be a standard resource for quota",
                "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
            ]
        );
        let object = json!({"spec": {"limits": [{"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}, {"type": "Container"}]}});
        assert_eq!(
            texts(&limit_range(&object, &context)),
            [
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
                "spec.limits[1].type: Duplicate value: \"Container\"",
            ]
        );
    }
}
