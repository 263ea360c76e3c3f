//! ConfigMaps.

use isopod_api::field::{Error, ErrorList, Path};
use isopod_api::{Value, names};

use super::columns::Column;
use super::shared::at;
use super::{Context, Strategy};

/// Most bytes of all values together.
const DATA_BYTES_MAX: usize = 1024 * 1024;

pub(super) const STRATEGIES: &[&Strategy] = &[&Strategy {
    group: "",
    kind: "ConfigMap",
    validate,
    validate_update,
    columns: &[Column::text("Data", "Entries of the map.")],
    row: |object, _| vec![(entries(object, "data") + entries(object, "binaryData")).into()],
    ..Strategy::DEFAULT
}];

/// How many entries a map of the object has.
pub(super) fn entries(object: &Value, field: &str) -> usize {
    object.get(field).and_then(Value::as_object).map_or(0, |map| map.len())
}

fn validate(object: &Value, _: &Context<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut size = 0;
    let binary = object.get("binaryData").and_then(Value::as_object);
    for field in ["data", "binaryData"] {
        for (key, value) in object.get(field).and_then(Value::as_object).into_iter().flatten() {
            let path = Path::new(field).key(key);
            errors.extend(
                names::is_config_map_key(key).into_iter().map(|m| Error::invalid(&path, key.as_str(), m)),
            );
            if field == "data" && binary.is_some_and(|b| b.contains_key(key)) {
                errors.push(Error::invalid(&path, key.as_str(), "duplicate of key present in binaryData"));
            }
            size += value.as_str().map_or(0, |v| if field == "data" { v.len() } else { v.len() / 4 * 3 });
        }
    }
    if size > DATA_BYTES_MAX {
        errors.push(Error::too_long(&Path::new(""), DATA_BYTES_MAX));
    }
    errors
}

fn validate_update(new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
    let mut errors = immutable(new, old, &["data", "binaryData"]);
    errors.extend(validate(new, context));
    errors
}

/// An object marked immutable keeps its data and its mark.
pub(super) fn immutable(new: &Value, old: &Value, fields: &[&str]) -> ErrorList {
    let mut errors = ErrorList::new();
    if at(old, "immutable") != Some(&Value::Bool(true)) {
        return errors;
    }
    if at(new, "immutable") != Some(&Value::Bool(true)) {
        errors.push(Error::forbidden(&Path::new("immutable"), "field is immutable when `immutable` is set"));
    }
    for field in fields {
        if new.get(*field) != old.get(*field) {
            errors.push(Error::forbidden(&Path::new(field), "field is immutable when `immutable` is set"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::check::texts;
    use serde_json::json;

    #[test]
    fn faults() {
        let context = Context::TEST;
        assert_eq!(
            texts(&validate(&json!({"data": {"a": "x"}, "binaryData": {"a": "eA=="}}), &context)),
            ["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"]
        );
        let fixed = json!({"data": {"a": "x"}, "immutable": true});
        assert_eq!(validate_update(&fixed, &fixed, &context), vec![]);
        assert_eq!(
            texts(&validate_update(&json!({"data": {"a": "y"}}), &fixed, &context)),
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ]
        );
    }
}
