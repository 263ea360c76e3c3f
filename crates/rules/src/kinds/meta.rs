//! Validation of `metadata`, the same for every kind, worded as upstream's
//! `apimachinery/pkg/api/validation/objectmeta.go`.

use isopod_api::field::{Error, ErrorList, Path};
use isopod_api::{Map, Value, names};

use super::NameRule;

/// Most bytes of all annotations of an object together.
pub const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;
/// Finalizer under which dependents are deleted before their owner.
pub const FINALIZER_FOREGROUND: &str = "foregroundDeletion";
/// Finalizer under which dependents lose their owner before it goes.
pub const FINALIZER_ORPHAN: &str = "orphan";

const IMMUTABLE: &str = "field is immutable";

/// Without a trailing dash, which may end the prefix in `generateName`.
fn masked(name: &str, prefix: bool) -> String {
    if prefix && name.len() > 1 && name.ends_with('-') {
        format!("{}a", &name[..name.len() - 1])
    } else {
        name.to_owned()
    }
}

/// Name rule: DNS-1123 subdomain.
pub fn subdomain(name: &str, prefix: bool) -> Vec<String> {
    names::is_dns1123_subdomain(&masked(name, prefix))
}

/// Name rule: DNS-1123 label.
pub fn label(name: &str, prefix: bool) -> Vec<String> {
    names::is_dns1123_label(&masked(name, prefix))
}

/// Name rule: DNS-1035 label.
pub fn label_1035(name: &str, prefix: bool) -> Vec<String> {
    names::is_dns1035_label(&masked(name, prefix))
}

/// Name rule: anything that fits one segment of a URL's path.
pub fn path_segment(name: &str, _prefix: bool) -> Vec<String> {
    names::is_path_segment_name(name)
}

fn text<'v>(meta: &'v Map, key: &str) -> &'v str {
    meta.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn metadata(object: &Value) -> Map {
    object.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Validates the metadata of an object that is to be stored.
pub fn validate(object: &Value, namespaced: bool, rule: NameRule) -> ErrorList {
    let meta = metadata(object);
    let path = Path::new("metadata");
    let mut errors = ErrorList::new();
    let generate = text(&meta, "generateName");
    if !generate.is_empty() {
        let at = path.child("generateName");
        errors.extend(rule(generate, true).into_iter().map(|m| Error::invalid(&at, generate, m)));
    }
    let name = text(&meta, "name");
    if name.is_empty() {
        errors.push(Error::required(&path.child("name"), "name or generateName is required"));
    } else {
        let at = path.child("name");
        errors.extend(rule(name, false).into_iter().map(|m| Error::invalid(&at, name, m)));
    }
    let namespace = text(&meta, "namespace");
    let at = path.child("namespace");
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.push(Error::required(&at, "")),
        (true, false) => {
            errors.extend(label(namespace, false).into_iter().map(|m| Error::invalid(&at, namespace, m)));
        }
        (false, true) => {}
        (false, false) => errors.push(Error::forbidden(&at, "not allowed on this type")),
    }
    if let Some(generation) = meta.get("generation").and_then(Value::as_i64).filter(|g| *g < 0) {
        let detail = "must be greater than or equal to 0";
        errors.push(Error::invalid(&path.child("generation"), generation, detail));
    }
    validate_maps(&meta, &path, &mut errors);
    validate_owners(&meta, &path.child("ownerReferences"), &mut errors);
    validate_finalizers(&meta, &path.child("finalizers"), &mut errors);
    errors
}

/// Labels (also used for label maps elsewhere in objects).
pub fn validate_labels(labels: Option<&Value>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        errors
            .extend(names::is_qualified_name(key).into_iter().map(|m| Error::invalid(path, key.as_str(), m)));
        errors.extend(names::is_label_value(value).into_iter().map(|m| Error::invalid(path, value, m)));
    }
    errors
}

/// Annotations (also used for annotation maps elsewhere in objects).
pub fn validate_annotations(annotations: Option<&Value>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut size = 0;
    for (key, value) in annotations.and_then(Value::as_object).into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        let lower = key.to_lowercase();
        errors.extend(
            names::is_qualified_name(&lower).into_iter().map(|m| Error::invalid(path, key.as_str(), m)),
        );
    }
    if size > ANNOTATIONS_BYTES_MAX {
        errors.push(Error::too_long(path, ANNOTATIONS_BYTES_MAX));
    }
    errors
}

fn validate_maps(meta: &Map, path: &Path, errors: &mut ErrorList) {
    errors.extend(validate_labels(meta.get("labels"), &path.child("labels")));
    errors.extend(validate_annotations(meta.get("annotations"), &path.child("annotations")));
}

fn validate_owners(meta: &Map, path: &Path, errors: &mut ErrorList) {
    let Some(owners) = meta.get("ownerReferences").and_then(Value::as_array) else { return };
    let mut controller: Option<String> = None;
    for owner in owners {
        let field = |key: &str| owner.get(key).and_then(Value::as_str).unwrap_or_default();
        let api_version = field("apiVersion");
        let version = api_version.rsplit('/').next().unwrap_or_default();
        if version.is_empty() {
            errors.push(Error::invalid(&path.child("apiVersion"), api_version, "version must not be empty"));
        }
        for key in ["kind", "name", "uid"] {
            if field(key).is_empty() {
                errors.push(Error::invalid(&path.child(key), "", "must not be empty"));
            }
        }
        if api_version == "v1" && field("kind") == "Event" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(Error::invalid(path, owner.clone(), detail));
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            let this = format!("{}/{}", field("kind"), field("name"));
            match &controller {
                Some(first) => errors.push(Error::invalid(
                    path,
                    Value::Array(owners.clone()),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    ),
                )),
                None => controller = Some(this),
            }
        }
    }
}

fn finalizers(meta: &Map) -> Vec<&str> {
    meta.get("finalizers")
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

fn validate_finalizers(meta: &Map, path: &Path, errors: &mut ErrorList) {
    let finalizers = finalizers(meta);
    for finalizer in &finalizers {
        let wrong = names::is_qualified_name(finalizer);
        errors.extend(wrong.into_iter().map(|m| Error::invalid(path, *finalizer, m)));
    }
    if finalizers.contains(&FINALIZER_FOREGROUND) && finalizers.contains(&FINALIZER_ORPHAN) {
        let detail = format!("finalizer {FINALIZER_ORPHAN} and {FINALIZER_FOREGROUND} cannot be both set");
        errors.push(Error::invalid(path, finalizers.join(","), detail));
    }
}

/// Validates how the metadata of a stored object changes.
pub fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let (new, old) = (metadata(new), metadata(old));
    let path = Path::new("metadata");
    let mut errors = ErrorList::new();
    if old.contains_key("deletionTimestamp") {
        let before = finalizers(&old);
        let extra: Vec<String> =
            finalizers(&new).into_iter().filter(|f| !before.contains(f)).map(|f| format!("{f:?}")).collect();
        if !extra.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                extra.join(", ")
            );
            errors.push(Error::forbidden(&path.child("finalizers"), detail));
        }
    }
    if text(&new, "resourceVersion").is_empty() {
        errors.push(Error::invalid(&path.child("resourceVersion"), "", "must be specified for an update"));
    }
    let generation = |m: &Map| m.get("generation").and_then(Value::as_i64).unwrap_or(0);
    if generation(&new) < generation(&old) {
        let at = path.child("generation");
        errors.push(Error::invalid(&at, generation(&new), "must not be decremented"));
    }
    for key in
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        if new.get(key) != old.get(key) {
            let value = new.get(key).cloned().unwrap_or(Value::Null);
            errors.push(Error::invalid(&path.child(key), value, IMMUTABLE));
        }
    }
    validate_maps(&new, &path, &mut errors);
    validate_owners(&new, &path.child("ownerReferences"), &mut errors);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn create() {
        let long = "x".repeat(ANNOTATIONS_BYTES_MAX);
        for (meta, want) in [
            (json!({"name": "a", "namespace": "b"}), vec![]),
            (
                json!({}),
                vec![
                    "metadata.name: Required value: name or generateName is required",
                    "metadata.namespace: Required value",
                ],
            ),
            (
                json!({"name": "a", "namespace": "b", "annotations": {"a": long}}),
                vec!["metadata.annotations: Too long: may not be more than 262144 bytes"],
            ),
            (
                json!({"name": "a", "namespace": "b", "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "n"}]}),
                vec!["metadata.ownerReferences.uid: Invalid value: \"\": must not be empty"],
            ),
        ] {
            assert_eq!(texts(validate(&json!({"metadata": meta}), true, subdomain)), want);
        }
    }

    #[test]
    fn update() {
        let old =
            json!({"metadata": {"name": "a", "uid": "1", "resourceVersion": "1", "deletionTimestamp": "x"}});
        let new = json!({"metadata": {"name": "b", "uid": "1", "resourceVersion": "1", "deletionTimestamp": "x",
            "finalizers": ["a/b"]}});
        assert_eq!(
            texts(validate_update(&new, &old)),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"a/b\"}",
                "metadata.name: Invalid value: \"b\": field is immutable",
            ]
        );
    }

    #[test]
    fn generate_name_prefix_may_end_with_a_dash() {
        assert!(subdomain("web-", true).is_empty());
        assert!(!subdomain("web-", false).is_empty());
    }
}
