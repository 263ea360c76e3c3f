//! The protobuf form of an OpenAPI v2 document, as gnostic's `openapi_v2.Document` defines it.
//!
//! A hand-written encoder for the parts that our documents have: field numbers are gnostic's.

use isopod_api::{Map, Value};

/// A protobuf message being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, tag: u32, bytes: &[u8]) {
        self.varint(u64::from(tag << 3 | 2));
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, tag: u32, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str).filter(|t| !t.is_empty()) {
            self.bytes(tag, text.as_bytes());
        }
    }

    fn texts(&mut self, tag: u32, value: Option<&Value>) {
        for text in value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            self.bytes(tag, text.as_bytes());
        }
    }

    fn flag(&mut self, tag: u32, value: Option<&Value>) {
        if value == Some(&Value::Bool(true)) {
            self.varint(u64::from(tag << 3));
            self.varint(1);
        }
    }

    fn whole(&mut self, tag: u32, value: Option<&Value>) {
        if let Some(number) = value.and_then(Value::as_i64).filter(|n| *n != 0) {
            self.varint(u64::from(tag << 3));
            self.varint(number as u64);
        }
    }

    fn double(&mut self, tag: u32, value: Option<&Value>) {
        if let Some(number) = value.and_then(Value::as_f64) {
            self.varint(u64::from(tag << 3 | 1));
            self.0.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn message(&mut self, tag: u32, message: Message) {
        self.bytes(tag, &message.0);
    }
}

/// `NamedX { name = 1, value = 2 }`.
fn named(name: &str, value: Message) -> Message {
    let mut message = Message::default();
    message.bytes(1, name.as_bytes());
    message.message(2, value);
    message
}

/// `Any { yaml = 2 }`; JSON is YAML.
fn any(value: &Value) -> Message {
    let mut message = Message::default();
    message.bytes(2, value.to_string().as_bytes());
    message
}

fn extensions(message: &mut Message, tag: u32, object: &Map) {
    for (key, value) in object.iter().filter(|(k, _)| k.starts_with("x-")) {
        message.message(tag, named(key, any(value)));
    }
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// Encodes a document.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, document.get("swagger"));
    let mut info = Message::default();
    info.text(1, document["info"].get("title"));
    info.text(2, document["info"].get("version"));
    out.message(2, info);
    let mut paths = Message::default();
    for (path, item) in object(&document["paths"]) {
        paths.message(2, named(path, path_item(item)));
    }
    out.message(8, paths);
    let mut definitions = Message::default();
    for (name, definition) in object(&document["definitions"]) {
        definitions.message(1, named(name, schema(definition)));
    }
    out.message(9, definitions);
    out.0
}

fn path_item(item: &Value) -> Message {
    let mut message = Message::default();
    for (tag, method) in
        [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")]
    {
        if let Some(value) = item.get(method) {
            message.message(tag, operation(value));
        }
    }
    for parameter in item["parameters"].as_array().into_iter().flatten() {
        message.message(9, parameters_item(parameter));
    }
    message
}

fn operation(value: &Value) -> Message {
    let mut message = Message::default();
    message.texts(1, value.get("tags"));
    message.text(3, value.get("description"));
    message.text(5, value.get("operationId"));
    message.texts(6, value.get("produces"));
    message.texts(7, value.get("consumes"));
    for parameter in value["parameters"].as_array().into_iter().flatten() {
        message.message(8, parameters_item(parameter));
    }
    let mut responses = Message::default();
    for (code, response) in object(&value["responses"]) {
        let mut body = Message::default();
        body.text(1, response.get("description"));
        if let Some(value) = response.get("schema") {
            let mut item = Message::default();
            item.message(1, schema(value));
            body.message(2, item);
        }
        let mut value = Message::default();
        value.message(1, body);
        responses.message(1, named(code, value));
    }
    message.message(9, responses);
    message.texts(10, value.get("schemes"));
    if let Some(map) = value.as_object() {
        extensions(&mut message, 13, map);
    }
    message
}

/// `ParametersItem { parameter = 1 { body = 1 | non_body = 2 { query = 3 | path = 4 } } }`.
fn parameters_item(value: &Value) -> Message {
    let mut parameter = Message::default();
    if value["in"] == "body" {
        let mut body = Message::default();
        body.text(2, value.get("name"));
        body.text(3, value.get("in"));
        body.flag(4, value.get("required"));
        if let Some(value) = value.get("schema") {
            body.message(5, schema(value));
        }
        parameter.message(1, body);
    } else {
        let is_path = value["in"] == "path";
        let mut inner = Message::default();
        inner.flag(1, value.get("required"));
        inner.text(2, value.get("in"));
        inner.text(3, value.get("description"));
        inner.text(4, value.get("name"));
        inner.text(if is_path { 5 } else { 6 }, value.get("type"));
        let mut non_body = Message::default();
        non_body.message(if is_path { 4 } else { 3 }, inner);
        parameter.message(2, non_body);
    }
    let mut item = Message::default();
    item.message(1, parameter);
    item
}

fn schema(value: &Value) -> Message {
    let mut message = Message::default();
    message.text(1, value.get("$ref"));
    message.text(2, value.get("format"));
    message.text(3, value.get("title"));
    message.text(4, value.get("description"));
    if let Some(default) = value.get("default") {
        message.message(5, any(default));
    }
    message.double(7, value.get("maximum"));
    message.double(9, value.get("minimum"));
    message.whole(11, value.get("maxLength"));
    message.whole(12, value.get("minLength"));
    message.text(13, value.get("pattern"));
    message.whole(14, value.get("maxItems"));
    message.whole(15, value.get("minItems"));
    message.texts(19, value.get("required"));
    for allowed in value.get("enum").and_then(Value::as_array).into_iter().flatten() {
        message.message(20, any(allowed));
    }
    match value.get("additionalProperties") {
        Some(Value::Bool(allowed)) => {
            let mut item = Message::default();
            item.varint(2 << 3);
            item.varint(u64::from(*allowed));
            message.message(21, item);
        }
        Some(inner) => {
            let mut item = Message::default();
            item.message(1, schema(inner));
            message.message(21, item);
        }
        None => {}
    }
    if let Some(kind) = value.get("type").and_then(Value::as_str) {
        let mut item = Message::default();
        item.bytes(1, kind.as_bytes());
        message.message(22, item);
    }
    if let Some(items) = value.get("items") {
        let mut item = Message::default();
        item.message(1, schema(items));
        message.message(23, item);
    }
    for part in value.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        message.message(24, schema(part));
    }
    if let Some(properties) = value.get("properties") {
        let mut all = Message::default();
        for (name, property) in object(properties) {
            all.message(1, named(name, schema(property)));
        }
        message.message(25, all);
    }
    if let Some(map) = value.as_object() {
        extensions(&mut message, 31, map);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_small_document() {
        let document = json!({"swagger": "2.0", "info": {"title": "t", "version": "v"}, "paths": {},
            "definitions": {"a": {"type": "object"}}});
        assert_eq!(
            encode(&document),
            [
                &b"\x0a\x032.0"[..],
                b"\x12\x06\x0a\x01t\x12\x01v",
                b"\x42\x00",
                b"\x4a\x12\x0a\x10\x0a\x01a\x12\x0b\xb2\x01\x08\x0a\x06object",
            ]
            .concat()
        );
    }
}
