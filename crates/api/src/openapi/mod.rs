//! Material for the OpenAPI documents: definitions of the built-in types, from the facts table, with the
//! documentation that the `k8s-openapi` crate carries.
//!
//! Everything is computed when asked for and kept by nobody here: the documents are large and rarely read. A caller
//! serialises what it gets and lets go of it.

mod descriptions;

use crate::facts::{self, ResourceFacts};
use crate::schema::{Field, ListType, Node, Ty, TypeId, Types};
use crate::{Map, Value};
use serde_json::json;
use std::collections::{BTreeSet, HashMap};

/// Which OpenAPI a document is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// OpenAPI 2.0 (`/openapi/v2`).
    V2,
    /// OpenAPI 3.0 (`/openapi/v3`).
    V3,
}

impl Flavor {
    fn reference(self, name: &str) -> Value {
        match self {
            Flavor::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Flavor::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }
}

/// Name of a kind's model, as `io.k8s.api.core.v1.Pod`.
pub fn model_name(group: &str, version: &str, kind: &str) -> Option<String> {
    facts::builtin().kind(group, version, kind)?.schema.root().model_name()
}

/// Definitions of everything that is served by default.
pub fn definitions(flavor: Flavor) -> Map {
    let resources = facts::builtin().resources().iter().filter(|resource| resource.served);
    build(resources, flavor)
}

/// Definitions that the document of one group and version needs.
pub fn group_definitions(group: &str, version: &str, flavor: Flavor) -> Map {
    let resources = facts::builtin().resources().iter();
    build(resources.filter(|resource| (resource.group, resource.version) == (group, version)), flavor)
}

/// Kinds of `meta/v1` that every document has.
const META_KINDS: [&str; 8] = [
    "APIGroup",
    "APIGroupList",
    "APIResourceList",
    "APIVersions",
    "DeleteOptions",
    "Patch",
    "Status",
    "WatchEvent",
];

fn build<'r>(resources: impl Iterator<Item = &'r ResourceFacts>, flavor: Flavor) -> Map {
    let facts = facts::builtin();
    let types = facts.types();
    let mut roots: Vec<TypeId> = Vec::new();
    let mut groups = BTreeSet::new();
    for resource in resources {
        groups.insert((resource.group, resource.version));
        let list = format!("{}List", resource.kind);
        let own = [resource.kind, list.as_str()].map(|kind| (resource.group, resource.version, kind));
        let below = resource.subresources.iter().map(|sub| (sub.group, sub.version, sub.kind));
        for (group, version, kind) in own.into_iter().chain(below) {
            groups.insert((group, version));
            roots.extend(facts.kind(group, version, kind).and_then(|kind| struct_id(kind.schema.root())));
        }
    }
    roots.extend(META_KINDS.iter().filter_map(|name| types.find("meta/v1", name)));
    let mut builder = Builder { types, flavor, out: Map::new(), pending: roots, seen: BTreeSet::new() };
    builder.run();
    let mut out = builder.out;
    name_kinds(&mut out, &groups);
    descriptions::add(&mut out, |group, version| groups.contains(&(group, version)));
    out
}

fn struct_id(node: Node<'_>) -> Option<TypeId> {
    match node.ty() {
        Ty::Struct(id) => Some(id),
        _ => None,
    }
}

/// Tells of every definition that is a kind which group, version and kind it is.
fn name_kinds(out: &mut Map, groups: &BTreeSet<(&str, &str)>) {
    let mut named: HashMap<String, Vec<Value>> = HashMap::new();
    for kind in facts::builtin().kinds() {
        let Some(name) = kind.schema.root().model_name() else { continue };
        let names = named.entry(name).or_default();
        if kind.group == "meta.k8s.io" {
            // Options and events are registered everywhere; the other kinds of the package in the core group.
            let everywhere = matches!(kind.kind, "DeleteOptions" | "WatchEvent");
            let spread = groups.iter().filter(|group| everywhere || **group == ("", "v1"));
            names.extend(spread.map(|(g, v)| json!({"group": g, "version": v, "kind": kind.kind})));
        } else {
            names.push(json!({"group": kind.group, "version": kind.version, "kind": kind.kind}));
        }
    }
    for (name, definition) in out.iter_mut() {
        if let (Some(kinds), Some(definition)) = (named.remove(name), definition.as_object_mut())
            && !kinds.is_empty()
        {
            definition.insert("x-kubernetes-group-version-kind".into(), Value::Array(kinds));
        }
    }
}

struct Builder<'t> {
    types: &'t Types,
    flavor: Flavor,
    out: Map,
    pending: Vec<TypeId>,
    seen: BTreeSet<u32>,
}

impl Builder<'_> {
    fn run(&mut self) {
        while let Some(id) = self.pending.pop() {
            if self.seen.insert(id.0) {
                let node = Node { types: self.types, ty: Ty::Struct(id) };
                let definition = self.definition(node);
                self.out.insert(node.model_name().expect("a struct has a name"), definition);
            }
        }
    }

    fn definition(&mut self, node: Node<'_>) -> Value {
        let mut properties = Map::new();
        if node.is_kind() {
            properties.insert("apiVersion".into(), json!({"type": "string"}));
            properties.insert("kind".into(), json!({"type": "string"}));
        }
        let mut required = Vec::new();
        for field in node.fields() {
            if field.is_required() {
                required.push(Value::from(field.json()));
            }
            properties.insert(field.json().to_owned(), self.property(field));
        }
        let mut definition = Map::from_iter([("type".to_owned(), Value::from("object"))]);
        if !properties.is_empty() {
            definition.insert("properties".into(), Value::Object(properties));
        }
        if !required.is_empty() {
            definition.insert("required".into(), Value::Array(required));
        }
        if node.is_atomic_struct() {
            definition.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        Value::Object(definition)
    }

    fn property(&mut self, field: Field<'_>) -> Value {
        let mut property = self.ty(field.node());
        let Some(map) = property.as_object_mut() else { return property };
        if let Some(values) = field.enum_values() {
            let target = match field.node().ty() {
                Ty::List(_) => map.get_mut("items").and_then(Value::as_object_mut),
                _ => Some(&mut *map),
            };
            if let Some(target) = target.filter(|target| target.get("type") == Some(&json!("string"))) {
                target.insert("enum".into(), values.collect());
            }
        }
        if let Some(default) = field.default().and_then(|text| serde_json::from_str(text).ok()) {
            map.insert("default".into(), default);
        } else if self.flavor == Flavor::V3
            && !field.is_pointer()
            && let Some(default) = zero(field)
        {
            map.insert("default".into(), default);
        }
        if field.declares_list_type() {
            let name = match field.list_type() {
                ListType::Atomic => "atomic",
                ListType::Set => "set",
                ListType::Map => "map",
            };
            map.insert("x-kubernetes-list-type".into(), name.into());
        }
        let keys: Vec<&str> = field.list_keys().collect();
        if !keys.is_empty() {
            map.insert("x-kubernetes-list-map-keys".into(), keys.into());
        }
        if field.is_atomic_map() {
            map.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        let strategies = [(field.patch_merges(), "merge"), (field.patch_replaces(), "replace")];
        let retain = (field.patch_retains_keys(), "retainKeys");
        let strategy: Vec<&str> =
            strategies.into_iter().chain([retain]).filter(|(on, _)| *on).map(|(_, name)| name).collect();
        if !strategy.is_empty() {
            map.insert("x-kubernetes-patch-strategy".into(), strategy.join(",").into());
        }
        if let Some(key) = field.patch_merge_key() {
            map.insert("x-kubernetes-patch-merge-key".into(), key.into());
        }
        // In OpenAPI 3.0, what stands beside a reference is ignored.
        if self.flavor == Flavor::V3
            && let Some(reference) = map.remove("$ref")
        {
            map.insert("allOf".into(), json!([{ "$ref": reference }]));
        }
        property
    }

    fn ty(&mut self, node: Node<'_>) -> Value {
        match node.ty() {
            Ty::Bool => json!({"type": "boolean"}),
            Ty::Int32 => json!({"type": "integer", "format": "int32"}),
            Ty::Int64 => json!({"type": "integer", "format": "int64"}),
            Ty::Double => json!({"type": "number", "format": "double"}),
            Ty::String => json!({"type": "string"}),
            Ty::Bytes => json!({"type": "string", "format": "byte"}),
            Ty::Any => json!({"type": "object"}),
            Ty::Struct(id) => {
                self.pending.push(id);
                let name = node.model_name().expect("a struct has a name");
                self.flavor.reference(&name)
            }
            Ty::List(_) | Ty::Wrapped => {
                let items = node.element().map(|element| self.element(element));
                json!({"type": "array", "items": items})
            }
            Ty::Map(_) => {
                let values = node.element().map(|element| self.element(element));
                json!({"type": "object", "additionalProperties": values})
            }
            special => self.special(special),
        }
    }

    fn element(&mut self, node: Node<'_>) -> Value {
        let mut element = self.ty(node);
        if self.flavor == Flavor::V3
            && let Some(map) = element.as_object_mut()
        {
            if let Some(reference) = map.remove("$ref") {
                map.insert("allOf".into(), json!([{ "$ref": reference }]));
                if matches!(node.ty(), Ty::Struct(_)) {
                    map.insert("default".into(), json!({}));
                }
            } else if node.ty() == Ty::String {
                map.insert("default".into(), "".into());
            }
        }
        element
    }

    /// Refers to one of the types that have a form of their own, defining it on the way.
    fn special(&mut self, ty: Ty) -> Value {
        const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
        const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";
        let v3 = self.flavor == Flavor::V3;
        let (name, definition) = match ty {
            Ty::Time => (format!("{META}.Time"), json!({"type": "string", "format": "date-time"})),
            Ty::MicroTime => (format!("{META}.MicroTime"), json!({"type": "string", "format": "date-time"})),
            Ty::FieldsV1 => (format!("{META}.FieldsV1"), json!({"type": "object"})),
            Ty::Quantity => (
                "io.k8s.apimachinery.pkg.api.resource.Quantity".to_owned(),
                if v3 {
                    json!({"oneOf": [{"type": "string"}, {"type": "number"}]})
                } else {
                    json!({"type": "string"})
                },
            ),
            Ty::IntOrString => (
                "io.k8s.apimachinery.pkg.util.intstr.IntOrString".to_owned(),
                if v3 {
                    json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"})
                } else {
                    json!({"type": "string", "format": "int-or-string"})
                },
            ),
            Ty::Json => (format!("{EXTENSIONS}.JSON"), json!({})),
            Ty::SchemaOrArray => (format!("{EXTENSIONS}.JSONSchemaPropsOrArray"), json!({})),
            Ty::SchemaOrBool => (format!("{EXTENSIONS}.JSONSchemaPropsOrBool"), json!({})),
            Ty::SchemaOrStrings => (format!("{EXTENSIONS}.JSONSchemaPropsOrStringArray"), json!({})),
            _ => ("io.k8s.apimachinery.pkg.runtime.RawExtension".to_owned(), json!({"type": "object"})),
        };
        let reference = self.flavor.reference(&name);
        self.out.entry(name).or_insert(definition);
        reference
    }
}

/// The default that version 3 documents give for a field that is always written.
fn zero(field: Field<'_>) -> Option<Value> {
    match field.node().ty() {
        Ty::Struct(_) => Some(json!({})),
        Ty::String if field.is_required() => Some("".into()),
        Ty::Int32 | Ty::Int64 if field.is_required() => Some(0.into()),
        Ty::Bool if field.is_required() => Some(false.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
