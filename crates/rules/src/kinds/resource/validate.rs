//! What the kinds of dynamic resources obey.

use std::collections::BTreeSet;

use isopod_api::field::{Error, ErrorList};
use isopod_api::{Value, names};

use crate::kinds::Context;
use crate::kinds::check::{At, check, check_update};
use crate::kinds::podspec::node_selector;

const REQUESTS_MAX: usize = 32;
const DEVICES_MAX: usize = 128;

pub(super) fn claim(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |claim| claim_spec(&claim.field("spec")))
}

pub(super) fn claim_template(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |template| claim_spec(&template.field("spec.spec")))
}

/// A claim is what it was made as.
pub(super) fn spec_stays(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
    check_update(new, old, |new, old| new.field("spec").unchanged(&old.field("spec")))
}

fn claim_spec(spec: &At<'_>) {
    let requests = spec.field("devices.requests");
    if requests.len() > REQUESTS_MAX {
        requests.report(Error::too_many(&requests.path(), requests.len(), REQUESTS_MAX));
    }
    let mut seen = BTreeSet::new();
    for request in requests.items() {
        let name = request.field("name");
        name.needs(names::is_dns1123_label);
        name.unique(&mut seen);
        let (exactly, first) = (request.field("exactly"), request.field("firstAvailable"));
        match (exactly.is_set(), !first.is_empty()) {
            (false, false) => request.required("exactly one of `exactly` or `firstAvailable` is required"),
            (true, true) => request.invalid(
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
            ),
            (true, false) => device_request(&exactly),
            (false, true) => first.items().for_each(|sub| {
                sub.field("name").needs(names::is_dns1123_label);
                device_request(&sub);
            }),
        }
    }
    for constraint in spec.field("devices.constraints").items() {
        for request in constraint.field("requests").items() {
            let (main, _) = request.str().split_once('/').unwrap_or((request.str(), ""));
            if !seen.contains(main) {
                request.invalid("must be the name of a request in the claim or the name of a request and a subrequest separated by '/'");
            }
        }
    }
}

fn device_request(request: &At<'_>) {
    request.field("deviceClassName").needs(names::is_dns1123_subdomain);
    let (mode, count) = (request.field("allocationMode"), request.field("count"));
    match mode.str() {
        "ExactCount" if count.int().unwrap_or(0) <= 0 => {
            count.invalid_as(count.int().unwrap_or(0), "must be greater than zero");
        }
        "All" if count.int().unwrap_or(0) != 0 => {
            count.invalid("must not be specified when allocationMode is 'All'");
        }
        _ => mode.one_of(&["All", "ExactCount"]),
    }
    selectors(&request.field("selectors"));
}

fn selectors(selectors: &At<'_>) {
    for selector in selectors.items() {
        if selector.field("cel").is_set() {
            selector.field("cel.expression").needs_text();
        } else {
            selector.field("cel").required("");
        }
    }
}

pub(super) fn device_class(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |class| {
        selectors(&class.field("spec.selectors"));
        for config in class.field("spec.config").items() {
            if config.field("opaque").is_set() {
                config.field("opaque.driver").needs(names::is_dns1123_subdomain);
                if !config.field("opaque.parameters").is_set() {
                    config.field("opaque.parameters").required("");
                }
            } else {
                config.field("opaque").required("");
            }
        }
    })
}

pub(super) fn slice(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |slice| {
        let spec = slice.field("spec");
        spec.field("driver").needs(names::is_dns1123_subdomain);
        let pool = spec.field("pool");
        pool.field("name").needs_text();
        pool.field("generation").not_negative();
        if pool.field("resourceSliceCount").int().unwrap_or(0) <= 0 {
            let count = pool.field("resourceSliceCount");
            count.invalid_as(count.int().unwrap_or(0), "must be greater than zero");
        }
        let places = [
            !spec.field("nodeName").is_empty(),
            spec.field("nodeSelector").is_set(),
            spec.field("allNodes").is_true(),
            spec.field("perDeviceNodeSelection").is_true(),
        ];
        let one =
            "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
        match places.iter().filter(|p| **p).count() {
            0 => spec.required(one),
            1 => {}
            _ => spec.invalid(format!("{one}, but multiple fields are set")),
        }
        if spec.field("nodeSelector").is_set() {
            node_selector(&spec.field("nodeSelector"));
        }
        devices(&spec.field("devices"));
    })
}

fn devices(devices: &At<'_>) {
    if devices.len() > DEVICES_MAX {
        devices.report(Error::too_many(&devices.path(), devices.len(), DEVICES_MAX));
    }
    let mut seen = BTreeSet::new();
    for device in devices.items() {
        device.field("name").needs(names::is_dns1123_label);
        device.field("name").unique(&mut seen);
        for (_, attribute) in device.field("attributes").entries() {
            if attribute.len() != 1 {
                attribute.invalid("exactly one value must be specified");
            }
        }
    }
}

pub(super) fn slice_update(new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
    let mut errors = slice(new, context);
    errors.extend(check_update(new, old, |new, old| {
        for field in ["spec.driver", "spec.pool.name", "spec.nodeName"] {
            new.field(field).unchanged(&old.field(field));
        }
    }));
    errors
}

pub(super) fn taint_rule(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |rule| {
        let taint = rule.field("spec.taint");
        taint.field("key").needs(names::is_qualified_name);
        taint.field("value").follows(names::is_label_value);
        taint.field("effect").needs_one_of(&["NoExecute", "NoSchedule", "None"]);
        let selector = rule.field("spec.deviceSelector");
        selector.field("driver").follows(names::is_dns1123_subdomain);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::check::texts;
    use serde_json::json;

    #[test]
    fn faults() {
        let object = json!({"spec": {"devices": {"requests": [{"name": "a"}, {"name": "a", "exactly": {"allocationMode": "ExactCount"}}],
            "constraints": [{"requests": ["a/b", "c"]}]}}});
        assert_eq!(
            texts(&claim(&object, &Context::TEST)),
            [
                "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                "spec.devices.requests[1].name: Duplicate value: \"a\"",
                "spec.devices.requests[1].exactly.deviceClassName: Required value",
                "spec.devices.requests[1].exactly.count: Invalid value: 0: must be greater than zero",
                "spec.devices.constraints[0].requests[1]: Invalid value: \"c\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
            ]
        );
        let slice_of = |place: Value| {
            let mut object =
                json!({"spec": {"driver": "a.b", "pool": {"name": "p", "resourceSliceCount": 1}}});
            isopod_api::patch::merge_patch(&mut object, &json!({"spec": place}));
            object
        };
        assert_eq!(slice(&slice_of(json!({"nodeName": "n"})), &Context::TEST), vec![]);
        assert_eq!(slice(&slice_of(json!({})), &Context::TEST).len(), 1);
        assert_eq!(
            slice_update(
                &slice_of(json!({"nodeName": "m"})),
                &slice_of(json!({"nodeName": "n"})),
                &Context::TEST
            )
            .len(),
            1
        );
    }
}
