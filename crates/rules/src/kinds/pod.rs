//! Pods: initial status, quality of service, graceful deletion, and what an update may change.

use isopod_api::field::{Error, ErrorList, Path};
use isopod_api::quantity::Quantity;
use isopod_api::{Map, Value};
use serde_json::json;

use super::shared::{at, int_at, list_at, str_at};
use super::{Context, Strategy};

pub(super) const STRATEGIES: &[&Strategy] = &[&Strategy {
    group: "",
    kind: "Pod",
    generation: true,
    graceful_seconds: Some(graceful_seconds),
    prepare_for_create,
    prepare_for_status_update: |new, old, _| {
        new["metadata"]["ownerReferences"] = old["metadata"]["ownerReferences"].clone();
        if new["metadata"]["ownerReferences"].is_null()
            && let Some(meta) = new["metadata"].as_object_mut()
        {
            meta.remove("ownerReferences");
        }
    },
    validate_update,
    keep_status_on_create: true,
    selectable: &[
        ("spec.nodeName", "spec.nodeName"),
        ("spec.restartPolicy", "spec.restartPolicy"),
        ("spec.schedulerName", "spec.schedulerName"),
        ("spec.serviceAccountName", "spec.serviceAccountName"),
        ("spec.hostNetwork", "spec.hostNetwork"),
        ("status.phase", "status.phase"),
        ("status.podIP", "status.podIP"),
        ("status.nominatedNodeName", "status.nominatedNodeName"),
    ],
    ..Strategy::DEFAULT
}];

fn prepare_for_create(pod: &mut Value, _: &Context<'_>) {
    pod["status"] = json!({"phase": "Pending", "qosClass": qos_class(pod)});
    let gates = list_at(pod, "spec.schedulingGates");
    if !gates.is_empty() {
        pod["status"]["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates"
        }]);
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from the CPU and memory of all containers.
pub fn qos_class(pod: &Value) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    let containers = list_at(pod, "spec.containers").iter().chain(list_at(pod, "spec.initContainers"));
    for container in containers {
        let amounts = |kind: &str, resource: &str| {
            at(container, "resources")
                .and_then(|r| r.get(kind)?.get(resource)?.as_str()?.parse::<Quantity>().ok())
                .filter(|q| !q.is_zero())
        };
        for resource in ["cpu", "memory"] {
            let (request, limit) = (amounts("requests", resource), amounts("limits", resource));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Pods that run somewhere get time to end; those on no node, or already over, go at once.
fn graceful_seconds(pod: &Value, asked: Option<i64>) -> Option<i64> {
    let mut seconds = asked.unwrap_or_else(|| {
        at(pod, "spec.terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30)
    });
    if str_at(pod, "spec.nodeName").is_empty()
        || matches!(str_at(pod, "status.phase"), "Succeeded" | "Failed")
    {
        seconds = 0;
    }
    // A negative period in the spec is read as the shortest one.
    Some(if seconds < 0 { 1 } else { seconds })
}

/// What an update of a pod may change: images, deadlines, added tolerations; metadata.
fn validate_update(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let (count_new, count_old) =
        (list_at(new, "spec.containers").len(), list_at(old, "spec.containers").len());
    if count_new != count_old {
        errors.push(Error::forbidden(
            &path.child("containers"),
            "pod updates may not add or remove containers",
        ));
        return errors;
    }
    let mut allowed = new["spec"].clone();
    mask(&mut allowed, &old["spec"]);
    if list_at(old, "spec.schedulingGates").len() > list_at(new, "spec.schedulingGates").len() {
        copy(&mut allowed, &old["spec"], "schedulingGates");
        copy(&mut allowed, &old["spec"], "nodeSelector");
        copy(&mut allowed, &old["spec"], "affinity");
    } else if !list_at(old, "spec.schedulingGates").is_empty() {
        copy(&mut allowed, &old["spec"], "nodeSelector");
        copy(&mut allowed, &old["spec"], "affinity");
    }
    if allowed != old["spec"] {
        errors.push(Error::forbidden(
            &path,
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        ));
    }
    let (before, after) = (at(old, "spec.activeDeadlineSeconds"), at(new, "spec.activeDeadlineSeconds"));
    let at_deadline = path.child("activeDeadlineSeconds");
    match (before.and_then(Value::as_i64), after.and_then(Value::as_i64)) {
        (Some(b), Some(a)) if a > b => {
            errors.push(Error::invalid(
                &at_deadline,
                a,
                format!("must be less than or equal to previous value {b}"),
            ));
        }
        (Some(_), None) => errors.push(Error::invalid(
            &at_deadline,
            Value::Null,
            "must not update from a positive integer to nil value",
        )),
        _ => {}
    }
    errors
}

fn copy(to: &mut Value, from: &Value, key: &str) {
    let Some(map) = to.as_object_mut() else { return };
    match from.get(key) {
        Some(value) => map.insert(key.to_owned(), value.clone()),
        None => map.remove(key),
    };
}

/// Puts the old values of everything an update may change into a copy of the new spec.
fn mask(spec: &mut Value, old: &Value) {
    for list in ["containers", "initContainers"] {
        let olds = old.get(list).and_then(Value::as_array);
        for (i, container) in
            spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().enumerate()
        {
            if let Some(old) = olds.and_then(|o| o.get(i)) {
                copy(container, old, "image");
            }
        }
    }
    copy(spec, old, "activeDeadlineSeconds");
    if int_at(old, "terminationGracePeriodSeconds") < 0 && int_at(spec, "terminationGracePeriodSeconds") == 1
    {
        copy(spec, old, "terminationGracePeriodSeconds");
    }
    let empty = Vec::new();
    let news = spec.get("tolerations").and_then(Value::as_array).unwrap_or(&empty);
    let olds = old.get("tolerations").and_then(Value::as_array).unwrap_or(&empty);
    let same_but_seconds = |a: &Value, b: &Value| {
        let strip = |v: &Value| {
            let mut map: Map = v.as_object().cloned().unwrap_or_default();
            map.remove("tolerationSeconds");
            map
        };
        strip(a) == strip(b)
    };
    if olds.iter().all(|o| news.iter().any(|n| same_but_seconds(o, n))) {
        copy(spec, old, "tolerations");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_of_service() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"resources": resources}]}});
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let all = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&pod(json!({"requests": all, "limits": all}))), "Guaranteed");
    }

    #[test]
    fn images_change_and_nothing_else() {
        let pod = |image: &str, node: &str| json!({"spec": {"nodeName": node, "containers": [{"name": "a", "image": image}]}});
        let context = Context {
            now: jiff::Timestamp::UNIX_EPOCH,
            user: "",
            groups: &[],
            user_uid: "",
            subresource: "",
        };
        assert_eq!(validate_update(&pod("b", "n"), &pod("a", "n"), &context), vec![]);
        assert_eq!(validate_update(&pod("a", "m"), &pod("a", "n"), &context).len(), 1);
    }
}
