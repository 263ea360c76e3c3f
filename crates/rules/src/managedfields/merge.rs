//! Merging an applied configuration into an object, and removing fields from an object.

use isopod_api::{Map, Value};

use super::set::FieldSet;
use super::walk::{Shape, item_element, shape_of, shape_of_node, value_element};

/// What `live` becomes when `config` is applied over it.
pub(super) fn merged(live: &Value, config: &Value, shape: Shape<'_>) -> Value {
    match (shape, live, config) {
        (Shape::Struct(node), Value::Object(live), Value::Object(config)) => {
            let mut out = live.clone();
            for (key, value) in config {
                let shape = node.field(key).map_or(Shape::Leaf, shape_of);
                put(&mut out, key, value, shape);
            }
            Value::Object(out)
        }
        (Shape::Map(element), Value::Object(live), Value::Object(config)) => {
            let mut out = live.clone();
            for (key, value) in config {
                put(&mut out, key, value, shape_of_node(element));
            }
            Value::Object(out)
        }
        (Shape::Set, Value::Array(live), Value::Array(config)) => {
            // The configuration's order, then what others have added.
            let mut out = config.clone();
            out.extend(live.iter().filter(|v| !config.contains(v)).cloned());
            out.into()
        }
        (Shape::Items(field, element), Value::Array(live), Value::Array(config)) => {
            let key = |item: &Value| item_element(field, element, item);
            merged_items(live, config, key, shape_of_node(element))
        }
        _ => config.clone(),
    }
}

fn put(out: &mut Map, key: &str, value: &Value, shape: Shape<'_>) {
    let new = match out.get(key) {
        Some(old) => merged(old, value, shape),
        None => value.clone(),
    };
    out.insert(key.to_owned(), new);
}

/// Items of both lists: the applied ones in the configuration's order, items of others before the next
/// applied one, as structured-merge-diff orders them.
fn merged_items(live: &[Value], config: &[Value], key: impl Fn(&Value) -> String, shape: Shape<'_>) -> Value {
    let live_keys: Vec<String> = live.iter().map(&key).collect();
    let config_keys: Vec<String> = config.iter().map(&key).collect();
    let mut shared = config_keys.iter().filter(|k| live_keys.contains(k)).peekable();
    let mut out = Vec::with_capacity(live.len() + config.len());
    let (mut at_live, mut at_config) = (0, 0);
    while at_live < live.len() || at_config < config.len() {
        if let Some(this) = live_keys.get(at_live) {
            if config_keys.get(at_config) == Some(this) {
                out.push(merged(&live[at_live], &config[at_config], shape));
                shared.next_if_eq(&this);
                at_live += 1;
                at_config += 1;
                continue;
            }
            if !config_keys.contains(this) {
                out.push(live[at_live].clone());
                at_live += 1;
                continue;
            }
            // In both lists, but the configuration wants another one first, or had it before.
            if shared.peek().is_none_or(|next| *next != this) {
                at_live += 1;
                continue;
            }
        }
        let Some(item) = config.get(at_config) else { break };
        let matching = live_keys.iter().position(|k| *k == config_keys[at_config]);
        out.push(matching.map_or_else(|| item.clone(), |l| merged(&live[l], item, shape)));
        let this = &config_keys[at_config];
        shared.next_if_eq(&this);
        at_config += 1;
    }
    out.into()
}

/// Removes from a value the paths in `gone`; items and maps below which `kept` has something stay.
pub(super) fn removed(value: &mut Value, shape: Shape<'_>, gone: &FieldSet, kept: &FieldSet) {
    let nothing = FieldSet::default();
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map)) => {
            let keys: Vec<String> = map.keys().cloned().collect();
            for key in keys {
                let shape = match shape {
                    Shape::Struct(node) => node.field(&key).map_or(Shape::Leaf, shape_of),
                    Shape::Map(element) => shape_of_node(element),
                    _ => Shape::Leaf,
                };
                let element = format!("f:{key}");
                let below = gone.below(&element);
                if below.is_none() {
                    continue;
                }
                let keeps = kept.below(&element).unwrap_or(&nothing);
                if gone.has(&element) && keeps.is_empty() && !kept.has(&element) {
                    map.remove(&key);
                    continue;
                }
                let (Some(child), Some(below)) = (map.get_mut(&key), below) else { continue };
                removed(child, shape, below, keeps);
                let empty = match &*child {
                    Value::Object(map) => map.is_empty(),
                    Value::Array(list) => list.is_empty(),
                    _ => false,
                };
                if empty && !below.is_empty() {
                    map.remove(&key);
                }
            }
        }
        (Shape::Set, Value::Array(list)) => {
            list.retain(|v| !gone.has(&value_element(v)) || kept.has(&value_element(v)));
        }
        (Shape::Items(field, element), Value::Array(list)) => {
            list.retain_mut(|item| {
                let name = item_element(field, element, item);
                let Some(below) = gone.below(&name) else { return true };
                let keeps = kept.below(&name).unwrap_or(&nothing);
                if gone.has(&name) && keeps.is_empty() && !kept.has(&name) {
                    return false;
                }
                removed(item, shape_of_node(element), below, keeps);
                true
            });
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn order_of_items() {
        let schema = &isopod_api::facts::builtin().kind("", "v1", "Pod").unwrap().schema;
        let list = |names: &str| -> Value {
            let items: Vec<Value> = names.chars().map(|c| json!({"name": c.to_string()})).collect();
            json!({"spec": {"containers": items}})
        };
        for (live, config, want) in [
            ("ab", "c", "abc"),
            ("ab", "ac", "abc"),
            ("ab", "ca", "cab"),
            ("abc", "cb", "acb"),
            ("", "a", "a"),
            ("abc", "ba", "bca"),
        ] {
            let got = merged(&list(live), &list(config), shape_of_node(schema.root()));
            assert_eq!(got, list(want), "{live} + {config}");
        }
    }
}
