//! LimitRanger: LimitRanges give containers their default requests and limits, and bound what may be asked for.

use isopod_api::Value;
use isopod_api::quantity::Quantity;
use isopod_api::status::Status;
use serde_json::json;

use super::value::{items, list, text};
use super::{Operation, Plugin, Query, Request, View};
use crate::quota::pods::{pod_limits, pod_requests};
use crate::quota::{Amounts, amounts};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub(super) static PLUGIN: Plugin = Plugin {
    name: "LimitRanger",
    handles: |operation, group, resource, subresource| {
        let pod = resource == "pods"
            && (operation == Operation::Create && subresource.is_empty()
                || operation == Operation::Update && subresource == "resize");
        let claim = resource == "persistentvolumeclaims"
            && subresource.is_empty()
            && matches!(operation, Operation::Create | Operation::Update);
        group.is_empty() && (pod || claim)
    },
    needs: |request| vec![Query::list("", "limitranges", request.namespace)],
    admit: Some(admit),
    validate: Some(validate),
};

fn limits(view: &View) -> impl Iterator<Item = &Value> {
    view.list("limitranges").iter().flat_map(|range| list(range, "/spec/limits"))
}

fn admit(request: &mut Request<'_>, view: &View) -> Result<(), Status> {
    if request.resource != "pods" || !request.subresource.is_empty() {
        return Ok(());
    }
    for limit in limits(view).filter(|limit| text(limit, "/type") == "Container") {
        let mut notes = Vec::new();
        for (field, word) in [("containers", "container"), ("initContainers", "init container")] {
            let containers = request.object["spec"].get_mut(field).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                for (ours, theirs, noun) in
                    [("defaultRequest", "requests", "request"), ("default", "limits", "limit")]
                {
                    let set = set_defaults(container, &limit[ours], theirs);
                    if !set.is_empty() {
                        notes.push(format!(
                            "{} {noun} for {word} {}",
                            set.join(", "),
                            text(container, "/name")
                        ));
                    }
                }
            }
        }
        if !notes.is_empty() {
            request.object["metadata"]["annotations"][ANNOTATION] =
                json!(format!("LimitRanger plugin set: {}", notes.join("; ")));
        }
    }
    Ok(())
}

/// Sets what is not set; names what was.
fn set_defaults(container: &mut Value, defaults: &Value, field: &str) -> Vec<String> {
    let mut set = Vec::new();
    for (resource, amount) in defaults.as_object().into_iter().flatten() {
        if container.pointer(&format!("/resources/{field}")).and_then(|have| have.get(resource)).is_none() {
            container["resources"][field][resource] = amount.clone();
            set.push(resource.clone());
        }
    }
    set.sort();
    set
}

fn validate(request: &mut Request<'_>, view: &View) -> Result<(), Status> {
    let object = &*request.object;
    let mut errors = Vec::new();
    for limit in limits(view) {
        match (request.resource, text(limit, "/type")) {
            ("pods", "Container") => {
                let spec = &object["spec"];
                for container in items(spec, "containers").iter().chain(items(spec, "initContainers")) {
                    let requests = amounts(&container["resources"]["requests"]);
                    check(
                        limit,
                        "Container",
                        &requests,
                        &amounts(&container["resources"]["limits"]),
                        &mut errors,
                    );
                }
            }
            ("pods", "Pod") => check(limit, "Pod", &pod_requests(object), &pod_limits(object), &mut errors),
            ("persistentvolumeclaims", kind @ "PersistentVolumeClaim") => {
                let requests = amounts(&object["spec"]["resources"]["requests"]);
                for (resource, bound) in amounts(&limit["min"]) {
                    errors.extend(below_min(kind, &resource, &bound, requests.get(&resource), None));
                }
                for (resource, bound) in amounts(&limit["max"]) {
                    errors.extend(request_above_max(kind, &resource, &bound, requests.get(&resource)));
                }
            }
            _ => {}
        }
    }
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(request.forbidden(one)),
        many => Err(request.forbidden(format!("[{}]", many.join(", ")))),
    }
}

fn check(limit: &Value, kind: &str, requests: &Amounts, limits: &Amounts, errors: &mut Vec<String>) {
    for (resource, bound) in amounts(&limit["min"]) {
        errors.extend(below_min(kind, &resource, &bound, requests.get(&resource), limits.get(&resource)));
    }
    for (resource, bound) in amounts(&limit["max"]) {
        errors.extend(above_max(kind, &resource, &bound, requests.get(&resource), limits.get(&resource)));
    }
    for (resource, bound) in amounts(&limit["maxLimitRequestRatio"]) {
        errors.extend(above_ratio(kind, &resource, &bound, requests.get(&resource), limits.get(&resource)));
    }
}

fn below_min(
    kind: &str,
    resource: &str,
    bound: &Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let usage = format!("minimum {resource} usage per {kind} is {bound}");
    match (request, limit) {
        (None, _) => Some(format!("{usage}.  No request is specified")),
        (Some(request), _) if request < bound => Some(format!("{usage}, but request is {request}")),
        (_, Some(limit)) if limit < bound => Some(format!("{usage}, but limit is {limit}")),
        _ => None,
    }
}

fn above_max(
    kind: &str,
    resource: &str,
    bound: &Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let usage = format!("maximum {resource} usage per {kind} is {bound}");
    match (request, limit) {
        (_, None) => Some(format!("{usage}.  No limit is specified")),
        (_, Some(limit)) if limit > bound => Some(format!("{usage}, but limit is {limit}")),
        (Some(request), _) if request > bound => Some(format!("{usage}, but request is {request}")),
        _ => None,
    }
}

fn request_above_max(
    kind: &str,
    resource: &str,
    bound: &Quantity,
    request: Option<&Quantity>,
) -> Option<String> {
    let usage = format!("maximum {resource} usage per {kind} is {bound}");
    match request {
        None => Some(format!("{usage}.  No request is specified")),
        Some(request) if request > bound => Some(format!("{usage}, but request is {request}")),
        _ => None,
    }
}

fn above_ratio(
    kind: &str,
    resource: &str,
    bound: &Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let ratio = format!("{resource} max limit to request ratio per {kind} is {bound}");
    let (Some(request), Some(limit)) =
        (request.filter(|request| !request.is_zero()), limit.filter(|limit| !limit.is_zero()))
    else {
        let missing = if request.is_none_or(|r| r.is_zero()) { "request" } else { "limit" };
        return Some(format!("{ratio}, but no {missing} is specified or {missing} is 0"));
    };
    let observed = limit.as_f64() / request.as_f64();
    (observed > bound.as_f64()).then(|| format!("{ratio}, but provided ratio is {observed:.6}"))
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::Change;
    use super::*;

    fn change(limits: Value, resources: Value) -> Change<'static> {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "resources": resources}]}});
        Change::create("pods", pod).stored("limitranges", vec![json!({"spec": {"limits": limits}})])
    }

    #[test]
    fn defaults_are_noted() {
        let limits = json!([{"type": "Container", "default": {"cpu": "1", "memory": "1Gi"},
            "defaultRequest": {"cpu": "100m", "memory": "64Mi"}}]);
        let mut change = change(limits, json!({"limits": {"cpu": "2"}}));
        assert_eq!(change.verdict(&PLUGIN), "ok");
        let resources = &change.object["spec"]["containers"][0]["resources"];
        let requests = json!({"cpu": "100m", "memory": "64Mi"});
        assert_eq!(*resources, json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": requests}));
        let note =
            "LimitRanger plugin set: cpu, memory request for container a; memory limit for container a";
        assert_eq!(change.object["metadata"]["annotations"][ANNOTATION], note);
    }

    #[test]
    fn bounds() {
        let limits = json!([{"type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": "1"}},
            {"type": "Pod", "max": {"memory": "1Gi"}}]);
        let verdict = |requests: Value, limit: Value| {
            change(limits.clone(), json!({"requests": requests, "limits": limit})).verdict(&PLUGIN)
        };
        let fine = json!({"cpu": "500m", "memory": "1Gi"});
        assert_eq!(verdict(fine.clone(), fine.clone()), "ok");
        let low = verdict(json!({"cpu": "50m", "memory": "1Gi"}), fine.clone());
        assert_eq!(
            low,
            "pods \"p\" is forbidden: minimum cpu usage per Container is 100m, but request is 50m"
        );
        let two = verdict(json!({"cpu": "1"}), json!({"cpu": "2", "memory": "2Gi"}));
        assert_eq!(
            two,
            "pods \"p\" is forbidden: [maximum cpu usage per Container is 1, but limit is 2, maximum memory usage per \
             Pod is 1Gi, but limit is 2Gi]"
        );
        let ratio = json!([{"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}]);
        let over = change(ratio, json!({"requests": {"cpu": "1"}, "limits": {"cpu": "3"}})).verdict(&PLUGIN);
        assert!(
            over.ends_with(
                "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"
            )
        );
    }
}
