//! Strategic merge patch: a merge patch that knows, from the schema, which lists merge by a key.
//!
//! Directives as upstream has them: `$patch: replace|delete|merge`, `$deleteFromPrimitiveList/<field>`,
//! `$setElementOrder/<field>`, `$retainKeys`. Fields that the schema does not know merge as in RFC 7386. The order of
//! a merged list is upstream's: items of the patch in the patch's order, the others in theirs, and where both were
//! there before, the old order between them.

use super::PatchError;
use crate::schema::{Field, Node, Schema};
use crate::{Map, Value};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Applies a strategic merge patch to an object of the schema.
///
/// The result may leave the canonical form: decode it again with [`crate::codec::normalize`].
pub fn strategic_merge_patch(schema: &Schema, document: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed("cannot unmarshal a patch that is no object".into()));
    };
    let original = match document.take() {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    *document = Value::Object(merge_map(Some(schema.root()), original, patch.clone())?);
    Ok(())
}

fn malformed<T>(text: String) -> Result<T, PatchError> {
    Err(PatchError::Malformed(text))
}

fn merge_map(node: Option<Node<'_>>, mut original: Map, mut patch: Map) -> Result<Map, PatchError> {
    if let Some(directive) = patch.remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Map::new()),
            Some("merge") => merge_map(node, original, patch),
            _ => Err(PatchError::Unprocessable(format!("unknown patch type: {directive} in map"))),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    let ordered: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
    for key in ordered {
        let order = patch.remove(&key).unwrap_or_default();
        set_order(node, &mut original, &mut patch, &key[SET_ORDER.len()..], order)?;
    }
    for (key, value) in patch {
        if let Some(name) = key.strip_prefix(DELETE_FROM) {
            delete_from(&mut original, name, &value)?;
            continue;
        }
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let field = node.and_then(|node| node.field(&key));
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                if field.is_some_and(|field| field.patch_replaces()) {
                    Value::Object(new)
                } else {
                    Value::Object(merge_map(below(node, field), old, new)?)
                }
            }
            (Some(Value::Array(old)), Value::Array(new)) => Value::Array(merge_list(field, old, new)?),
            (_, new) => match without_directives(new) {
                Some(value) => value,
                None => continue,
            },
        };
        original.insert(key, merged);
    }
    Ok(original)
}

/// Schema of a value: that of the field, or of the map's values.
fn below<'t>(node: Option<Node<'t>>, field: Option<Field<'t>>) -> Option<Node<'t>> {
    match field {
        Some(field) => Some(field.node()),
        None => node.and_then(Node::element),
    }
}

/// Drops the keys that `$retainKeys` does not name.
fn retain_keys(original: &mut Map, patch: &mut Map) -> Result<(), PatchError> {
    let Some(retained) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let names: Option<Vec<&str>> =
        retained.as_array().map(|keys| keys.iter().filter_map(Value::as_str).collect());
    let Some(names) = names else {
        return malformed("invalid patch format of retain keys".into());
    };
    let plain = |key: &str| {
        let key = key.strip_prefix(SET_ORDER).or_else(|| key.strip_prefix(DELETE_FROM)).unwrap_or(key);
        names.contains(&key)
    };
    if let Some((key, _)) = patch.iter().find(|(key, value)| !value.is_null() && !plain(key)) {
        return malformed(format!("{key} is not in the retain keys list"));
    }
    original.retain(|key, _| names.contains(&key.as_str()));
    Ok(())
}

fn delete_from(original: &mut Map, name: &str, items: &Value) -> Result<(), PatchError> {
    let Some(items) = items.as_array() else {
        return malformed("invalid patch format of primitive list".into());
    };
    if let Some(Value::Array(list)) = original.get_mut(name) {
        list.retain(|item| !items.contains(item));
    }
    Ok(())
}

/// Merges one list and brings it into the order that the patch asks for.
fn set_order(
    node: Option<Node<'_>>,
    original: &mut Map,
    patch: &mut Map,
    name: &str,
    order: Value,
) -> Result<(), PatchError> {
    let Value::Array(order) = order else {
        return malformed("invalid patch format of setElementOrder list".into());
    };
    let field = node.and_then(|node| node.field(name));
    let key = field.and_then(Field::patch_merge_key);
    let old = original.get(name).and_then(Value::as_array).cloned();
    let new = match patch.remove(name) {
        Some(Value::Array(items)) => Some(items),
        Some(other) => {
            patch.insert(name.to_owned(), other);
            return Ok(());
        }
        None => None,
    };
    if let Some(items) = &new {
        let unordered = items.iter().find(|item| item.get(PATCH).is_none() && !holds(&order, item, key));
        if unordered.is_some() {
            return malformed(format!(
                "The order in patch list:\n{items:?}\n doesn't match {SET_ORDER}{name} list"
            ));
        }
    }
    let server_order = old.clone().unwrap_or_default();
    let merged = match (old, new) {
        (Some(old), Some(new)) => merge_list(field, old, new)?,
        (Some(old), None) => old,
        (None, Some(new)) => match without_directives(Value::Array(new)) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        },
        (None, None) => return Ok(()),
    };
    original.insert(name.to_owned(), Value::Array(in_order(merged, &order, &server_order, key)));
    Ok(())
}

fn merge_list(field: Option<Field<'_>>, old: Vec<Value>, new: Vec<Value>) -> Result<Vec<Value>, PatchError> {
    let Some(field) = field.filter(|field| field.patch_merges()) else {
        return Ok(new);
    };
    let of_objects = new.iter().chain(&old).any(Value::is_object);
    if !of_objects {
        let order = new.clone();
        let server_order = old.clone();
        let mut merged: Vec<Value> = Vec::with_capacity(old.len() + new.len());
        for item in old.into_iter().chain(new) {
            if !merged.contains(&item) {
                merged.push(item);
            }
        }
        return Ok(in_order(merged, &order, &server_order, None));
    }
    let Some(key) = field.patch_merge_key() else {
        let text = format!("cannot merge lists without merge key for {}", field.json());
        return Err(PatchError::Unprocessable(text));
    };
    let (mut merged, new) = special_items(old, new, key)?;
    let order = new.clone();
    let server_order = merged.clone();
    let element = field.node().element();
    for item in new {
        let Value::Object(item) = item else {
            return Err(PatchError::Unprocessable(format!("a list of objects keyed by {key} holds {item}")));
        };
        let wanted = key_of(&item, key)?.clone();
        match merged.iter_mut().find(|old| old.get(key) == Some(&wanted)) {
            Some(slot) => {
                let old = slot.take();
                let old = if let Value::Object(old) = old { old } else { Map::new() };
                *slot = Value::Object(merge_map(element, old, item)?);
            }
            None => merged.extend(without_directives(Value::Object(item))),
        }
    }
    Ok(in_order(merged, &order, &server_order, Some(key)))
}

fn key_of<'m>(item: &'m Map, key: &str) -> Result<&'m Value, PatchError> {
    item.get(key).filter(|value| !value.is_null()).ok_or_else(|| {
        let text = Value::Object(item.clone());
        PatchError::Unprocessable(format!("map: {text} does not contain declared merge key: {key}"))
    })
}

/// Carries out the items of a patch list that delete items or replace the list.
fn special_items(
    mut old: Vec<Value>,
    new: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut rest = Vec::with_capacity(new.len());
    let mut replace = false;
    for item in new {
        match item.get(PATCH).map(Value::as_str) {
            None => rest.push(item),
            Some(Some("delete")) => {
                let wanted = item.as_object().map(|item| key_of(item, key)).transpose()?;
                old.retain(|old| old.get(key) != wanted);
            }
            Some(Some("replace")) => replace = true,
            Some(Some("merge")) => {
                return Err(PatchError::Unprocessable("merging not yet supported".into()));
            }
            Some(directive) => {
                let text = format!("unknown patch type: {} in list", directive.unwrap_or_default());
                return Err(PatchError::Unprocessable(text));
            }
        }
    }
    Ok(if replace { (rest, Vec::new()) } else { (old, rest) })
}

fn same(left: &Value, right: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => left.get(key).is_some() && left.get(key) == right.get(key),
        None => left == right,
    }
}

fn position(list: &[Value], item: &Value, key: Option<&str>) -> Option<usize> {
    list.iter().position(|other| same(other, item, key))
}

fn holds(list: &[Value], item: &Value, key: Option<&str>) -> bool {
    position(list, item, key).is_some()
}

/// Items that `order` names in that order, the others as the server had them, and between the two kinds the server's
/// order where both were there.
fn in_order(merged: Vec<Value>, order: &[Value], server_order: &[Value], key: Option<&str>) -> Vec<Value> {
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| holds(order, item, key));
    named.sort_by_key(|item| position(order, item, key));
    others.sort_by_key(|item| position(server_order, item, key).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let mut named = named.into_iter().peekable();
    let mut others = others.into_iter().peekable();
    while let (Some(left), Some(right)) = (others.peek(), named.peek()) {
        let places = (position(server_order, left, key), position(server_order, right, key));
        let left_first = matches!(places, (Some(left), Some(right)) if left < right);
        out.extend(if left_first { others.next() } else { named.next() });
    }
    out.extend(others);
    out.extend(named);
    out
}

/// A patch value that meets nothing to patch: directives and nulls fall away. `None` when nothing is left by
/// directive.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(mut map) => {
            if map.remove(PATCH).as_ref().and_then(Value::as_str) == Some("delete") {
                return None;
            }
            map.remove(RETAIN_KEYS);
            let mut out = Map::new();
            for (key, value) in map {
                if value.is_null() || key.starts_with(SET_ORDER) || key.starts_with(DELETE_FROM) {
                    continue;
                }
                if let Some(value) = without_directives(value) {
                    out.insert(key, value);
                }
            }
            Some(Value::Object(out))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        scalar => Some(scalar),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(document: Value, patch: Value, expected: Value) {
        let facts = crate::facts::builtin().kind("apps", "v1", "Deployment").unwrap();
        let mut got = document;
        match strategic_merge_patch(&facts.schema, &mut got, &patch) {
            Ok(()) => assert_eq!(got, expected, "patch {patch}"),
            Err(error) => assert_eq!(Value::String(error.to_string()), expected, "patch {patch}"),
        }
    }

    fn pod(spec: Value) -> Value {
        json!({"spec": {"template": {"spec": spec}}})
    }

    fn containers(list: Value) -> Value {
        pod(json!({ "containers": list }))
    }

    #[test]
    fn lists_merge_by_key() {
        let two = json!([{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]);
        check(
            containers(two.clone()),
            containers(json!([{"name": "b", "image": "z"}])),
            containers(json!([{"name": "a", "image": "x"}, {"name": "b", "image": "z"}])),
        );
        check(
            containers(two.clone()),
            containers(json!([{"name": "c"}])),
            containers(json!([{"name": "c"}, {"name": "a", "image": "x"}, {"name": "b", "image": "y"}])),
        );
        check(
            containers(two.clone()),
            containers(json!([{"name": "a", "$patch": "delete"}])),
            containers(json!([{"name": "b", "image": "y"}])),
        );
        check(
            containers(two.clone()),
            containers(json!([{"name": "n"}, {"$patch": "replace"}])),
            containers(json!([{"name": "n"}])),
        );
        check(
            containers(two),
            containers(json!([{"image": "z"}])),
            json!("map: {\"image\":\"z\"} does not contain declared merge key: name"),
        );
    }

    #[test]
    fn order_can_be_set() {
        let order = json!([{"name": "b"}, {"name": "c"}, {"name": "a"}]);
        check(
            containers(json!([{"name": "a"}, {"name": "b"}])),
            pod(json!({"$setElementOrder/containers": order, "containers": [{"name": "c"}]})),
            containers(json!([{"name": "b"}, {"name": "c"}, {"name": "a"}])),
        );
    }

    #[test]
    fn primitive_lists_merge_where_declared() {
        check(
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]}}),
            json!({"metadata": {"finalizers": ["c", "b"]}}),
        );
        check(
            containers(json!([{"name": "a", "args": ["1"]}])),
            containers(json!([{"name": "a", "args": ["2"]}])),
            containers(json!([{"name": "a", "args": ["2"]}])),
        );
    }

    #[test]
    fn maps_and_directives() {
        check(
            json!({"a": {"b": 1, "c": 2}}),
            json!({"a": {"b": null, "d": 3}}),
            json!({"a": {"c": 2, "d": 3}}),
        );
        check(
            json!({"spec": {"paused": true, "x": 1}}),
            json!({"spec": {"$patch": "replace", "x": 2}}),
            json!({"spec": {"x": 2}}),
        );
        check(
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
            json!({"spec": {"strategy": {"type": "Recreate"}}}),
        );
        check(
            json!({}),
            containers(
                json!([{"name": "a", "env": null, "$patch": "merge"}, {"name": "b", "$patch": "delete"}]),
            ),
            containers(json!([{"name": "a"}])),
        );
        check(json!({"a": {}}), json!({"a": {"$patch": "bad"}}), json!("unknown patch type: \"bad\" in map"));
    }
}
