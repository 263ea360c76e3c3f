//! Defaults of the groups that serve the API itself: apiextensions.k8s.io, apiregistration.k8s.io,
//! flowcontrol.apiserver.k8s.io, authentication.k8s.io.

use super::{Hook, object, object_or_new, set, set_number, text};
use crate::Map;
use serde_json::json;

pub(super) fn hook(package: &str, name: &str) -> Option<Hook> {
    Some(match (package.split('/').next()?, name) {
        ("apiextensions" | "apiregistration", "ServiceReference") => |map| set(map, "port", 443),
        ("apiextensions", "CustomResourceDefinition") => custom_resource_definition,
        ("authentication", "TokenRequestSpec") => |map| set(map, "expirationSeconds", 3600),
        ("flowcontrol", "FlowSchemaSpec") => |map| set_number(map, "matchingPrecedence", 1000),
        ("flowcontrol", "LimitedPriorityLevelConfiguration") if package == "flowcontrol/v1" => |map| {
            set(map, "nominalConcurrencyShares", 30);
            set(map, "lendablePercent", 0);
        },
        ("flowcontrol", "ExemptPriorityLevelConfiguration") => |map| {
            set(map, "nominalConcurrencyShares", 0);
            set(map, "lendablePercent", 0);
        },
        ("flowcontrol", "QueuingConfiguration") => |map| {
            for (field, value) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
                set_number(map, field, value);
            }
        },
        _ => return None,
    })
}

fn custom_resource_definition(definition: &mut Map) {
    let spec = object_or_new(definition, "spec");
    set(spec, "conversion", json!({"strategy": "None"}));
    if let Some(names) = object(spec, "names") {
        let kind = text(names, "kind").to_owned();
        if !kind.is_empty() {
            set(names, "singular", kind.to_lowercase());
            set(names, "listKind", format!("{kind}List"));
        }
    }
}
