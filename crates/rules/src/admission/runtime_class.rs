//! RuntimeClass: a pod gets its class's overhead, node selector and tolerations.

use isopod_api::Value;
use isopod_api::status::Status;
use serde_json::json;

use super::value::{has, items, list, push, text};
use super::{Operation, Plugin, Query, Request, View};
use crate::quota::amounts;

pub(super) static PLUGIN: Plugin = Plugin {
    name: "RuntimeClass",
    handles: |operation, group, resource, subresource| {
        operation == Operation::Create && group.is_empty() && resource == "pods" && subresource.is_empty()
    },
    needs: |request| match text(request.object, "/spec/runtimeClassName") {
        "" => vec![],
        name => vec![Query::get("node.k8s.io", "runtimeclasses", "", name)],
    },
    admit: Some(admit),
    validate: Some(validate),
};

fn class<'a>(request: &Request<'_>, view: &'a View) -> Result<Option<&'a Value>, Status> {
    let name = text(request.object, "/spec/runtimeClassName");
    match view.one("runtimeclasses") {
        None if !name.is_empty() => {
            Err(request.forbidden(format!("pod rejected: RuntimeClass {name:?} not found")))
        }
        found => Ok(found),
    }
}

fn admit(request: &mut Request<'_>, view: &View) -> Result<(), Status> {
    let Some(class) = class(request, view)? else { return Ok(()) };
    let overhead = class.pointer("/overhead/podFixed").cloned().unwrap_or_default();
    let given = &request.object["spec"]["overhead"];
    if given.as_object().is_none_or(|given| given.is_empty()) {
        if !overhead.is_null() {
            request.object["spec"]["overhead"] = overhead;
        }
    } else if amounts(given) != amounts(&overhead) {
        return Err(
            request.forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
        );
    }
    let selector = class.pointer("/scheduling/nodeSelector").and_then(Value::as_object);
    for (key, value) in selector.into_iter().flatten() {
        let given = &request.object["spec"]["nodeSelector"][key];
        if !given.is_null() && given != value {
            return Err(request.forbidden(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                value.as_str().unwrap_or(""),
                given.as_str().unwrap_or("")
            )));
        }
        request.object["spec"]["nodeSelector"][key] = value.clone();
    }
    if request.object["spec"]["nodeSelector"].is_null()
        && let Some(spec) = request.object["spec"].as_object_mut()
    {
        spec.remove("nodeSelector");
    }
    for toleration in list(class, "/scheduling/tolerations") {
        if !items(&request.object["spec"], "tolerations").contains(toleration) {
            push(&mut request.object["spec"], "tolerations", toleration.clone());
        }
    }
    Ok(())
}

fn validate(request: &mut Request<'_>, view: &View) -> Result<(), Status> {
    let class = class(request, view)?;
    let overhead =
        has(&request.object["spec"], "overhead") && request.object["spec"]["overhead"] != json!({});
    let defined = class.and_then(|class| class.pointer("/overhead/podFixed")).is_some_and(|o| !o.is_null());
    if overhead && !defined {
        let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
        return Err(request.forbidden(why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::Change;
    use super::*;

    #[test]
    fn overhead_and_scheduling() {
        let class = json!({"metadata": {"name": "kata"}, "overhead": {"podFixed": {"cpu": "250m"}},
            "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm"}]}});
        let pod = |spec: Value| {
            Change::create("pods", json!({"metadata": {"name": "p"}, "spec": spec}))
                .stored("runtimeclasses", vec![class.clone()])
        };
        let mut change = pod(json!({"runtimeClassName": "kata"}));
        assert_eq!(change.verdict(&PLUGIN), "ok");
        let expected = json!({"runtimeClassName": "kata", "overhead": {"cpu": "250m"}, "nodeSelector": {"vm": "yes"},
            "tolerations": [{"key": "vm"}]});
        assert_eq!(change.object["spec"], expected);
        assert_eq!(
            pod(json!({"runtimeClassName": "kata", "overhead": {"cpu": "0.25"}})).verdict(&PLUGIN),
            "ok"
        );
        let cases = [
            (json!({"runtimeClassName": "lost"}), "RuntimeClass \"lost\" not found"),
            (json!({"runtimeClassName": "kata", "overhead": {"cpu": "1"}}), "doesn't match"),
            (json!({"runtimeClassName": "kata", "nodeSelector": {"vm": "no"}}), "conflict"),
            (json!({"overhead": {"cpu": "1"}}), "without corresponding"),
        ];
        for (spec, why) in cases {
            assert!(pod(spec).verdict(&PLUGIN).contains(why), "{why}");
        }
        let mut plain = pod(json!({"containers": []}));
        assert_eq!(plain.verdict(&PLUGIN), "ok");
        assert_eq!(plain.object["spec"], json!({"containers": []}));
    }
}
