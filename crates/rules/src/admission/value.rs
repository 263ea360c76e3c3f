//! Looking into objects.

use isopod_api::Value;

/// The text at a JSON pointer, or an empty one.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The list in a field, or an empty one.
pub(super) fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The list at a JSON pointer, or an empty one.
pub(super) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Whether a field is there and not null.
pub(super) fn has(value: &Value, field: &str) -> bool {
    value.get(field).is_some_and(|value| !value.is_null())
}

/// Init, ordinary and ephemeral containers of a pod spec, in upstream's order of visit.
pub(super) fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|field| items(spec, field))
}

/// The annotation, if it is there.
pub(super) fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("annotations")?.get(key)?.as_str()
}

/// Appends to the list in a field, making it when it is not there.
pub(super) fn push(value: &mut Value, field: &str, item: Value) {
    match value.get_mut(field).and_then(Value::as_array_mut) {
        Some(list) => list.push(item),
        None => value[field] = Value::Array(vec![item]),
    }
}

/// Of the objects that an annotation marks as default, the newest; of those of one age, the first by name.
pub(super) fn newest_default<'a>(objects: &'a [Value], annotations: &[&str]) -> Option<&'a Value> {
    let is_default = |object: &&Value| annotations.iter().any(|key| annotation(object, key) == Some("true"));
    let age = |object: &&Value| {
        let created = text(object, "/metadata/creationTimestamp").to_owned();
        (std::cmp::Reverse(created), text(object, "/metadata/name").to_owned())
    };
    objects.iter().filter(is_default).min_by_key(age)
}
