//! What roles and bindings obey. Whether the user may grant what they say is decided elsewhere.

use isopod_api::field::{Error, ErrorList};
use isopod_api::{Value, names};

use crate::kinds::Context;
use crate::kinds::check::{At, check, check_update};
use crate::kinds::podspec::label_selector;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn role(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |role| {
        role.field("rules").items().for_each(|rule| policy_rule(&rule, true));
    })
}

pub(super) fn cluster_role(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |role| {
        role.field("rules").items().for_each(|rule| policy_rule(&rule, false));
        let aggregation = role.field("aggregationRule");
        let selectors = aggregation.field("clusterRoleSelectors");
        if aggregation.is_set() && selectors.is_empty() {
            selectors.required("at least one clusterRoleSelector required if aggregationRule is non-nil");
        }
        selectors.items().for_each(|selector| label_selector(&selector));
    })
}

fn policy_rule(rule: &At<'_>, namespaced: bool) {
    if rule.field("verbs").is_empty() {
        rule.field("verbs").required("verbs must contain at least one value");
    }
    let urls = rule.field("nonResourceURLs");
    let (groups, resources) = (rule.field("apiGroups"), rule.field("resources"));
    if !urls.is_empty() {
        if namespaced {
            urls.invalid("namespaced rules cannot apply to non-resource URLs");
        }
        if groups.len() + resources.len() + rule.field("resourceNames").len() > 0 {
            urls.invalid("rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if groups.is_empty() {
        groups.required("resource rules must supply at least one api group");
    }
    if resources.is_empty() {
        resources.required("resource rules must supply at least one resource");
    }
}

pub(super) fn role_binding(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |binding| bound(&binding, &["ClusterRole", "Role"]))
}

pub(super) fn cluster_role_binding(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |binding| bound(&binding, &["ClusterRole"]))
}

fn not_supported(at: &At<'_>, supported: &[&str]) {
    at.report(Error::not_supported(&at.path(), at.str(), supported));
}

fn bound(binding: &At<'_>, kinds: &[&str]) {
    let role = binding.field("roleRef");
    if role.field("apiGroup").str() != GROUP {
        not_supported(&role.field("apiGroup"), &[GROUP]);
    }
    if !kinds.contains(&role.field("kind").str()) {
        not_supported(&role.field("kind"), kinds);
    }
    role.field("name").needs(names::is_path_segment_name);
    binding.field("subjects").items().for_each(|s| subject(&s));
}

fn subject(subject: &At<'_>) {
    let (kind, name, group) = (subject.field("kind"), subject.field("name"), subject.field("apiGroup"));
    name.needs_text();
    match kind.str() {
        "ServiceAccount" => {
            name.follows(names::is_dns1123_subdomain);
            if !group.is_empty() {
                not_supported(&group, &[""]);
            }
            subject.field("namespace").needs_text();
        }
        "User" | "Group" => {
            if group.str() != GROUP {
                not_supported(&group, &[GROUP]);
            }
        }
        _ => not_supported(&kind, &["ServiceAccount", "User", "Group"]),
    }
}

/// A binding's role stays: who may change the subjects must not be able to change what is granted.
fn role_stays(new: &Value, old: &Value) -> ErrorList {
    check_update(new, old, |new, old| {
        if new.field("roleRef").value() != old.field("roleRef").value() {
            new.field("roleRef").invalid("cannot change roleRef");
        }
    })
}

pub(super) fn role_binding_update(new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
    let mut errors = role_binding(new, context);
    errors.extend(role_stays(new, old));
    errors
}

pub(super) fn cluster_role_binding_update(new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
    let mut errors = cluster_role_binding(new, context);
    errors.extend(role_stays(new, old));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::check::texts;
    use serde_json::json;

    #[test]
    fn faults() {
        let context = Context::TEST;
        let object =
            json!({"rules": [{}, {"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["pods"]}]});
        assert_eq!(
            texts(&role(&object, &context)),
            [
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[0].resources: Required value: resource rules must supply at least one resource",
                "rules[1].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
                "rules[1].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular resources and non-resource URLs",
            ]
        );
        let binding = |name: &str| json!({"roleRef": {"apiGroup": GROUP, "kind": "Role", "name": name}, "subjects": [{"kind": "ServiceAccount", "name": "a"}]});
        assert_eq!(
            texts(&role_binding_update(&binding("a"), &binding("b"), &context)),
            [
                "subjects[0].namespace: Required value",
                "roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"Role\",\"name\":\"a\"}: cannot change roleRef",
            ]
        );
    }
}
