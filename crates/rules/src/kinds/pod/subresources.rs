//! Pods written through `ephemeralcontainers`, `resize` and `binding`.

use isopod_api::Value;
use isopod_api::field::ErrorList;

use super::annotations;
use super::qos::qos_class;
use crate::kinds::Context;
use crate::kinds::check::{At, check_update};
use crate::kinds::shared::str_at;

/// Validates the pod that the subresource's handler has made of the request.
pub(super) fn validate(new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
    check_update(new, old, |new, old| match context.subresource {
        "ephemeralcontainers" => {
            super::rules(&new);
            annotations::changes(&new, &old);
            if old.field("metadata.annotations").entry(annotations::MIRROR).is_set() {
                new.field("metadata").forbidden("static pods do not support ephemeral containers");
            }
        }
        "resize" => {
            super::rules(&new);
            annotations::changes(&new, &old);
            resize(&new, &old);
        }
        _ => {}
    })
}

fn resize(new: &At<'_>, old: &At<'_>) {
    let spec = new.field("spec");
    let class = qos_class(new.value());
    if str_at(old.value(), "status.qosClass") != class {
        spec.invalid_as(class, "Pod QOS Class may not change as a result of resizing");
    }
    if spec.field("os.name").str() == "windows" {
        spec.forbidden("windows pods cannot be resized");
    }
    for list in ["containers", "initContainers"] {
        let olds = old.field("spec").field(list);
        for (container, before) in spec.field(list).items().zip(olds.items()) {
            resized(&container, &before);
        }
    }
}

/// Only CPU and memory can be resized, and neither can be given up.
fn resized(container: &At<'_>, before: &At<'_>) {
    for kind in ["requests", "limits"] {
        let (now, was) = (container.field("resources").field(kind), before.field("resources").field(kind));
        for (name, amount) in was.entries() {
            if matches!(name, "cpu" | "memory") {
                if !now.entry(name).is_set() {
                    now.forbidden(format!("resource {kind} cannot be removed"));
                }
            } else if now.entry(name).quantity() != amount.quantity() {
                now.forbidden("only cpu and memory resources are mutable");
            }
        }
        for (name, _) in now.entries() {
            if !matches!(name, "cpu" | "memory") && !was.entry(name).is_set() {
                now.forbidden("only cpu and memory resources are mutable");
            }
        }
    }
}
