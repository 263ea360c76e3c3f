//! An API object as a dynamic value, with accessors for the metadata that every kind has.

use crate::{Map, Value};
use std::collections::BTreeMap;

/// A JSON object with `apiVersion`, `kind` and `metadata`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object(pub Value);

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Group and version out of an `apiVersion`: `apps/v1` or `v1`.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// `apps/v1`, or `v1` in the core group.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

impl Object {
    /// An object without content.
    pub fn new(api_version: &str, kind: &str) -> Self {
        Object(serde_json::json!({"apiVersion": api_version, "kind": kind, "metadata": {}}))
    }
    /// `apiVersion`, empty when absent.
    pub fn api_version(&self) -> &str {
        text(&self.0, "apiVersion")
    }
    /// `kind`, empty when absent.
    pub fn kind(&self) -> &str {
        text(&self.0, "kind")
    }
    /// `metadata`, if it is an object.
    pub fn metadata(&self) -> Option<&Map> {
        self.0.get("metadata").and_then(Value::as_object)
    }
    /// `metadata`, made when absent.
    pub fn metadata_mut(&mut self) -> &mut Map {
        child_mut(&mut self.0, "metadata")
    }
    /// A text field of the metadata, empty when absent.
    pub fn meta(&self, key: &str) -> &str {
        self.metadata().and_then(|m| m.get(key)).and_then(Value::as_str).unwrap_or_default()
    }
    /// Sets a field of the metadata; an empty text removes it.
    pub fn set_meta(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        if value.is_null() || value.as_str() == Some("") {
            self.metadata_mut().remove(key);
        } else {
            self.metadata_mut().insert(key.to_owned(), value);
        }
    }
    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.meta("name")
    }
    /// `metadata.namespace`.
    pub fn namespace(&self) -> &str {
        self.meta("namespace")
    }
    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        self.meta("uid")
    }
    /// `metadata.resourceVersion` as text.
    pub fn resource_version(&self) -> &str {
        self.meta("resourceVersion")
    }
    /// `metadata.generation`, zero when absent.
    pub fn generation(&self) -> i64 {
        self.metadata().and_then(|m| m.get("generation")).and_then(Value::as_i64).unwrap_or(0)
    }
    /// `metadata.deletionTimestamp`, if the object is being deleted.
    pub fn deletion_timestamp(&self) -> Option<&str> {
        self.metadata()?.get("deletionTimestamp")?.as_str()
    }
    /// `metadata.finalizers`.
    pub fn finalizers(&self) -> Vec<&str> {
        self.metadata()
            .and_then(|m| m.get("finalizers"))
            .and_then(Value::as_array)
            .map(|list| list.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default()
    }
    /// `metadata.labels`.
    pub fn labels(&self) -> BTreeMap<String, String> {
        self.text_map("labels")
    }
    /// One label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.metadata()?.get("labels")?.get(key)?.as_str()
    }
    /// `metadata.annotations`.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.text_map("annotations")
    }
    /// One annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata()?.get("annotations")?.get(key)?.as_str()
    }
    fn text_map(&self, key: &str) -> BTreeMap<String, String> {
        let Some(Value::Object(map)) = self.metadata().and_then(|m| m.get(key)) else {
            return BTreeMap::new();
        };
        map.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
    }
    /// The value at a path of field names.
    pub fn get(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(&self.0, |value, key| value.get(key))
    }
    /// The text at a path of field names, empty when absent.
    pub fn str_at(&self, path: &[&str]) -> &str {
        self.get(path).and_then(Value::as_str).unwrap_or_default()
    }
    /// Sets the value at a path of field names, making objects on the way.
    pub fn set(&mut self, path: &[&str], value: impl Into<Value>) {
        let Some((last, parents)) = path.split_last() else {
            self.0 = value.into();
            return;
        };
        let mut at = &mut self.0;
        for key in parents {
            let map = as_map(at);
            at = map.entry(*key).or_insert_with(|| Value::Object(Map::new()));
        }
        as_map(at).insert((*last).to_owned(), value.into());
    }
    /// Removes and gives the value at a path of field names.
    pub fn remove(&mut self, path: &[&str]) -> Option<Value> {
        let (last, parents) = path.split_last()?;
        let parent = parents.iter().try_fold(&mut self.0, |value, key| value.get_mut(key))?;
        parent.as_object_mut()?.remove(*last)
    }
}

fn as_map(value: &mut Value) -> &mut Map {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("just made an object")
}

/// The object below `key`, made when absent or of another type.
pub fn child_mut<'a>(value: &'a mut Value, key: &str) -> &'a mut Map {
    as_map(as_map(value).entry(key).or_insert_with(|| Value::Object(Map::new())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths() {
        let mut o = Object::new("v1", "Pod");
        o.set(&["spec", "a", "b"], 1);
        o.set_meta("name", "x");
        assert_eq!(
            o.0,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"a": {"b": 1}}})
        );
        assert_eq!(o.remove(&["spec", "a", "b"]), Some(json!(1)));
        o.set_meta("name", "");
        assert_eq!(o.name(), "");
    }
}
