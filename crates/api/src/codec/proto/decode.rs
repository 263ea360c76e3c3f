//! Reads messages into canonical values.

use super::wire::{BYTES, FIXED64, Raw, Reader, VARINT};
use super::{DEPTH_MAX, MAGIC, ProtoError};
use crate::codec::json::schema_props;
use crate::codec::{scalar, zero};
use crate::schema::{FieldDef, Node, Ty, TypeId, Types, flag};
use crate::{Map, Value};

/// `runtime.Unknown`, which every document is wrapped in.
#[derive(Default)]
pub(super) struct Envelope<'b> {
    pub(super) api_version: &'b str,
    pub(super) kind: &'b str,
    pub(super) raw: &'b [u8],
    pub(super) content_type: &'b str,
}

pub(super) fn envelope(bytes: &[u8]) -> Result<Envelope<'_>, ProtoError> {
    let body = bytes.strip_prefix(MAGIC).ok_or(ProtoError::NoPrefix)?;
    let mut envelope = Envelope::default();
    let mut reader = Reader::new(body);
    while let Some((field, raw)) = reader.next()? {
        match (field, raw) {
            (1, Raw::Bytes(meta)) => {
                let mut reader = Reader::new(meta);
                while let Some((field, raw)) = reader.next()? {
                    match (field, raw) {
                        (1, Raw::Bytes(text)) => envelope.api_version = utf8(text)?,
                        (2, Raw::Bytes(text)) => envelope.kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Raw::Bytes(raw)) => envelope.raw = raw,
            (4, Raw::Bytes(text)) => envelope.content_type = utf8(text)?,
            _ => {}
        }
    }
    Ok(envelope)
}

fn utf8(bytes: &[u8]) -> Result<&str, ProtoError> {
    std::str::from_utf8(bytes).map_err(|_| ProtoError::Utf8)
}

pub(super) fn message(node: Node<'_>, bytes: &[u8]) -> Result<Value, ProtoError> {
    match node.ty {
        Ty::Struct(id) => read_struct(node.types, id, bytes, DEPTH_MAX),
        _ => Ok(Value::Null),
    }
}

fn read_struct(types: &Types, id: TypeId, bytes: &[u8], depth: usize) -> Result<Value, ProtoError> {
    let mut map = Map::new();
    read_fields(types, id, bytes, depth, &mut map)?;
    for number in types.json_fields(id) {
        let def = types.field_def(*number);
        let name = types.str(def.json);
        match map.get(name) {
            Some(value) if !zero::omitted(types, def, value) => {}
            Some(_) => {
                map.remove(name);
                zero::fill(types, def, &mut map);
            }
            None => zero::fill(types, def, &mut map),
        }
    }
    Ok(Value::Object(map))
}

fn read_fields(
    types: &Types,
    id: TypeId,
    bytes: &[u8],
    depth: usize,
    map: &mut Map,
) -> Result<(), ProtoError> {
    let depth = depth.checked_sub(1).ok_or(ProtoError::Depth)?;
    let fields = types.own_fields(id);
    let mut reader = Reader::new(bytes);
    while let Some((number, raw)) = reader.next()? {
        let Ok(at) = fields.binary_search_by(|def| u32::from(def.tag).cmp(&number)) else { continue };
        let def = &fields[at];
        match (def.flags & flag::INLINE != 0, def.ty) {
            (true, Ty::Struct(inner)) => read_fields(types, inner, payload(raw, number)?, depth, map)?,
            _ => read_field(types, def, raw, depth, map)?,
        }
    }
    Ok(())
}

fn read_field(
    types: &Types,
    def: &FieldDef,
    raw: Raw<'_>,
    depth: usize,
    map: &mut Map,
) -> Result<(), ProtoError> {
    let name = types.str(def.json);
    let tag = u32::from(def.tag);
    match def.ty {
        Ty::List(element) => {
            let element = types.element(element);
            let list = map.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(items) = list else { return Ok(()) };
            match (element, raw) {
                // Numbers may come packed.
                (Ty::Int32 | Ty::Int64, Raw::Bytes(packed)) => {
                    let mut rest = packed;
                    while !rest.is_empty() {
                        let (value, used) = varint(rest)?;
                        items.push(Value::from(value as i64));
                        rest = &rest[used..];
                    }
                }
                (element, raw) => items.push(single(types, element, tag, raw, depth)?),
            }
        }
        Ty::Map(element) => {
            let (key, value) = entry(types, types.element(element), payload(raw, tag)?, depth)?;
            let entries = map.entry(name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(entries) = entries {
                entries.insert(key, value);
            }
        }
        ty => {
            let value = single(types, ty, tag, raw, depth)?;
            map.insert(name.to_owned(), value);
        }
    }
    Ok(())
}

fn varint(bytes: &[u8]) -> Result<(u64, usize), ProtoError> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if *byte < 0x80 {
            return Ok((value, at + 1));
        }
    }
    Err(ProtoError::Truncated)
}

fn entry(types: &Types, element: Ty, bytes: &[u8], depth: usize) -> Result<(String, Value), ProtoError> {
    let mut key = String::new();
    let mut value = None;
    let mut reader = Reader::new(bytes);
    while let Some((field, raw)) = reader.next()? {
        match (field, raw) {
            (1, Raw::Bytes(text)) => key = utf8(text)?.to_owned(),
            (2, raw) => value = Some(single(types, element, 2, raw, depth)?),
            _ => {}
        }
    }
    let value = value.unwrap_or_else(|| match element {
        Ty::Bytes => Value::String(String::new()),
        element => zero::zero(types, element),
    });
    Ok((key, value))
}

fn payload(raw: Raw<'_>, field: u32) -> Result<&[u8], ProtoError> {
    match raw {
        Raw::Bytes(bytes) => Ok(bytes),
        Raw::Varint(_) => Err(ProtoError::WireType { wire: VARINT, field }),
        Raw::Fixed64(_) => Err(ProtoError::WireType { wire: FIXED64, field }),
    }
}

fn single(types: &Types, ty: Ty, field: u32, raw: Raw<'_>, depth: usize) -> Result<Value, ProtoError> {
    let depth = depth.checked_sub(1).ok_or(ProtoError::Depth)?;
    let number = match (ty, &raw) {
        (Ty::Bool, Raw::Varint(value)) => return Ok(Value::Bool(*value != 0)),
        (Ty::Int32, Raw::Varint(value)) => return Ok(Value::from(*value as i32)),
        (Ty::Int64, Raw::Varint(value)) => return Ok(Value::from(*value as i64)),
        (Ty::Double, Raw::Fixed64(bits)) => return Ok(double(f64::from_bits(*bits))),
        (Ty::Bool | Ty::Int32 | Ty::Int64 | Ty::Double, _) => true,
        _ => false,
    };
    if number {
        return Err(ProtoError::WireType { wire: BYTES, field });
    }
    let bytes = payload(raw, field)?;
    Ok(match ty {
        Ty::String => Value::String(utf8(bytes)?.to_owned()),
        Ty::Bytes => Value::String(scalar::to_base64(bytes)),
        Ty::Quantity => match first_bytes(bytes)? {
            Some(text) => scalar::quantity(utf8(text)?).map_err(ProtoError::Json)?,
            None => Value::String("0".into()),
        },
        Ty::IntOrString => int_or_string(bytes)?,
        Ty::Time => time(bytes)?.map_or(Value::Null, |(seconds, _)| scalar::format_time(seconds)),
        Ty::MicroTime => time(bytes)?.map_or(Value::Null, |(s, nanos)| scalar::format_micro_time(s, nanos)),
        Ty::FieldsV1 | Ty::Raw | Ty::Json => match first_bytes(bytes)? {
            Some([]) | None => Value::Null,
            Some(json) => {
                serde_json::from_slice(json).map_err(|error| ProtoError::Json(error.to_string()))?
            }
        },
        Ty::Struct(id) => read_struct(types, id, bytes, depth)?,
        Ty::Wrapped => {
            let mut items = Vec::new();
            let mut reader = Reader::new(bytes);
            while let Some((field, raw)) = reader.next()? {
                if let (1, Raw::Bytes(text)) = (field, raw) {
                    items.push(Value::String(utf8(text)?.to_owned()));
                }
            }
            Value::Array(items)
        }
        Ty::SchemaOrArray | Ty::SchemaOrBool | Ty::SchemaOrStrings => schema_or(types, ty, bytes, depth)?,
        _ => Value::Null,
    })
}

/// Whole numbers are integers in JSON, as upstream writes them.
fn double(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { Value::from(value as i64) } else { Value::from(value) }
}

/// The bytes of field 1.
fn first_bytes(bytes: &[u8]) -> Result<Option<&[u8]>, ProtoError> {
    let mut found = None;
    let mut reader = Reader::new(bytes);
    while let Some((field, raw)) = reader.next()? {
        if let (1, Raw::Bytes(value)) = (field, raw) {
            found = Some(value);
        }
    }
    Ok(found)
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtoError> {
    let (mut is_string, mut number, mut text) = (false, 0, "");
    let mut reader = Reader::new(bytes);
    while let Some((field, raw)) = reader.next()? {
        match (field, raw) {
            (1, Raw::Varint(value)) => is_string = value != 0,
            (2, Raw::Varint(value)) => number = value as i32,
            (3, Raw::Bytes(value)) => text = utf8(value)?,
            _ => {}
        }
    }
    Ok(if is_string { Value::from(text) } else { Value::from(number) })
}

fn time(bytes: &[u8]) -> Result<Option<(i64, i32)>, ProtoError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(bytes);
    while let Some((field, raw)) = reader.next()? {
        match (field, raw) {
            (1, Raw::Varint(value)) => seconds = value as i64,
            (2, Raw::Varint(value)) => nanos = value as i32,
            _ => {}
        }
    }
    Ok(Some((seconds, nanos)))
}

fn schema_or(types: &Types, ty: Ty, bytes: &[u8], depth: usize) -> Result<Value, ProtoError> {
    let schema_field = if ty == Ty::SchemaOrBool { 2 } else { 1 };
    let (mut schema, mut allows, mut items) = (None, false, Vec::new());
    let mut reader = Reader::new(bytes);
    while let Some((field, raw)) = reader.next()? {
        match (field, raw) {
            (field, Raw::Bytes(bytes)) if field == schema_field => {
                schema = Some(single(types, schema_props(types), field, Raw::Bytes(bytes), depth)?);
            }
            (1, Raw::Varint(value)) => allows = value != 0,
            (2, Raw::Bytes(bytes)) if ty == Ty::SchemaOrArray => {
                items.push(single(types, schema_props(types), 2, Raw::Bytes(bytes), depth)?);
            }
            (2, Raw::Bytes(bytes)) => items.push(Value::String(utf8(bytes)?.to_owned())),
            _ => {}
        }
    }
    Ok(match (schema, ty) {
        (Some(schema), _) => schema,
        (None, Ty::SchemaOrBool) => Value::Bool(allows),
        (None, _) if items.is_empty() => Value::Null,
        (None, _) => Value::Array(items),
    })
}
