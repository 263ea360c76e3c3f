//! What upstream writes for a field that holds nothing, and which values count as nothing.

use crate::schema::{FieldDef, Ty, TypeId, Types, flag};
use crate::{Map, Value};

/// Value of a type that nothing was read into.
pub(crate) fn zero(types: &Types, ty: Ty) -> Value {
    match ty {
        Ty::Bool => Value::Bool(false),
        Ty::Int32 | Ty::Int64 | Ty::IntOrString => Value::from(0),
        Ty::Double => Value::from(0),
        Ty::String => Value::String(String::new()),
        Ty::Quantity => Value::String("0".into()),
        Ty::Struct(id) => zero_struct(types, id),
        _ => Value::Null,
    }
}

fn zero_struct(types: &Types, id: TypeId) -> Value {
    let mut map = Map::new();
    for number in types.json_fields(id) {
        fill(types, types.field_def(*number), &mut map);
    }
    Value::Object(map)
}

/// Adds to `map` what upstream writes for an absent field, if anything.
pub(crate) fn fill(types: &Types, def: &FieldDef, map: &mut Map) {
    if let Some(value) = absent(types, def) {
        map.insert(types.str(def.json).to_owned(), value);
    }
}

fn absent(types: &Types, def: &FieldDef) -> Option<Value> {
    if def.flags & flag::OMITZERO != 0 {
        return None;
    }
    let omitempty = def.flags & flag::OMITEMPTY != 0;
    if def.flags & flag::POINTER != 0 {
        return if omitempty { None } else { Some(Value::Null) };
    }
    // Go's omitempty does not touch structs, and these are structs there.
    let is_struct = matches!(
        def.ty,
        Ty::Struct(_) | Ty::Time | Ty::MicroTime | Ty::Raw | Ty::Json | Ty::Quantity | Ty::IntOrString
    );
    if omitempty && !is_struct { None } else { Some(zero(types, def.ty)) }
}

/// Whether upstream leaves out a field that holds this value.
pub(crate) fn omitted(types: &Types, def: &FieldDef, value: &Value) -> bool {
    if value.is_null() {
        return true;
    }
    if def.flags & flag::OMITZERO != 0 && def.flags & flag::POINTER == 0 {
        return *value == zero(types, def.ty);
    }
    if def.flags & flag::OMITEMPTY == 0 || def.flags & flag::POINTER != 0 {
        return false;
    }
    match def.ty {
        Ty::Bool => *value == Value::Bool(false),
        Ty::Int32 | Ty::Int64 | Ty::Double => value.as_f64() == Some(0.0),
        Ty::String | Ty::Bytes => value.as_str() == Some(""),
        Ty::List(_) | Ty::Wrapped => value.as_array().is_some_and(Vec::is_empty),
        Ty::Map(_) => value.as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}
