//! What an update of a pod may change: images, deadlines, added tolerations, removed scheduling gates.

use isopod_api::field::ErrorList;
use isopod_api::{Map, Value};

use crate::kinds::Context;
use crate::kinds::check::{At, check_update};
use crate::kinds::podspec::INT32_MAX;
use crate::kinds::shared::{int_at, list_at, str_at};

const UPDATABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn validate(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
    check_update(new, old, |new, old| {
        super::rules(&new);
        super::annotations::changes(&new, &old);
        let (spec, before) = (new.field("spec"), old.field("spec"));
        for list in ["containers", "initContainers"] {
            if spec.field(list).len() != before.field(list).len() {
                return spec.field(list).forbidden("pod updates may not add or remove containers");
            }
        }
        deadline(&spec.field("activeDeadlineSeconds"), &before.field("activeDeadlineSeconds"));
        tolerations(&spec.field("tolerations"), &before.field("tolerations"));
        gates(&spec.field("schedulingGates"), &before.field("schedulingGates"));
        everything_else(&spec, &before);
    })
}

fn deadline(new: &At<'_>, old: &At<'_>) {
    match (new.int(), old.int()) {
        (Some(n), _) if !(0..=INT32_MAX).contains(&n) => {
            new.invalid(isopod_api::names::range_error(0, INT32_MAX));
        }
        (Some(n), Some(o)) if n > o => new.invalid("must be less than or equal to previous value"),
        (None, Some(_)) => new.invalid("must not update from a positive integer to nil value"),
        _ => {}
    }
}

/// Tolerations but for their seconds.
fn without_seconds(toleration: &Value) -> Map {
    let mut map = toleration.as_object().cloned().unwrap_or_default();
    map.remove("tolerationSeconds");
    map
}

fn tolerations(new: &At<'_>, old: &At<'_>) {
    let kept = |o: &Value| new.list().iter().any(|n| without_seconds(n) == without_seconds(o));
    if !old.list().iter().all(kept) {
        new.forbidden("existing toleration can not be modified except its tolerationSeconds");
    }
}

fn gates(new: &At<'_>, old: &At<'_>) {
    for gate in new.items() {
        let name = gate.field("name").str();
        if !old.list().iter().any(|o| str_at(o, "name") == name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            gate.field("name").forbidden(detail);
        }
    }
}

fn copy(to: &mut Value, from: &Value, key: &str) {
    let Some(map) = to.as_object_mut() else { return };
    match from.get(key) {
        Some(value) => map.insert(key.to_owned(), value.clone()),
        None => map.remove(key),
    };
}

/// Compares the specs with everything that may change made equal.
fn everything_else(new: &At<'_>, old: &At<'_>) {
    if new.value() == old.value() {
        return;
    }
    let before = old.value();
    let mut masked = new.value().clone();
    for list in ["containers", "initContainers"] {
        let olds = list_at(before, list);
        let news = masked.get_mut(list).and_then(Value::as_array_mut);
        news.into_iter().flatten().zip(olds).for_each(|(container, old)| copy(container, old, "image"));
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        copy(&mut masked, before, field);
    }
    let grace = "terminationGracePeriodSeconds";
    if int_at(before, grace) < 0 && int_at(&masked, grace) == 1 {
        copy(&mut masked, before, grace);
    }
    if !list_at(before, "schedulingGates").is_empty() {
        gated(new, old);
        copy(&mut masked, before, "nodeSelector");
        copy_node_affinity(&mut masked, before);
    }
    if masked != *before {
        new.forbidden(format!("{UPDATABLE}\n{}", difference(&masked, before)));
    }
}

/// Where a gated pod can go may be narrowed.
fn gated(new: &At<'_>, old: &At<'_>) {
    let (selector, before) = (new.field("nodeSelector"), old.field("nodeSelector"));
    let kept = before.entries().all(|(key, value)| selector.entry(key).value() == value.value());
    if !kept {
        selector.invalid("only additions to spec.nodeSelector are allowed (no mutations or deletions)");
    }
    let required = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let (terms, olds) = (new.field(required), old.field(required));
    if olds.is_empty() {
        return;
    }
    if terms.len() != olds.len() {
        return terms.invalid("no additions/deletions to non-empty NodeSelectorTerms list are allowed");
    }
    for (term, before) in terms.items().zip(olds.items()) {
        for list in ["matchExpressions", "matchFields"] {
            let (now, was) = (term.field(list).list(), before.field(list).list());
            if now.len() < was.len() || now[..was.len()] != *was {
                let detail = "only NodeSelectorRequirements are allowed to be added to a non-empty NodeSelectorTerm (no mutations or deletions)";
                term.invalid(detail);
            }
        }
    }
}

fn copy_node_affinity(to: &mut Value, from: &Value) {
    let node = from.get("affinity").and_then(|a| a.get("nodeAffinity")).cloned();
    if from.get("affinity").is_none() && to["affinity"].as_object().is_some_and(|a| a.len() == 1) {
        // Node affinity was the first affinity of the pod.
        return copy(to, from, "affinity");
    }
    let Some(affinity) = to.get_mut("affinity").and_then(Value::as_object_mut) else { return };
    match node {
        Some(node) => affinity.insert("nodeAffinity".to_owned(), node),
        None => affinity.remove("nodeAffinity"),
    };
}

/// The fields that differ, as lines of old and new values.
fn difference(new: &Value, old: &Value) -> String {
    let empty = Map::new();
    let (new, old) = (new.as_object().unwrap_or(&empty), old.as_object().unwrap_or(&empty));
    let mut keys: Vec<&String> = new.keys().chain(old.keys()).collect();
    keys.sort();
    keys.dedup();
    let mut lines = Vec::new();
    for key in keys.into_iter().filter(|key| new.get(*key) != old.get(*key)) {
        for (sign, side) in [('-', new.get(key)), ('+', old.get(key))] {
            if let Some(value) = side {
                lines.push(format!("{sign} {key}: {value}"));
            }
        }
    }
    lines.join("\n")
}
