//! What FlowSchemas and PriorityLevelConfigurations obey.

use isopod_api::field::ErrorList;
use isopod_api::{Value, names};

use crate::kinds::Context;
use crate::kinds::check::{At, check};

const PRECEDENCE_MAX: i64 = 10_000;
const QUEUES_MAX: i64 = 10_000_000;

pub(super) fn flow_schema(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |schema| {
        let (spec, name) = (schema.field("spec"), schema.field("metadata.name"));
        let precedence = spec.field("matchingPrecedence");
        match precedence.int().unwrap_or(0) {
            p if p <= 0 => precedence.invalid_as(p, "must be a positive value"),
            p if p > PRECEDENCE_MAX => {
                precedence.invalid(format!("must not be greater than {PRECEDENCE_MAX}"))
            }
            1 if name.str() != "exempt" => {
                precedence.invalid("only the schema named 'exempt' may have matchingPrecedence 1");
            }
            _ => {}
        }
        spec.field("distinguisherMethod.type").one_of(&["ByNamespace", "ByUser"]);
        let level = spec.field("priorityLevelConfiguration.name");
        if level.is_empty() {
            level.required("must reference a priority level");
        } else {
            level.must_follow(names::is_dns1123_subdomain);
        }
        for rule in spec.field("rules").items() {
            if rule.field("subjects").is_empty() {
                rule.field("subjects").required("subjects must contain at least one value");
            }
            rule.field("subjects").items().for_each(|s| subject(&s));
            let (resources, urls) = (rule.field("resourceRules"), rule.field("nonResourceRules"));
            if resources.len() + urls.len() == 0 {
                rule.required("at least one of resourceRules and nonResourceRules has to be non-empty");
            }
            resources.items().for_each(|r| resource_rule(&r));
            for rule in urls.items() {
                needs_items(&rule, "verbs", "verbs must contain at least one value");
                needs_items(&rule, "nonResourceURLs", "nonResourceURLs must contain at least one value");
            }
        }
    })
}

fn subject(subject: &At<'_>) {
    let kind = subject.field("kind");
    kind.one_of(&["Group", "ServiceAccount", "User"]);
    for (name, field) in [("Group", "group"), ("ServiceAccount", "serviceAccount"), ("User", "user")] {
        let value = subject.field(field);
        match (kind.str() == name, value.is_set()) {
            (true, false) => value.required(&format!("{field} is required when subject kind is '{name}'")),
            (false, true) => {
                value.forbidden(format!("{field} is forbidden when subject kind is not '{name}'"))
            }
            (true, true) => {
                value.field("name").needs_text();
                if name == "ServiceAccount" {
                    value.field("namespace").needs_text();
                }
            }
            (false, false) => {}
        }
    }
}

fn needs_items(rule: &At<'_>, field: &'static str, detail: &str) {
    let list = rule.field(field);
    if list.is_empty() {
        list.required(detail);
    }
    if list.len() > 1 && list.texts().any(|text| text == "*") {
        list.invalid("if '*' is present, must not specify other items");
    }
}

fn resource_rule(rule: &At<'_>) {
    needs_items(rule, "verbs", "verbs must contain at least one value");
    needs_items(rule, "apiGroups", "resource rules must supply at least one api group");
    needs_items(rule, "resources", "resource rules must supply at least one resource");
    if rule.field("namespaces").is_empty() && !rule.field("clusterScope").is_true() {
        rule.field("namespaces")
            .required("resource rules that are not cluster scoped must supply at least one namespace");
    }
}

pub(super) fn priority_level(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |level| {
        let spec = level.field("spec");
        let (kind, limited, exempt) = (spec.field("type"), spec.field("limited"), spec.field("exempt"));
        match kind.str() {
            "Exempt" => {
                if limited.is_set() {
                    limited.forbidden("must be nil if the type is not Limited");
                }
                for field in ["nominalConcurrencyShares", "lendablePercent"] {
                    exempt.field(field).not_negative();
                }
            }
            "Limited" => {
                if exempt.is_set() {
                    exempt.forbidden("must be nil if the type is Limited");
                }
                if limited.is_set() {
                    limited_level(&limited);
                } else {
                    limited.required("must not be empty when type is Limited");
                }
            }
            _ => kind.needs_one_of(&["Exempt", "Limited"]),
        }
    })
}

fn limited_level(limited: &At<'_>) {
    let shares = limited.field("nominalConcurrencyShares");
    if shares.int().is_some_and(|s| s < 0) {
        shares.invalid("must be a non-negative integer");
    }
    limited.field("lendablePercent").within(0, 100);
    limited.field("borrowingLimitPercent").not_negative();
    let response = limited.field("limitResponse");
    let (kind, queuing) = (response.field("type"), response.field("queuing"));
    match kind.str() {
        "Reject" if queuing.is_set() => {
            queuing.forbidden("must be nil if limited.limitResponse.type is not Limited");
        }
        "Reject" => {}
        "Queue" if !queuing.is_set() => {
            queuing.required("must not be empty if limited.limitResponse.type is Limited");
        }
        "Queue" => queues(&queuing),
        _ => kind.needs_one_of(&["Queue", "Reject"]),
    }
}

fn queues(queuing: &At<'_>) {
    for field in ["queueLengthLimit", "queues", "handSize"].map(|field| queuing.field(field)) {
        if field.int().unwrap_or(0) <= 0 {
            field.invalid_as(field.int().unwrap_or(0), "must be positive");
        }
    }
    let (queues, hand) = (queuing.field("queues"), queuing.field("handSize"));
    if queues.int().is_some_and(|q| q > QUEUES_MAX) {
        queues.invalid(format!("must not be greater than {QUEUES_MAX}"));
    }
    if let (Some(q), Some(h)) = (queues.int(), hand.int())
        && h > q
    {
        hand.invalid(format!("should not be greater than queues ({q})"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::check::texts;
    use serde_json::json;

    #[test]
    fn faults() {
        let object = json!({"metadata": {"name": "a"}, "spec": {"matchingPrecedence": 1, "priorityLevelConfiguration": {},
            "rules": [{"subjects": [{"kind": "User", "group": {"name": "g"}}]}]}});
        assert_eq!(
            texts(&flow_schema(&object, &Context::TEST)),
            [
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
                "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
                "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
                "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
            ]
        );
        let queues = json!({"queues": 4, "handSize": 5, "queueLengthLimit": 0});
        let object = json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": queues}}}});
        assert_eq!(
            texts(&priority_level(&object, &Context::TEST)),
            [
                "spec.limited.limitResponse.queuing.queueLengthLimit: Invalid value: 0: must be positive",
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 5: should not be greater than queues (4)",
            ]
        );
    }
}
