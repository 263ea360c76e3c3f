//! What Nodes and RuntimeClasses obey.

use std::collections::BTreeSet;

use isopod_api::field::{Error, ErrorList};
use isopod_api::{Value, names};

use crate::kinds::Context;
use crate::kinds::bounds::cidr;
use crate::kinds::check::{At, check, check_update};
use crate::kinds::podspec::resource_quantity;
use crate::kinds::{meta, podspec};

pub(super) fn node(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |node| rules(&node))
}

fn rules(node: &At<'_>) {
    let spec = node.field("spec");
    let mut seen = BTreeSet::new();
    for (i, taint) in spec.field("taints").items().enumerate() {
        let (key, effect) = (taint.field("key"), taint.field("effect"));
        key.must_follow(names::is_qualified_name);
        taint.field("value").follows(names::is_label_value);
        effect.needs_one_of(&["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        if !seen.insert((key.str(), effect.str())) {
            let duplicate = Error::duplicate(&spec.field("taints").path().index(i), taint.value().clone());
            let detail = "taints must be unique by key and effect pair".to_owned();
            taint.report(Error { detail, ..duplicate });
        }
    }
    let ranges = spec.field("podCIDRs");
    ranges.items().for_each(|range| range.must_follow(cidr));
    let list: Vec<&str> = ranges.texts().collect();
    let one_family = list.len() == 2 && list[0].contains(':') == list[1].contains(':');
    if list.len() > 2 || one_family {
        ranges.invalid("may specify no more than one CIDR for each IP family");
    }
    let mut ranges_seen = BTreeSet::new();
    ranges.items().for_each(|range| range.unique(&mut ranges_seen));
    resources(&node.field("status"));
}

fn resources(status: &At<'_>) {
    for list in ["capacity", "allocatable"] {
        for (name, amount) in status.field(list).entries() {
            resource_quantity(name, &amount);
        }
    }
    let mut seen = BTreeSet::new();
    for address in status.field("addresses").items() {
        if !seen.insert(address.value().to_string()) {
            address.duplicate();
        }
    }
}

pub(super) fn node_update(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
    check_update(new, old, |new, old| {
        rules(&new);
        for (field, name) in [("podCIDRs", "podCIDR"), ("providerID", "providerID")] {
            let (now, was) = (new.field("spec").field(field), old.field("spec").field(field));
            if !was.is_empty() && now.value() != was.value() {
                now.forbidden(format!("node updates may not change {name} except from \"\" to valid"));
            }
        }
    })
}

pub(super) fn node_status(new: &Value, _: &Value, _: &Context<'_>) -> ErrorList {
    check(new, |node| resources(&node.field("status")))
}

pub(super) fn runtime_class(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |class| {
        class.field("handler").must_follow(names::is_dns1123_label);
        for (name, amount) in class.field("overhead.podFixed").entries() {
            resource_quantity(name, &amount);
        }
        let selector = class.field("scheduling.nodeSelector");
        class.report_all(meta::validate_labels(Some(selector.value()), &selector.path()));
        podspec::tolerations(&class.field("scheduling.tolerations"));
    })
}

pub(super) fn runtime_class_update(new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
    let mut errors = runtime_class(new, context);
    errors.extend(check_update(new, old, |new, old| new.field("handler").unchanged(&old.field("handler"))));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::check::texts;
    use serde_json::json;

    #[test]
    fn faults() {
        let object = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}, {"key": "b", "effect": "X"}],
            "podCIDRs": ["10.0.0.0/24", "10.0.1.0/24"]}, "status": {"capacity": {"pods": "-1"}}});
        assert_eq!(
            texts(&node(&object, &Context::TEST)),
            [
                "spec.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"a\"}: taints must be unique by key and effect pair",
                "spec.taints[2].effect: Unsupported value: \"X\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
                "spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"10.0.1.0/24\"]: may specify no more than one CIDR for each IP family",
                "status.capacity[pods]: Invalid value: \"-1\": must be greater than or equal to 0",
            ]
        );
        let with = |id: &str| json!({"spec": {"providerID": id}});
        assert_eq!(node_update(&with("a"), &with(""), &Context::TEST), vec![]);
        assert_eq!(
            texts(&node_update(&with("b"), &with("a"), &Context::TEST)),
            ["spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid"]
        );
    }
}
