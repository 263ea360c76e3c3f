//! `namespaces/finalize` and `certificatesigningrequests/approval`: parts that have a subresource of their
//! own, so that they can be granted on their own.

use isopod_api::Value;
use isopod_api::object::child_mut;
use isopod_api::status::Status;

use crate::context::{Ctx, timestamp};

/// Takes `spec.finalizers`.
pub(super) fn namespace(sent: &Value, current: &Value, _: &Ctx) -> Result<Value, Status> {
    let mut new = current.clone();
    let spec = child_mut(&mut new, "spec");
    match sent.get("spec").and_then(|s| s.get("finalizers")) {
        Some(finalizers) => spec.insert("finalizers".to_owned(), finalizers.clone()),
        None => spec.remove("finalizers"),
    };
    Ok(new)
}

/// Takes `status.conditions`, whose times the server fills in.
pub(super) fn approval(sent: &Value, current: &Value, ctx: &Ctx) -> Result<Value, Status> {
    let mut new = current.clone();
    let mut conditions = sent["status"]["conditions"].as_array().cloned().unwrap_or_default();
    for condition in &mut conditions {
        let Some(map) = condition.as_object_mut() else { continue };
        for key in ["lastUpdateTime", "lastTransitionTime"] {
            if map.get(key).is_none_or(Value::is_null) {
                map.insert(key.to_owned(), timestamp(ctx.now));
            }
        }
    }
    child_mut(&mut new, "status").insert("conditions".to_owned(), conditions.into());
    Ok(new)
}
