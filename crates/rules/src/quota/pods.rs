//! What a pod uses: its requests and limits, as the scheduler counts them too.

use isopod_api::Value;

use super::{Amounts, add, amounts, one};

fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Whether a name in `spec.hard` is about pods' resources.
pub(super) fn is_name(name: &str) -> bool {
    let base = name.strip_prefix("requests.").or(name.strip_prefix("limits.")).unwrap_or(name);
    matches!(name, "pods" | "cpu" | "memory" | "ephemeral-storage")
        || base.starts_with("hugepages-")
        || (base != name && matches!(base, "cpu" | "memory" | "ephemeral-storage"))
        // An extended resource has a domain; only requests of it can be limited.
        || (name.starts_with("requests.") && base.contains('/'))
}

fn raise(sum: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let have = sum.entry(name.clone()).or_insert(*amount);
        if amount > have {
            *have = *amount;
        }
    }
}

/// The greatest of: all that runs together, and each init container with the sidecars started before it; plus
/// overhead. Amounts given for the whole pod take the place of the sum.
fn aggregate(pod: &Value, kind: &str) -> Amounts {
    let spec = &pod["spec"];
    let of = |container: &Value| amounts(&container["resources"][kind]);
    let mut together = Amounts::new();
    for container in items(spec, "containers") {
        add(&mut together, &of(container));
    }
    let mut sidecars = Amounts::new();
    let mut greatest = Amounts::new();
    for container in items(spec, "initContainers") {
        let mut now = of(container);
        if container["restartPolicy"] == "Always" {
            add(&mut together, &now);
            add(&mut sidecars, &now);
            now = sidecars.clone();
        } else {
            add(&mut now, &sidecars);
        }
        raise(&mut greatest, &now);
    }
    raise(&mut together, &greatest);
    together.extend(amounts(&spec["resources"][kind]));
    let mut overhead = amounts(&spec["overhead"]);
    if kind == "limits" {
        // Where there is no limit, overhead makes none.
        overhead.retain(|name, _| together.contains_key(name));
    }
    add(&mut together, &overhead);
    together
}

/// What the pod asks for.
pub fn pod_requests(pod: &Value) -> Amounts {
    aggregate(pod, "requests")
}

/// What the pod may use at most.
pub fn pod_limits(pod: &Value) -> Amounts {
    aggregate(pod, "limits")
}

/// A pod that has ended uses nothing any more; it is counted only as an object.
fn has_ended(pod: &Value) -> bool {
    matches!(pod.pointer("/status/phase").and_then(Value::as_str), Some("Succeeded" | "Failed"))
}

pub(super) fn usage(pod: &Value) -> Amounts {
    let mut usage = Amounts::new();
    if has_ended(pod) {
        return usage;
    }
    usage.insert("pods".into(), one());
    for (name, amount) in pod_requests(pod) {
        let standard = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
        if standard || name.starts_with("hugepages-") {
            usage.insert(name.clone(), amount);
            usage.insert(format!("requests.{name}"), amount);
        } else if name.contains('/') {
            usage.insert(format!("requests.{name}"), amount);
        }
    }
    for (name, amount) in pod_limits(pod) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(format!("limits.{name}"), amount);
        }
    }
    usage
}

/// Under a quota of compute resources every container must say what it asks for.
///
/// # Errors
/// With upstream's words, naming resources and containers.
pub(super) fn must_specify(pod: &Value, hard: &Amounts) -> Result<(), String> {
    let required = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
    let spec = &pod["spec"];
    let mut missing = Vec::new();
    for name in required.iter().filter(|name| hard.contains_key(**name)) {
        let (kind, resource) = match name.split_once('.') {
            Some((kind, resource)) => (kind, resource),
            None => ("requests", *name),
        };
        if !spec["resources"][kind][resource].is_null() {
            continue;
        }
        let silent: Vec<&str> = items(spec, "containers")
            .iter()
            .chain(items(spec, "initContainers"))
            .filter(|container| container["resources"][kind][resource].is_null())
            .filter_map(|container| container["name"].as_str())
            .collect();
        if !silent.is_empty() {
            missing.push(format!("{name} for: {}", silent.join(",")));
        }
    }
    missing.sort();
    if missing.is_empty() { Ok(()) } else { Err(format!("must specify {}", missing.join("; "))) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::check::pretty;
    use super::*;

    #[test]
    fn sidecars_init_containers_and_overhead() {
        let cpu = |amount: &str| json!({"requests": {"cpu": amount}});
        let pod = json!({"spec": {
            "initContainers": [
                {"resources": cpu("2")},
                {"restartPolicy": "Always", "resources": cpu("500m")},
                {"resources": cpu("3")}],
            "containers": [{"resources": cpu("1")}, {"resources": cpu("1")}],
            "overhead": {"cpu": "100m"}}});
        assert_eq!(pretty(&pod_requests(&pod)), "cpu=3600m");
        let whole = json!({"spec": {"resources": {"requests": {"cpu": "4"}}, "containers": [{"resources": cpu("1")}]}});
        assert_eq!(pretty(&pod_requests(&whole)), "cpu=4");
    }

    #[test]
    fn every_name_a_quota_may_have() {
        let pod = json!({"spec": {"containers": [{"resources": {
            "requests": {"cpu": "1", "memory": "1Gi", "x.org/gpu": "2", "hugepages-2Mi": "4Mi"},
            "limits": {"cpu": "2", "x.org/gpu": "2"}}}]}});
        let expected = "cpu=1,hugepages-2Mi=4Mi,limits.cpu=2,memory=1Gi,pods=1,requests.cpu=1,requests.hugepages-2Mi=4Mi,\
            requests.memory=1Gi,requests.x.org/gpu=2";
        assert_eq!(pretty(&usage(&pod)), expected);
        let mut ended = pod;
        ended["status"] = json!({"phase": "Succeeded"});
        assert!(usage(&ended).is_empty());
    }
}
