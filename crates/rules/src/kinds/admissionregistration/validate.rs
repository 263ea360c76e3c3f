//! What webhook configurations, admission policies and their bindings obey.

use std::collections::BTreeSet;

use isopod_api::field::ErrorList;
use isopod_api::{Value, names};

use crate::kinds::Context;
use crate::kinds::check::{At, check};
use crate::kinds::podspec::label_selector;

/// Most conditions on when a webhook is called.
const MATCH_CONDITIONS_MAX: usize = 64;
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

pub(super) fn webhooks(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |configuration| {
        let mut seen = BTreeSet::new();
        for webhook in configuration.field("webhooks").items() {
            webhook.field("name").unique(&mut seen);
            one_webhook(&webhook);
        }
    })
}

fn one_webhook(webhook: &At<'_>) {
    let name = webhook.field("name");
    if name.needs_text() {
        name.must_follow(names::is_dns1123_subdomain);
        if name.str().split('.').count() < 3 {
            name.invalid("should be a domain with at least three segments separated by dots");
        }
    }
    webhook.field("rules").items().for_each(|rule| rule_with_operations(&rule));
    webhook.field("failurePolicy").one_of(&["Fail", "Ignore"]);
    webhook.field("matchPolicy").one_of(&["Equivalent", "Exact"]);
    webhook.field("sideEffects").needs_one_of(&["None", "NoneOnDryRun"]);
    webhook.field("reinvocationPolicy").one_of(&["IfNeeded", "Never"]);
    let timeout = webhook.field("timeoutSeconds");
    if timeout.int().is_some_and(|t| !(1..=30).contains(&t)) {
        timeout.invalid("the timeout value must be between 1 and 30 seconds");
    }
    label_selector(&webhook.field("namespaceSelector"));
    label_selector(&webhook.field("objectSelector"));
    client(&webhook.field("clientConfig"));
    review_versions(&webhook.field("admissionReviewVersions"));
    match_conditions(&webhook.field("matchConditions"));
}

fn review_versions(versions: &At<'_>) {
    let known = REVIEW_VERSIONS.join(", ");
    if versions.is_empty() {
        versions.required(&format!("must specify one of {known}"));
    } else if !versions.texts().any(|v| REVIEW_VERSIONS.contains(&v)) {
        versions.invalid(format!("must include at least one of {known}"));
    }
    let mut seen = BTreeSet::new();
    for version in versions.items() {
        version.must_follow(names::is_dns1035_label);
        if !seen.insert(version.str()) {
            version.invalid("duplicate version");
        }
    }
}

fn client(config: &At<'_>) {
    let (url, service) = (config.field("url"), config.field("service"));
    if url.is_set() == service.is_set() {
        config.required("exactly one of url or service is required");
    }
    if url.is_set() {
        https_url(&url);
    }
    if service.is_set() {
        service.field("name").needs_text();
        service.field("namespace").needs_text();
        service.field("port").within(1, 65535);
        let path = service.field("path");
        if !path.is_empty() && !path.str().starts_with('/') {
            path.invalid("must start with a '/'");
        }
    }
}

fn https_url(url: &At<'_>) {
    let form = "; desired format: https://host[:port]/path";
    let Some(rest) = url.str().strip_prefix("https://") else {
        return url.invalid(format!("'https' is the only allowed URL scheme{form}"));
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() {
        url.invalid(format!("host must be specified{form}"));
    }
    for (sign, what) in [
        ('@', "user information is not permitted in the URL"),
        ('#', "fragments are not permitted in the URL"),
        ('?', "query parameters are not permitted in the URL"),
    ] {
        if rest.contains(sign) {
            url.invalid_as(url.str(), what);
        }
    }
}

/// A list that says something, and nothing beside `*` if it says `*`.
fn pattern_list(list: &At<'_>, what: &str) {
    if list.is_empty() {
        list.required("");
    }
    if list.len() > 1 && list.texts().any(|text| text == "*") {
        list.invalid(format!("if '*' is present, must not specify other {what}"));
    }
}

fn rule_with_operations(rule: &At<'_>) {
    let operations = rule.field("operations");
    pattern_list(&operations, "operations");
    operations.items().for_each(|o| o.one_of(&["*", "CONNECT", "CREATE", "DELETE", "UPDATE"]));
    pattern_list(&rule.field("apiGroups"), "API groups");
    pattern_list(&rule.field("apiVersions"), "API versions");
    for version in rule.field("apiVersions").items() {
        version.needs_text();
    }
    let resources = rule.field("resources");
    if resources.is_empty() {
        resources.required("");
    }
    let all: Vec<&str> = resources.texts().collect();
    if all.len() > 1 && all.contains(&"*/*") {
        resources.invalid("if '*/*' is present, must not specify other resources");
    }
    if all.contains(&"*") && all.iter().any(|r| *r != "*" && !r.contains('/')) {
        resources.invalid("if '*' is present, must not specify other resources without subresources");
    }
    rule.field("scope").one_of(&["*", "Cluster", "Namespaced"]);
}

fn match_conditions(conditions: &At<'_>) {
    if conditions.len() > MATCH_CONDITIONS_MAX {
        let error =
            isopod_api::field::Error::too_many(&conditions.path(), conditions.len(), MATCH_CONDITIONS_MAX);
        conditions.report(error);
    }
    let mut seen = BTreeSet::new();
    for condition in conditions.items() {
        condition.field("name").needs(names::is_qualified_name);
        condition.field("name").unique(&mut seen);
        if condition.field("expression").str().trim().is_empty() {
            condition.field("expression").required("");
        }
    }
}

pub(super) fn validating_policy(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |policy| {
        let spec = policy.field("spec");
        policy_rules(&spec);
        let (validations, annotations) = (spec.field("validations"), spec.field("auditAnnotations"));
        if validations.len() + annotations.len() == 0 {
            validations.required("validations or auditAnnotations must contain at least one item");
        }
        for validation in validations.items() {
            let expression = validation.field("expression");
            if expression.str().trim().is_empty() {
                expression.required("expression is not specified");
            }
            validation.field("reason").one_of(&[
                "Forbidden",
                "Invalid",
                "RequestEntityTooLarge",
                "Unauthorized",
            ]);
            let message = validation.field("message");
            if message.str().contains('\n') {
                message.invalid("message must not contain line breaks");
            }
        }
        let mut seen = BTreeSet::new();
        for annotation in annotations.items() {
            annotation.field("key").needs(names::is_qualified_name);
            annotation.field("key").unique(&mut seen);
            if annotation.field("valueExpression").str().trim().is_empty() {
                annotation.field("valueExpression").required("valueExpression is not specified");
            }
        }
    })
}

pub(super) fn mutating_policy(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |policy| {
        let spec = policy.field("spec");
        policy_rules(&spec);
        let mutations = spec.field("mutations");
        if mutations.is_empty() {
            mutations.required("mutations must contain at least one item");
        }
        for mutation in mutations.items() {
            let kind = mutation.field("patchType");
            kind.needs_one_of(&["ApplyConfiguration", "JSONPatch"]);
            let field = if kind.str() == "JSONPatch" { "jsonPatch" } else { "applyConfiguration" };
            if mutation.field(field).field("expression").is_empty() {
                mutation.field(field).field("expression").required("");
            }
        }
        spec.field("reinvocationPolicy").one_of(&["IfNeeded", "Never"]);
    })
}

/// What policies of both sorts obey.
fn policy_rules(spec: &At<'_>) {
    spec.field("failurePolicy").needs_one_of(&["Fail", "Ignore"]);
    let kind = spec.field("paramKind");
    if kind.is_set() {
        kind.field("apiVersion").needs_text();
        kind.field("kind").needs_text();
    }
    let constraints = spec.field("matchConstraints");
    if constraints.is_set() {
        if constraints.field("resourceRules").is_empty() {
            constraints.field("resourceRules").required("");
        }
        resources(&constraints);
    } else {
        constraints.required("");
    }
    match_conditions(&spec.field("matchConditions"));
    let mut seen = BTreeSet::new();
    for variable in spec.field("variables").items() {
        variable.field("name").needs_text();
        variable.field("name").unique(&mut seen);
        if variable.field("expression").str().trim().is_empty() {
            variable.field("expression").required("expression is not specified");
        }
    }
}

fn resources(constraints: &At<'_>) {
    label_selector(&constraints.field("namespaceSelector"));
    label_selector(&constraints.field("objectSelector"));
    constraints.field("matchPolicy").one_of(&["Equivalent", "Exact"]);
    for list in ["resourceRules", "excludeResourceRules"] {
        constraints.field(list).items().for_each(|rule| rule_with_operations(&rule));
    }
}

pub(super) fn binding(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |binding| {
        let spec = binding.field("spec");
        spec.field("policyName").needs(names::is_dns1123_subdomain);
        let param = spec.field("paramRef");
        if param.is_set() {
            let (name, selector) = (param.field("name"), param.field("selector"));
            match (name.is_empty(), selector.is_set()) {
                (false, true) => name.forbidden("name and selector are mutually exclusive"),
                (true, false) => param.required("one of name or selector must be specified"),
                _ => {}
            }
            label_selector(&selector);
            param.field("parameterNotFoundAction").needs_one_of(&["Allow", "Deny"]);
        }
        if spec.field("matchResources").is_set() {
            resources(&spec.field("matchResources"));
        }
    })
}

pub(super) fn validating_binding(object: &Value, context: &Context<'_>) -> ErrorList {
    let mut errors = binding(object, context);
    errors.extend(check(object, |binding| {
        let actions = binding.field("spec.validationActions");
        if actions.is_empty() {
            actions.required("");
        }
        let mut seen = BTreeSet::new();
        for action in actions.items() {
            action.one_of(&["Audit", "Deny", "Warn"]);
            action.unique(&mut seen);
        }
        let has = |wanted: &str| actions.texts().any(|action| action == wanted);
        if has("Deny") && has("Warn") {
            actions.invalid("must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)");
        }
    }));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::check::texts;
    use serde_json::json;

    #[test]
    fn faults() {
        let object = json!({"webhooks": [{"name": "a.b", "clientConfig": {"url": "http://x"}, "sideEffects": "Some",
            "rules": [{"operations": ["*", "CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["*", "pods"]}]}]});
        assert_eq!(
            texts(&webhooks(&object, &Context::TEST)),
            [
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
                "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
                "webhooks[0].rules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources",
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
                "webhooks[0].clientConfig.url: Invalid value: \"http://x\": 'https' is the only allowed URL scheme; desired format: https://host[:port]/path",
                "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1",
            ]
        );
        let object = json!({"spec": {"policyName": "p", "validationActions": ["Deny", "Warn"]}});
        assert_eq!(texts(&validating_binding(&object, &Context::TEST)).len(), 1);
        assert_eq!(
            texts(&validating_policy(&json!({"spec": {"failurePolicy": "Fail"}}), &Context::TEST)),
            [
                "spec.matchConstraints: Required value",
                "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
            ]
        );
    }
}
