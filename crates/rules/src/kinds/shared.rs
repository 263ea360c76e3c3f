//! Small readers that several kinds' files use.

use std::borrow::Cow;
use std::collections::BTreeMap;

use isopod_api::Value;

/// The value at a dotted path.
pub(super) fn at<'v>(object: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(object, |value, key| value.get(key))
}

/// The text at a dotted path as a field selector sees it: numbers and booleans in their JSON form, absent
/// as empty.
pub(super) fn text_at<'v>(object: &'v Value, path: &str) -> Cow<'v, str> {
    match at(object, path) {
        None | Some(Value::Null) => Cow::Borrowed(""),
        Some(Value::String(text)) => Cow::Borrowed(text),
        Some(other) => Cow::Owned(other.to_string()),
    }
}

/// The text at a dotted path, empty when absent or not a text.
pub(super) fn str_at<'v>(object: &'v Value, path: &str) -> &'v str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

/// The list at a dotted path, empty when absent.
pub(super) fn list_at<'v>(object: &'v Value, path: &str) -> &'v [Value] {
    at(object, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The whole number at a dotted path, zero when absent.
pub(super) fn int_at(object: &Value, path: &str) -> i64 {
    at(object, path).and_then(Value::as_i64).unwrap_or(0)
}

/// The truth at a dotted path, false when absent.
pub(super) fn bool_at(object: &Value, path: &str) -> bool {
    at(object, path).and_then(Value::as_bool).unwrap_or(false)
}

/// A map of texts, empty when it is none.
pub(super) fn text_map(map: &Value) -> BTreeMap<String, String> {
    let entries = map.as_object().into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}
