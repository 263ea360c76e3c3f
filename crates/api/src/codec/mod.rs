//! Reading and writing objects: JSON, YAML and protobuf, all driven by schema.
//!
//! Decoding yields the canonical form: what upstream would write had it read the same document. Absent and `null` are
//! one, fields that `omitempty` would drop are dropped, fields that upstream always writes are there, times,
//! quantities and bytes are in their normal form. So equal objects are equal values, whichever way they came in.

mod json;
pub mod proto;
pub(crate) mod scalar;
pub(crate) mod zero;

use crate::Value;
use crate::schema::Schema;
use serde::de::DeserializeSeed as _;

/// Most unknown or duplicate fields that one answer names.
pub const PROBLEMS_MAX: usize = 100;

/// How an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MediaType {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

impl MediaType {
    /// The media type of a `Content-Type`, parameters ignored; JSON patches are not objects.
    pub fn from_content_type(text: &str) -> Option<MediaType> {
        match text.split(';').next().unwrap_or_default().trim() {
            "" | "application/json" => Some(MediaType::Json),
            "application/yaml" => Some(MediaType::Yaml),
            "application/vnd.kubernetes.protobuf" => Some(MediaType::Protobuf),
            _ => None,
        }
    }

    /// The name for a `Content-Type`.
    pub fn as_str(self) -> &'static str {
        match self {
            MediaType::Json => "application/json",
            MediaType::Yaml => "application/yaml",
            MediaType::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// What to do about unknown and duplicate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them.
    Ignore,
    /// Drop them and say so.
    #[default]
    Warn,
    /// Refuse the object.
    Strict,
}

impl FieldValidation {
    /// Parses the `fieldValidation` parameter; empty is the default.
    pub fn parse(text: &str) -> Option<FieldValidation> {
        match text {
            "" | "Warn" => Some(FieldValidation::Warn),
            "Ignore" => Some(FieldValidation::Ignore),
            "Strict" => Some(FieldValidation::Strict),
            _ => None,
        }
    }
}

/// A decoded object.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object in canonical form.
    pub value: Value,
    /// One text for each unknown or duplicate field, as `unknown field "spec.foo"`.
    pub warnings: Vec<String>,
}

/// Why bytes are not an object of the schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not a document at all.
    #[error("{0}")]
    Syntax(String),
    /// A value of the wrong type or form.
    #[error("{0}")]
    Type(String),
    /// Unknown or duplicate fields under [`FieldValidation::Strict`].
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
    /// Bytes that are no protobuf message of the kind.
    #[error(transparent)]
    Proto(#[from] proto::ProtoError),
}

impl DecodeError {
    /// The text of the 400 answer for an object that was to be of `kind`.
    pub fn bad_request(&self, kind: &str, version: &str) -> String {
        format!("{kind} in version {version:?} cannot be handled as a {kind}: {self}")
    }
}

/// Decodes one object.
pub fn decode(
    bytes: &[u8],
    media: MediaType,
    schema: &Schema,
    validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    let mut context = json::Context::new(schema.root().types, validation != FieldValidation::Ignore);
    let seed = json::Seed::new(&mut context, schema.root().ty);
    let read = match media {
        MediaType::Json => {
            let mut deserializer = serde_json::Deserializer::from_slice(bytes);
            seed.deserialize(&mut deserializer)
                .and_then(|value| deserializer.end().map(|()| value))
                .map_err(|error| json_syntax(&error))
        }
        MediaType::Yaml => seed
            .deserialize(serde_yaml_ng::Deserializer::from_slice(bytes))
            .map_err(|error| format!("error converting YAML to JSON: yaml: {error}")),
        MediaType::Protobuf => {
            let value = proto::decode(bytes)?.value;
            return Ok(Decoded { value, warnings: Vec::new() });
        }
    };
    finish(read, context, validation)
}

/// Brings a value that a patch or a conversion made to the canonical form of the schema.
pub fn normalize(value: Value, schema: &Schema, validation: FieldValidation) -> Result<Decoded, DecodeError> {
    let mut context = json::Context::new(schema.root().types, validation != FieldValidation::Ignore);
    let read = json::Seed::new(&mut context, schema.root().ty).deserialize(value);
    finish(read.map_err(|error| json_syntax(&error)), context, validation)
}

fn finish(
    read: Result<Value, String>,
    context: json::Context<'_>,
    validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    let (error, problems) = context.into_parts();
    match (read, error) {
        (_, Some(error)) => Err(DecodeError::Type(error)),
        (Err(error), None) => Err(DecodeError::Syntax(error)),
        (Ok(_), None) if validation == FieldValidation::Strict && !problems.is_empty() => {
            Err(DecodeError::Strict(problems))
        }
        (Ok(value), None) => Ok(Decoded { value, warnings: problems }),
    }
}

fn json_syntax(error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Eof => "unexpected end of JSON input".into(),
        _ => format!("invalid JSON: {error}"),
    }
}

/// `apiVersion` and `kind` of a document, without decoding the rest. Absent ones are empty.
pub fn peek(bytes: &[u8], media: MediaType) -> Result<(String, String), DecodeError> {
    #[derive(serde::Deserialize)]
    struct TypeMeta {
        #[serde(default, rename = "apiVersion")]
        api_version: Option<String>,
        #[serde(default)]
        kind: Option<String>,
    }
    let meta: TypeMeta = match media {
        MediaType::Json => serde_json::from_slice(bytes).map_err(|error| {
            DecodeError::Syntax(format!("couldn't get version/kind; json parse error: {error}"))
        })?,
        MediaType::Yaml => serde_yaml_ng::from_slice(bytes).map_err(|error| {
            DecodeError::Syntax(format!("couldn't get version/kind; yaml parse error: {error}"))
        })?,
        MediaType::Protobuf => return Ok(proto::peek(bytes)?),
    };
    Ok((meta.api_version.unwrap_or_default(), meta.kind.unwrap_or_default()))
}

/// Encodes one object. Values that are no object of the kind leave out what does not fit (protobuf only).
pub fn encode(value: &Value, media: MediaType, schema: &Schema) -> Vec<u8> {
    match media {
        MediaType::Json => serde_json::to_vec(value).expect("a value is always writable as JSON"),
        MediaType::Yaml => {
            serde_yaml_ng::to_string(value).expect("a value is always writable as YAML").into_bytes()
        }
        MediaType::Protobuf => proto::encode_object(schema, value),
    }
}

#[cfg(test)]
mod tests;
