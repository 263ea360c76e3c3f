//! Writes values as messages.

use super::wire;
use crate::codec::json::schema_props;
use crate::codec::scalar;
use crate::schema::{FieldDef, Node, Ty, TypeId, Types, flag};
use crate::{Map, Value};

/// Writes the fields of a value of a struct type.
pub(super) fn message(node: Node<'_>, value: &Value, out: &mut Vec<u8>) {
    if let (Ty::Struct(id), Some(map)) = (node.ty, value.as_object()) {
        fields(node.types, id, map, out);
    }
}

fn fields(types: &Types, id: TypeId, map: &Map, out: &mut Vec<u8>) {
    for def in types.own_fields(id) {
        if def.tag == 0 {
            continue;
        }
        match (def.flags & flag::INLINE != 0, def.ty) {
            (true, Ty::Struct(inner)) => wire::message(out, def.tag, |out| fields(types, inner, map, out)),
            _ => field(types, def, map.get(types.str(def.json)), out),
        }
    }
}

static NOTHING: Value = Value::Null;

fn field(types: &Types, def: &FieldDef, value: Option<&Value>, out: &mut Vec<u8>) {
    let value = value.unwrap_or(&NOTHING);
    match def.ty {
        Ty::List(element) => {
            for item in value.as_array().into_iter().flatten() {
                single(types, types.element(element), def.tag, item, out);
            }
        }
        Ty::Map(element) => {
            let element = types.element(element);
            for (key, value) in sorted(value) {
                wire::message(out, def.tag, |out| {
                    wire::string(out, 1, key);
                    single(types, element, 2, value, out);
                });
            }
        }
        // Bytes and wrapped lists are references in Go: absent is not empty.
        Ty::Bytes | Ty::Wrapped if value.is_null() => {}
        _ if value.is_null() && def.flags & flag::POINTER != 0 => {}
        ty => single(types, ty, def.tag, value, out),
    }
}

fn sorted(value: &Value) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = value.as_object().into_iter().flatten().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Writes one value, zero where it does not fit its type.
fn single(types: &Types, ty: Ty, tag: u16, value: &Value, out: &mut Vec<u8>) {
    match ty {
        Ty::Bool => wire::number(out, tag, value.as_bool().unwrap_or_default().into()),
        Ty::Int32 | Ty::Int64 => wire::number(out, tag, value.as_i64().unwrap_or_default()),
        Ty::Double => wire::double(out, tag, value.as_f64().unwrap_or_default()),
        Ty::String => wire::string(out, tag, text(value)),
        Ty::Bytes => wire::bytes(out, tag, &scalar::from_base64(text(value))),
        Ty::Quantity => {
            let text = if value.is_null() { "0" } else { text(value) };
            wire::message(out, tag, |out| wire::string(out, 1, text));
        }
        Ty::IntOrString => wire::message(out, tag, |out| {
            wire::number(out, 1, value.is_string().into());
            wire::number(out, 2, value.as_i64().unwrap_or_default());
            wire::string(out, 3, text(value));
        }),
        Ty::Time | Ty::MicroTime => wire::message(out, tag, |out| {
            if let Some((seconds, nanos)) = scalar::time_parts(text(value)) {
                wire::number(out, 1, seconds);
                wire::number(out, 2, nanos.into());
            }
        }),
        Ty::FieldsV1 | Ty::Raw | Ty::Json => wire::message(out, tag, |out| {
            if !value.is_null() {
                let json = serde_json::to_vec(value).expect("a value is always writable as JSON");
                wire::bytes(out, 1, &json);
            }
        }),
        Ty::Struct(id) => wire::message(out, tag, |out| match value.as_object() {
            Some(map) => fields(types, id, map, out),
            None => fields(types, id, &Map::new(), out),
        }),
        Ty::Wrapped => wire::message(out, tag, |out| {
            for item in value.as_array().into_iter().flatten() {
                wire::string(out, 1, text(item));
            }
        }),
        Ty::SchemaOrArray => wire::message(out, tag, |out| schema_or_list(types, value, true, out)),
        Ty::SchemaOrStrings => wire::message(out, tag, |out| schema_or_list(types, value, false, out)),
        Ty::SchemaOrBool => wire::message(out, tag, |out| {
            // A schema allows by being there.
            wire::number(out, 1, (value.is_object() || *value == Value::Bool(true)).into());
            if value.is_object() {
                single(types, schema_props(types), 2, value, out);
            }
        }),
        Ty::Any | Ty::List(_) | Ty::Map(_) => {}
    }
}

fn schema_or_list(types: &Types, value: &Value, of_schemas: bool, out: &mut Vec<u8>) {
    if value.is_object() {
        single(types, schema_props(types), 1, value, out);
    }
    for item in value.as_array().into_iter().flatten() {
        single(types, if of_schemas { schema_props(types) } else { Ty::String }, 2, item, out);
    }
}
