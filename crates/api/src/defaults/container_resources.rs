//! Requests that follow from limits, of containers and of whole pods.

use super::{is_empty, object, object_or_new, objects, set, text};
use crate::quantity::Quantity;
use crate::{Map, Value};
use serde_json::json;
use std::collections::BTreeMap;

/// Requests of a container that names a limit only are that limit.
pub(super) fn requests_from_limits(container: &mut Map) {
    let Some(resources) = object(container, "resources") else { return };
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
    let requests = object_or_new(resources, "requests");
    for (name, amount) in limits {
        set(requests, &name, amount);
    }
    if is_empty(resources, "requests") {
        resources.remove("requests");
    }
}

/// What a container requests can be changed while it runs, without a restart, unless it says otherwise.
pub(super) fn resize_policy(container: &mut Map) {
    let requests = container.get("resources").and_then(|resources| resources.get("requests"));
    let Some(requests) = requests.and_then(Value::as_object) else { return };
    let asked: Vec<&str> =
        ["cpu", "memory"].into_iter().filter(|name| requests.contains_key(*name)).collect();
    for name in asked {
        if objects(container, "resizePolicy").any(|policy| text(policy, "resourceName") == name) {
            continue;
        }
        let policy = json!({"resourceName": name, "restartPolicy": "NotRequired"});
        match container.get_mut("resizePolicy").and_then(Value::as_array_mut) {
            Some(policies) => policies.push(policy),
            None => drop(container.insert("resizePolicy".into(), json!([policy]))),
        }
    }
}

/// Requests of the pod as a whole, where it sets limits as a whole: those of its containers together, or the limits.
pub(super) fn pod_level(spec: &mut Map) {
    let Some(resources) = spec.get("resources").and_then(Value::as_object) else { return };
    let limits = resources.get("limits").and_then(Value::as_object).cloned().unwrap_or_default();
    let huge = aggregate(spec, "limits");
    let resources = object_or_new(spec, "resources");
    for (name, amount) in huge.iter().filter(|(name, _)| name.starts_with(HUGE_PAGES)) {
        set(object_or_new(resources, "limits"), name, amount.to_string());
    }
    if limits.is_empty() {
        return;
    }
    let limits = resources.get("limits").and_then(Value::as_object).cloned().unwrap_or_default();
    let together = aggregate(spec, "requests");
    let requests = object_or_new(object_or_new(spec, "resources"), "requests");
    for (name, amount) in &together {
        if matches!(name.as_str(), "cpu" | "memory") {
            set(requests, name, amount.to_string());
        }
    }
    for (name, amount) in limits {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with(HUGE_PAGES) {
            set(requests, &name, amount);
        }
    }
}

const HUGE_PAGES: &str = "hugepages-";

/// What the containers of a pod need together: all containers and sidecars at once, or at its turn an init container
/// with the sidecars before it, whichever is more.
fn aggregate(spec: &mut Map, which: &str) -> BTreeMap<String, Quantity> {
    let mut sum = BTreeMap::new();
    for container in objects(spec, "containers") {
        add(&mut sum, &amounts(container, which));
    }
    let mut sidecars = BTreeMap::new();
    let mut peak: BTreeMap<String, Quantity> = BTreeMap::new();
    for container in objects(spec, "initContainers") {
        let own = amounts(container, which);
        let mut now = sidecars.clone();
        add(&mut now, &own);
        if text(container, "restartPolicy") == "Always" {
            add(&mut sum, &own);
            sidecars = now.clone();
        }
        for (name, amount) in now {
            let entry = peak.entry(name).or_insert(amount);
            *entry = (*entry).max(amount);
        }
    }
    for (name, amount) in peak {
        let entry = sum.entry(name).or_insert(amount);
        *entry = (*entry).max(amount);
    }
    sum
}

fn add(sum: &mut BTreeMap<String, Quantity>, amounts: &BTreeMap<String, Quantity>) {
    for (name, amount) in amounts {
        sum.entry(name.clone()).and_modify(|total| *total = total.add(*amount)).or_insert(*amount);
    }
}

fn amounts(container: &Map, which: &str) -> BTreeMap<String, Quantity> {
    let amounts = container.get("resources").and_then(|resources| resources.get(which));
    let parse = |(name, amount): (&String, &Value)| Some((name.clone(), amount.as_str()?.parse().ok()?));
    amounts.and_then(Value::as_object).into_iter().flatten().filter_map(parse).collect()
}
