//! Decodes any self-describing format (JSON, YAML, a value in memory) straight into a canonical [`Value`].
//!
//! The schema drives a serde visitor, so that a document is walked once and nothing is built that is thrown away.
//! Error texts follow upstream's JSON decoder, as clients match them.

use super::{PROBLEMS_MAX, scalar, zero};
use crate::schema::{ElementId, Ty, TypeId, Types};
use crate::{Map, Value};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// A step of the way to the value being read.
enum Step<'t> {
    Field { owner: TypeId, name: &'t str },
    Key(String),
    Index(usize),
}

/// What decoding gathers on the way.
pub(crate) struct Context<'t> {
    types: &'t Types,
    track: bool,
    steps: Vec<Step<'t>>,
    problems: Vec<String>,
    error: Option<String>,
}

impl<'t> Context<'t> {
    /// With `track`, unknown and duplicate fields are noted.
    pub(crate) fn new(types: &'t Types, track: bool) -> Self {
        Context { types, track, steps: Vec::with_capacity(16), problems: Vec::new(), error: None }
    }

    /// The first error of type or form, and the unknown and duplicate fields.
    pub(crate) fn into_parts(self) -> (Option<String>, Vec<String>) {
        (self.error, self.problems)
    }

    /// The way as strict errors show it: `spec.containers[0].image`.
    fn path(&self, last: &str) -> String {
        let mut path = String::new();
        for step in &self.steps {
            match step {
                Step::Index(at) => path.push_str(&format!("[{at}]")),
                Step::Field { name, .. } => join(&mut path, name),
                Step::Key(name) => join(&mut path, name),
            }
        }
        join(&mut path, last);
        path
    }

    fn problem(&mut self, what: &str, name: &str) {
        if self.track && self.problems.len() < PROBLEMS_MAX {
            let text = format!("{what} field {:?}", self.path(name));
            if !self.problems.contains(&text) {
                self.problems.push(text);
            }
        }
    }

    /// Records an error and returns one that ends the walk.
    fn fail<E: Error>(&mut self, text: String) -> E {
        self.error.get_or_insert(text);
        E::custom("")
    }

    fn mismatch<E: Error>(&mut self, got: &str, wanted: Ty) -> E {
        let wanted = go_type(self.types, wanted);
        let fields: Vec<&str> = self
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Field { name, .. } => Some(*name),
                _ => None,
            })
            .collect();
        let owner = self.steps.iter().rev().find_map(|step| match step {
            Step::Field { owner, .. } => Some(*owner),
            _ => None,
        });
        let place = match owner {
            Some(owner) => {
                let owner = self.types.str(self.types.def(owner).name);
                format!("struct field {owner}.{}", fields.join("."))
            }
            None => "value".to_owned(),
        };
        self.fail(format!("json: cannot unmarshal {got} into Go {place} of type {wanted}"))
    }
}

fn join(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// Name of a type as upstream's errors have it.
fn go_type(types: &Types, ty: Ty) -> String {
    match ty {
        Ty::Bool => "bool".into(),
        Ty::Int32 => "int32".into(),
        Ty::Int64 => "int64".into(),
        Ty::Double => "float64".into(),
        Ty::Bytes => "[]uint8".into(),
        Ty::Struct(id) => {
            let def = types.def(id);
            match types.packages.get(def.package as usize) {
                Some(package) => format!("{}.{}", types.str(package.version), types.str(def.name)),
                None => types.str(def.name).to_owned(),
            }
        }
        Ty::List(id) => format!("[]{}", go_type(types, types.element(id))),
        Ty::Wrapped => "[]string".into(),
        Ty::Map(id) => format!("map[string]{}", go_type(types, types.element(id))),
        _ => "string".into(),
    }
}

/// Reads one value of a type.
pub(crate) struct Seed<'c, 't> {
    context: &'c mut Context<'t>,
    ty: Ty,
}

impl<'c, 't> Seed<'c, 't> {
    pub(crate) fn new(context: &'c mut Context<'t>, ty: Ty) -> Self {
        Seed { context, ty }
    }

    fn string<E: Error>(self, text: &str) -> Result<Value, E> {
        let read = match self.ty {
            Ty::String | Ty::IntOrString | Ty::Any | Ty::Json | Ty::Raw | Ty::FieldsV1 => {
                return Ok(Value::String(text.to_owned()));
            }
            Ty::Quantity => scalar::quantity(text),
            Ty::Time => scalar::time(text),
            Ty::MicroTime => scalar::micro_time(text),
            Ty::Bytes => scalar::bytes(text),
            wanted => return Err(self.context.mismatch("string", wanted)),
        };
        read.map_err(|error| self.context.fail(error))
    }

    fn integer<E: Error>(self, value: i128) -> Result<Value, E> {
        let number = || match (i64::try_from(value), u64::try_from(value)) {
            (Ok(number), _) => Value::from(number),
            (_, Ok(number)) => Value::from(number),
            _ => Value::from(value as f64),
        };
        let fits = match self.ty {
            Ty::Int32 | Ty::IntOrString => i32::try_from(value).is_ok(),
            Ty::Int64 => i64::try_from(value).is_ok(),
            Ty::Double | Ty::Any | Ty::Json | Ty::Raw | Ty::FieldsV1 => true,
            Ty::Quantity => {
                return scalar::quantity(&value.to_string()).map_err(|error| self.context.fail(error));
            }
            wanted => return Err(self.context.mismatch("number", wanted)),
        };
        if fits {
            return Ok(number());
        }
        let wanted = if self.ty == Ty::IntOrString { Ty::Int32 } else { self.ty };
        Err(self.context.mismatch(&format!("number {value}"), wanted))
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&go_type(self.context.types, self.ty))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        match self.ty {
            Ty::Bool | Ty::Any | Ty::Json | Ty::Raw | Ty::FieldsV1 | Ty::SchemaOrBool => {
                Ok(Value::Bool(value))
            }
            wanted => Err(self.context.mismatch("bool", wanted)),
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.integer(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.integer(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        match self.ty {
            Ty::Double | Ty::Any | Ty::Json | Ty::Raw | Ty::FieldsV1 => Ok(Value::from(value)),
            Ty::Quantity => scalar::quantity(&value.to_string()).map_err(|error| self.context.fail(error)),
            Ty::Int32 | Ty::Int64 | Ty::IntOrString => {
                let wanted = if self.ty == Ty::IntOrString { Ty::Int32 } else { self.ty };
                Err(self.context.mismatch(&format!("number {value:?}"), wanted))
            }
            wanted => Err(self.context.mismatch("number", wanted)),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.string(text)
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        match self.ty {
            Ty::String | Ty::IntOrString | Ty::Any | Ty::Json => Ok(Value::String(text)),
            _ => self.string(&text),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<Value, A::Error> {
        match self.ty {
            Ty::List(element) => read_list(self.context, self.context.types.element(element), access),
            Ty::Wrapped | Ty::SchemaOrStrings => read_list(self.context, Ty::String, access),
            Ty::SchemaOrArray => {
                let element = schema_props(self.context.types);
                read_list(self.context, element, access)
            }
            Ty::Any | Ty::Json | Ty::Raw | Ty::FieldsV1 => read_list(self.context, Ty::Any, access),
            wanted => Err(self.context.mismatch("array", wanted)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Value, A::Error> {
        match self.ty {
            Ty::Struct(id) => read_struct(self.context, id, access),
            Ty::Map(element) => read_map(self.context, element, access),
            Ty::SchemaOrArray | Ty::SchemaOrBool | Ty::SchemaOrStrings => {
                match schema_props(self.context.types) {
                    Ty::Struct(id) => read_struct(self.context, id, access),
                    _ => read_any(self.context, access),
                }
            }
            Ty::Any | Ty::Json | Ty::Raw | Ty::FieldsV1 => read_any(self.context, access),
            wanted => Err(self.context.mismatch("object", wanted)),
        }
    }
}

/// The type of the schemas inside a schema.
pub(crate) fn schema_props(types: &Types) -> Ty {
    types.find("apiextensions/v1", "JSONSchemaProps").map_or(Ty::Any, Ty::Struct)
}

fn read_list<'de, A: SeqAccess<'de>>(
    context: &mut Context<'_>,
    element: Ty,
    mut access: A,
) -> Result<Value, A::Error> {
    let mut items = Vec::with_capacity(access.size_hint().unwrap_or(0).min(1024));
    loop {
        context.steps.push(Step::Index(items.len()));
        let item = access.next_element_seed(Seed::new(context, element))?;
        context.steps.pop();
        match item {
            Some(Value::Null) => items.push(zero::zero(context.types, element)),
            Some(item) => items.push(item),
            None => return Ok(Value::Array(items)),
        }
    }
}

fn read_map<'de, A: MapAccess<'de>>(
    context: &mut Context<'_>,
    element: ElementId,
    mut access: A,
) -> Result<Value, A::Error> {
    let element = context.types.element(element);
    // Strict errors name a key only for what lies below it.
    let nested = matches!(element, Ty::Struct(_) | Ty::List(_) | Ty::Map(_));
    let mut map = Map::new();
    while let Some(key) = access.next_key_seed(Key)? {
        if nested {
            context.steps.push(Step::Key(key.clone()));
        }
        let mut value = access.next_value_seed(Seed::new(context, element))?;
        if nested {
            context.steps.pop();
        }
        if value.is_null() {
            value = zero::zero(context.types, element);
        }
        if context.track && map.contains_key(&key) {
            context.problem("duplicate", &key);
        }
        map.insert(key, value);
    }
    Ok(Value::Object(map))
}

fn read_any<'de, A: MapAccess<'de>>(context: &mut Context<'_>, mut access: A) -> Result<Value, A::Error> {
    let mut map = Map::new();
    while let Some(key) = access.next_key_seed(Key)? {
        let value = access.next_value_seed(Seed::new(context, Ty::Any))?;
        if context.track && map.contains_key(&key) {
            context.problem("duplicate", &key);
        }
        map.insert(key, value);
    }
    Ok(Value::Object(map))
}

fn read_struct<'de, A: MapAccess<'de>>(
    context: &mut Context<'_>,
    id: TypeId,
    mut access: A,
) -> Result<Value, A::Error> {
    let types = context.types;
    let def = *types.def(id);
    let numbers = types.json_fields(id);
    let mut seen = 0u128;
    let mut map = Map::new();
    while let Some(name) = access.next_key_seed(Name { types, id, is_kind: def.is_kind })? {
        let position = match name {
            FieldName::Known(position) => position,
            FieldName::TypeMeta(name) => {
                if context.track && map.contains_key(name) {
                    context.problem("duplicate", name);
                }
                context.steps.push(Step::Field { owner: id, name });
                let value = access.next_value_seed(Seed::new(context, Ty::String))?;
                context.steps.pop();
                if value.as_str().is_some_and(|text| !text.is_empty()) {
                    map.insert(name.to_owned(), value);
                }
                continue;
            }
            FieldName::Unknown(name) if def.preserve_unknown => {
                let value = access.next_value_seed(Seed::new(context, Ty::Any))?;
                map.insert(name, value);
                continue;
            }
            FieldName::Unknown(name) => {
                context.problem("unknown", &name);
                access.next_value::<serde::de::IgnoredAny>()?;
                continue;
            }
        };
        let field = types.field_def(numbers[position]);
        let name = types.str(field.json);
        if seen & (1 << position) != 0 {
            context.problem("duplicate", name);
        }
        context.steps.push(Step::Field { owner: id, name });
        let value = access.next_value_seed(Seed::new(context, field.ty))?;
        context.steps.pop();
        if zero::omitted(types, field, &value) {
            seen &= !(1 << position);
            map.remove(name);
        } else {
            seen |= 1 << position;
            map.insert(name.to_owned(), value);
        }
    }
    for (position, number) in numbers.iter().enumerate() {
        if seen & (1 << position) == 0 {
            zero::fill(types, types.field_def(*number), &mut map);
        }
    }
    Ok(Value::Object(map))
}

/// Reads a key of a map; YAML's untyped keys become their text.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = String;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a key")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<String, E> {
        Ok(text)
    }
}

/// Reads the name of a field, without copying a known one.
struct Name<'t> {
    types: &'t Types,
    id: TypeId,
    is_kind: bool,
}

enum FieldName {
    Known(usize),
    TypeMeta(&'static str),
    Unknown(String),
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = FieldName;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<FieldName, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = FieldName;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a field name")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<FieldName, E> {
        Ok(match (self.types.position(self.id, text), text) {
            (Some(position), _) => FieldName::Known(position),
            (None, "kind") if self.is_kind => FieldName::TypeMeta("kind"),
            (None, "apiVersion") if self.is_kind => FieldName::TypeMeta("apiVersion"),
            (None, text) => FieldName::Unknown(text.to_owned()),
        })
    }
}
