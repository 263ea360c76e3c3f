//! Conversion of objects between the versions in which a kind is served or stored.
//!
//! Most versions differ in name only. Where shapes differ, a file here knows how; the result is in the canonical form
//! of the target.

mod autoscaling;
mod events;
mod flowcontrol;
mod resource;

use crate::codec::{self, DecodeError, FieldValidation};
use crate::{Map, Value, facts, object};

/// Why an object cannot be converted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// The target version has no such kind.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// `apiVersion` asked for.
        api_version: String,
        /// Kind of the object.
        kind: String,
    },
    /// The object does not fit the target, or was no object of its kind.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// Converts an object to the version of its kind in `group` and `version`.
pub fn convert(mut value: Value, group: &str, version: &str) -> Result<Value, ConvertError> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (from, kind) = (text("apiVersion"), text("kind"));
    let api_version = object::api_version(group, version);
    if from == api_version {
        return Ok(value);
    }
    let target = facts::builtin().kind(group, version, &kind);
    let target = target
        .ok_or_else(|| ConvertError::UnknownKind { api_version: api_version.clone(), kind: kind.clone() })?;
    let (from_group, from_version) = object::split_api_version(&from);
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".into(), api_version.into());
        reshape(map, &kind, (from_group, from_version), (group, version));
    }
    Ok(codec::normalize(value, &target.schema, FieldValidation::Ignore)?.value)
}

fn reshape(map: &mut Map, kind: &str, from: (&str, &str), to: (&str, &str)) {
    match (kind, from, to) {
        ("HorizontalPodAutoscaler", (_, "v1"), (_, "v2")) => autoscaling::to_v2(map),
        ("HorizontalPodAutoscaler", (_, "v2"), (_, "v1")) => autoscaling::to_v1(map),
        ("Event", ("", _), (_, _)) => events::rename(map, true),
        ("Event", (_, _), ("", _)) => events::rename(map, false),
        ("PriorityLevelConfiguration", (_, from), (_, to)) => flowcontrol::rename(map, from, to),
        ("ResourceClaim" | "ResourceClaimTemplate" | "ResourceSlice", (_, from), (_, to)) => {
            resource::reshape(map, kind, from, to);
        }
        _ => {}
    }
}

/// Moves fields to other names.
fn rename_fields(map: &mut Map, names: &[(&str, &str)], forward: bool) {
    for (left, right) in names {
        let (from, to) = if forward { (left, right) } else { (right, left) };
        if let Some(value) = map.remove(*from) {
            map.insert((*to).to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests;
