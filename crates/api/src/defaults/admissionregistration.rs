//! Defaults of the admissionregistration.k8s.io group.

use super::{Hook, object_or_new, set};
use crate::Map;
use serde_json::json;

pub(super) fn hook(name: &str) -> Option<Hook> {
    Some(match name {
        "ValidatingWebhook" => webhook,
        "MutatingWebhook" => |map| {
            webhook(map);
            set(map, "reinvocationPolicy", "Never");
        },
        "ServiceReference" => |map| set(map, "port", 443),
        "Rule" | "RuleWithOperations" | "NamedRuleWithOperations" => |map| set(map, "scope", "*"),
        "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy" => {
            |map| set(object_or_new(map, "spec"), "failurePolicy", "Fail")
        }
        "MatchResources" => match_resources,
        _ => return None,
    })
}

fn webhook(webhook: &mut Map) {
    set(webhook, "failurePolicy", "Fail");
    match_resources(webhook);
    set(webhook, "timeoutSeconds", 10);
}

fn match_resources(map: &mut Map) {
    set(map, "matchPolicy", "Equivalent");
    set(map, "namespaceSelector", json!({}));
    set(map, "objectSelector", json!({}));
}
