//! Protobuf: the `k8s\0` envelope and messages of every built-in kind, driven by the tags of the facts table.
//!
//! Bytes are upstream's to the last: fields in the order of their tags, scalars that are no pointers always written,
//! maps ordered by key. What is unknown to the table is skipped on reading, as upstream does.

mod decode;
mod encode;
mod wire;

use crate::facts::{self, KindFacts};
use crate::schema::Schema;
use crate::{Map, Value, object};

/// First bytes of every protobuf document of Kubernetes.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// Deepest nesting of messages that is read.
pub const DEPTH_MAX: usize = 100;

/// Why bytes are no protobuf document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    /// The document does not start with [`MAGIC`].
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoPrefix,
    /// A length or number runs past the end.
    #[error("unexpected EOF")]
    Truncated,
    /// A field with a wire type that its type never has.
    #[error("proto: wrong wireType = {wire} for field {field}")]
    WireType {
        /// Wire type found.
        wire: u8,
        /// Number of the field.
        field: u32,
    },
    /// A number of more than ten bytes.
    #[error("proto: integer overflow")]
    Overflow,
    /// Text that is not UTF-8.
    #[error("proto: string field contains invalid UTF-8")]
    Utf8,
    /// Nested deeper than [`DEPTH_MAX`].
    #[error("proto: message is nested too deeply")]
    Depth,
    /// JSON inside a message that does not parse.
    #[error("proto: embedded JSON is malformed: {0}")]
    Json(String),
    /// A kind that the table does not have.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// `apiVersion` of the document.
        api_version: String,
        /// `kind` of the document.
        kind: String,
    },
}

/// A decoded document.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object, `apiVersion` and `kind` included.
    pub value: Value,
}

/// Encodes an object of a kind with its envelope.
pub fn encode(kind: &KindFacts, value: &Value) -> Vec<u8> {
    let api_version = object::api_version(kind.group, kind.version);
    encode_as(&kind.schema, &api_version, kind.kind, value)
}

/// Encodes an object with the envelope that its own `apiVersion` and `kind` name.
pub fn encode_object(schema: &Schema, value: &Value) -> Vec<u8> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    encode_as(schema, text("apiVersion"), text("kind"), value)
}

/// Encodes an object with an envelope that names `api_version` and `kind`.
pub fn encode_as(schema: &Schema, api_version: &str, kind: &str, value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(MAGIC);
    wire::message(&mut out, 1, |out| {
        wire::string(out, 1, api_version);
        wire::string(out, 2, kind);
    });
    let message = |out: &mut Vec<u8>| encode::message(schema.root(), value, out);
    wire::message(&mut out, 2, message);
    wire::string(&mut out, 3, "");
    wire::string(&mut out, 4, "");
    out
}

/// Encodes an object's message without envelope, as lists hold their items.
pub fn encode_message(schema: &Schema, value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    encode::message(schema.root(), value, &mut out);
    out
}

/// `apiVersion` and `kind` of a document.
pub fn peek(bytes: &[u8]) -> Result<(String, String), ProtoError> {
    let envelope = decode::envelope(bytes)?;
    Ok((envelope.api_version.to_owned(), envelope.kind.to_owned()))
}

/// Decodes a document of any built-in kind. A raw JSON payload inside the envelope is read too.
pub fn decode(bytes: &[u8]) -> Result<Decoded, ProtoError> {
    let envelope = decode::envelope(bytes)?;
    if envelope.content_type == "application/json" {
        let value =
            serde_json::from_slice(envelope.raw).map_err(|error| ProtoError::Json(error.to_string()))?;
        return Ok(Decoded { value });
    }
    let (group, version) = object::split_api_version(envelope.api_version);
    let known = facts::builtin().kind(group, version, envelope.kind);
    let kind = known.ok_or_else(|| ProtoError::UnknownKind {
        api_version: envelope.api_version.to_owned(),
        kind: envelope.kind.to_owned(),
    })?;
    decode_as(&kind.schema, bytes)
}

/// Decodes a document whose schema is known already.
pub fn decode_as(schema: &Schema, bytes: &[u8]) -> Result<Decoded, ProtoError> {
    let envelope = decode::envelope(bytes)?;
    let mut value = decode_message(schema, envelope.raw)?;
    if let Some(map) = value.as_object_mut() {
        type_meta(map, envelope.api_version, envelope.kind);
    }
    Ok(Decoded { value })
}

/// Decodes a message without envelope.
pub fn decode_message(schema: &Schema, bytes: &[u8]) -> Result<Value, ProtoError> {
    decode::message(schema.root(), bytes)
}

fn type_meta(map: &mut Map, api_version: &str, kind: &str) {
    for (key, text) in [("apiVersion", api_version), ("kind", kind)] {
        if !text.is_empty() {
            map.insert(key.into(), text.into());
        }
    }
}
