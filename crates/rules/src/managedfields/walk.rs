//! Walks over values by schema: which fields a value has, and how two values differ.

use std::collections::BTreeMap;

use isopod_api::Value;
use isopod_api::schema::{Field, ListType, Node, Ty};

use super::set::FieldSet;

/// How a value takes part in merging.
#[derive(Clone, Copy)]
pub(super) enum Shape<'t> {
    /// One value as a whole.
    Leaf,
    /// Declared fields.
    Struct(Node<'t>),
    /// Any keys, values of one type.
    Map(Node<'t>),
    /// Scalars without order or repeats.
    Set,
    /// Items told apart by some of their fields.
    Items(Field<'t>, Node<'t>),
}

/// The shape of a field's value.
pub(super) fn shape_of(field: Field<'_>) -> Shape<'_> {
    if field.is_atomic() {
        return Shape::Leaf;
    }
    let node = field.node();
    match (node.ty(), node.element()) {
        (Ty::List(_) | Ty::Wrapped, Some(element)) => match field.list_type() {
            ListType::Atomic => Shape::Leaf,
            ListType::Set => Shape::Set,
            ListType::Map => Shape::Items(field, element),
        },
        (Ty::Map(_), Some(element)) => Shape::Map(element),
        _ => shape_of_node(node),
    }
}

/// The shape of a value whose field says nothing about merging.
pub(super) fn shape_of_node(node: Node<'_>) -> Shape<'_> {
    match node.ty() {
        Ty::Struct(_) if !node.is_atomic_struct() => Shape::Struct(node),
        _ => Shape::Leaf,
    }
}

/// The element under which an item of a list is known.
pub(super) fn item_element(field: Field<'_>, element: Node<'_>, item: &Value) -> String {
    let mut keys: BTreeMap<&str, Value> = BTreeMap::new();
    for key in field.list_keys() {
        let default = || element.field(key)?.default().and_then(|d| serde_json::from_str(d).ok());
        if let Some(value) = item.get(key).filter(|v| !v.is_null()).cloned().or_else(default) {
            keys.insert(key, value);
        }
    }
    format!("k:{}", serde_json::to_string(&keys).unwrap_or_default())
}

/// The element under which a scalar of a set is known.
pub(super) fn value_element(value: &Value) -> String {
    format!("v:{value}")
}

fn is_empty_map(value: &Value) -> bool {
    value.as_object().is_some_and(|m| m.is_empty())
}

/// The fields that a value of the schema's root type sets.
pub fn fields_of(value: &Value, root: Node<'_>) -> FieldSet {
    let mut out = FieldSet::default();
    fields(value, shape_of_node(root), &mut out);
    out
}

/// Adds what is below a value that is no leaf.
fn fields(value: &Value, shape: Shape<'_>, out: &mut FieldSet) {
    let mut child = |element: String, value: &Value, shape: Shape<'_>, own: bool| {
        let mut below = FieldSet::default();
        let leaf = matches!(shape, Shape::Leaf) || value.is_null();
        if !leaf {
            fields(value, shape, &mut below);
        }
        if leaf || own || is_empty_map(value) {
            out.add(element.clone());
        }
        out.put(element, below);
    };
    match (shape, value) {
        (Shape::Struct(node), Value::Object(map)) => {
            for (key, value) in map {
                if let Some(field) = node.field(key) {
                    child(format!("f:{key}"), value, shape_of(field), false);
                }
            }
        }
        (Shape::Map(element), Value::Object(map)) => {
            for (key, value) in map {
                child(format!("f:{key}"), value, shape_of_node(element), true);
            }
        }
        (Shape::Set, Value::Array(list)) => {
            for value in list {
                child(value_element(value), value, Shape::Leaf, true);
            }
        }
        (Shape::Items(field, element), Value::Array(list)) => {
            for item in list {
                child(item_element(field, element, item), item, shape_of_node(element), true);
            }
        }
        _ => {}
    }
}

/// How one value differs from another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    /// In the new value only.
    pub added: FieldSet,
    /// In both, with different values.
    pub modified: FieldSet,
    /// In the old value only.
    pub removed: FieldSet,
}

impl Compared {
    /// Whether the values are the same.
    pub fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    fn put(&mut self, element: &str, below: Compared) {
        self.added.put(element.to_owned(), below.added);
        self.modified.put(element.to_owned(), below.modified);
        self.removed.put(element.to_owned(), below.removed);
    }
}

/// Compares two values of the schema's root type.
pub fn compare(old: &Value, new: &Value, root: Node<'_>) -> Compared {
    let mut out = Compared::default();
    compare_shape(old, new, shape_of_node(root), &mut out);
    out
}

/// One child on either side.
type Child<'v, 't> = (&'v Value, Shape<'t>);

fn children<'v, 't>(value: &'v Value, shape: Shape<'t>) -> BTreeMap<String, Child<'v, 't>> {
    let mut out = BTreeMap::new();
    match (shape, value) {
        (Shape::Struct(node), Value::Object(map)) => {
            for (key, value) in map {
                if let Some(field) = node.field(key) {
                    out.insert(format!("f:{key}"), (value, shape_of(field)));
                }
            }
        }
        (Shape::Map(element), Value::Object(map)) => {
            out.extend(map.iter().map(|(k, v)| (format!("f:{k}"), (v, shape_of_node(element)))));
        }
        (Shape::Set, Value::Array(list)) => {
            out.extend(list.iter().map(|v| (value_element(v), (v, Shape::Leaf))));
        }
        (Shape::Items(field, element), Value::Array(list)) => {
            out.extend(list.iter().map(|v| (item_element(field, element, v), (v, shape_of_node(element)))));
        }
        _ => {}
    }
    out
}

fn compare_shape(old: &Value, new: &Value, shape: Shape<'_>, out: &mut Compared) {
    if old == new {
        return;
    }
    let (olds, news) = (children(old, shape), children(new, shape));
    for (element, (value, shape)) in &news {
        match olds.get(element) {
            None => whole(element, value, *shape, &mut out.added),
            Some((before, _)) if before == value => {}
            Some((before, _)) => {
                if matches!(shape, Shape::Leaf) || before.is_null() || value.is_null() {
                    out.modified.add(element.clone());
                } else {
                    let mut below = Compared::default();
                    compare_shape(before, value, *shape, &mut below);
                    out.put(element, below);
                }
            }
        }
    }
    for (element, (value, shape)) in &olds {
        if !news.contains_key(element) {
            whole(element, value, *shape, &mut out.removed);
        }
    }
}

/// Adds a child that is on one side only: its own path and every path below it, maps and lists included.
fn whole(element: &str, value: &Value, shape: Shape<'_>, out: &mut FieldSet) {
    out.add(element.to_owned());
    if matches!(shape, Shape::Leaf) || value.is_null() {
        return;
    }
    let mut below = FieldSet::default();
    for (element, (value, shape)) in children(value, shape) {
        whole(&element, value, shape, &mut below);
    }
    out.put(element.to_owned(), below);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_deployment() {
        let facts = isopod_api::facts::builtin().kind("apps", "v1", "Deployment").unwrap();
        let root = facts.schema.root();
        let old = json!({"metadata": {"labels": {"a": "b"}, "finalizers": ["x/y"]}, "spec": {"replicas": 1,
            "template": {"spec": {"containers": [{"name": "c", "image": "i", "command": ["a", "b"],
            "ports": [{"containerPort": 80}]}]}}}});
        assert_eq!(
            fields_of(&old, root).paths(),
            [
                ".metadata.finalizers[=\"x/y\"]",
                ".metadata.labels.a",
                ".spec.replicas",
                ".spec.template.spec.containers[name=\"c\"]",
                ".spec.template.spec.containers[name=\"c\"].command",
                ".spec.template.spec.containers[name=\"c\"].image",
                ".spec.template.spec.containers[name=\"c\"].name",
                ".spec.template.spec.containers[name=\"c\"].ports[containerPort=80,protocol=\"TCP\"]",
                ".spec.template.spec.containers[name=\"c\"].ports[containerPort=80,protocol=\"TCP\"].containerPort",
            ]
        );
        let mut new = old.clone();
        new["spec"]["replicas"] = 2.into();
        new["spec"]["paused"] = true.into();
        new["metadata"]["labels"] = json!({"c": "d"});
        let compared = compare(&old, &new, root);
        assert_eq!(compared.modified.paths(), [".spec.replicas"]);
        assert_eq!(compared.added.paths(), [".metadata.labels.c", ".spec.paused"]);
        assert_eq!(compared.removed.paths(), [".metadata.labels.a"]);
        assert!(compare(&old, &old, root).is_same());
    }
}
