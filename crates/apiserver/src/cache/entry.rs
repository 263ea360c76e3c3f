//! One object as the cache holds it, and one change as watchers get it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use isopod_api::Value;
use isopod_rules::kinds::Strategy;

use super::ordered::Keyed;

/// JSON of an object without its resourceVersion, which is known only once the store has written it.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: Bytes,
    /// Where `"resourceVersion":"N"` belongs: right behind `"metadata":{`.
    revision_at: usize,
    /// Length of `{"kind":…,"apiVersion":…,`, which items of a list leave out.
    head: usize,
}

const REVISION_KEY: &[u8] = b"\"resourceVersion\":\"";

impl Template {
    /// Serialises an object in the order kind, apiVersion, metadata, everything else.
    pub fn new(object: &Value) -> Template {
        let mut out = Vec::with_capacity(1024);
        let text = |key: &str| object.get(key).cloned().unwrap_or(Value::String(String::new()));
        out.extend_from_slice(b"{\"kind\":");
        write(&mut out, &text("kind"));
        out.extend_from_slice(b",\"apiVersion\":");
        write(&mut out, &text("apiVersion"));
        out.push(b',');
        let head = out.len();
        out.extend_from_slice(b"\"metadata\":{");
        let revision_at = out.len();
        for (key, value) in object.get("metadata").and_then(Value::as_object).into_iter().flatten() {
            if key != "resourceVersion" {
                out.push(b',');
                write_pair(&mut out, key, value);
            }
        }
        out.push(b'}');
        for (key, value) in object.as_object().into_iter().flatten() {
            if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
                out.push(b',');
                write_pair(&mut out, key, value);
            }
        }
        out.push(b'}');
        Template { bytes: out.into(), revision_at, head }
    }

    /// The complete JSON at a revision.
    pub fn at(&self, revision: i64) -> Json {
        let digits = revision.to_string();
        let mut out = Vec::with_capacity(self.bytes.len() + REVISION_KEY.len() + digits.len() + 1);
        out.extend_from_slice(&self.bytes[..self.revision_at]);
        out.extend_from_slice(REVISION_KEY);
        out.extend_from_slice(digits.as_bytes());
        out.push(b'"');
        out.extend_from_slice(&self.bytes[self.revision_at..]);
        Json {
            bytes: out.into(),
            revision_at: self.revision_at + REVISION_KEY.len(),
            revision_len: digits.len(),
            head: self.head,
        }
    }
}

fn write(out: &mut Vec<u8>, value: &Value) {
    serde_json::to_writer(out, value).expect("a value serialises into memory");
}

fn write_pair(out: &mut Vec<u8>, key: &str, value: &Value) {
    serde_json::to_writer(&mut *out, key).expect("a text serialises into memory");
    out.push(b':');
    write(out, value);
}

/// Ready-to-send JSON of an object that knows where its resourceVersion stands.
#[derive(Debug, Clone)]
pub struct Json {
    bytes: Bytes,
    revision_at: usize,
    revision_len: usize,
    head: usize,
}

impl Json {
    /// The whole object.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The object as an item of a typed list: without kind and apiVersion.
    pub fn item(&self) -> (&'static [u8], &[u8]) {
        (b"{", &self.bytes[self.head..])
    }

    /// The same object with another resourceVersion.
    pub fn with_revision(&self, revision: i64) -> Bytes {
        let mut out = Vec::with_capacity(self.bytes.len() + 8);
        out.extend_from_slice(&self.bytes[..self.revision_at]);
        out.extend_from_slice(revision.to_string().as_bytes());
        out.extend_from_slice(&self.bytes[self.revision_at + self.revision_len..]);
        out.into()
    }
}

/// An object in the cache.
#[derive(Debug)]
pub struct Entry {
    key: Box<str>,
    /// Revision of the last change.
    pub revision: i64,
    /// The object, in the storage version.
    pub json: Json,
    /// `metadata.labels`, for selectors.
    pub labels: BTreeMap<String, String>,
    /// Values of the strategy's selectable fields, in its order.
    fields: Box<[Box<str>]>,
}

impl Keyed for Entry {
    fn key(&self) -> &str {
        &self.key
    }
}

/// An object made ready for the cache before its revision is known.
#[derive(Debug, Clone)]
pub struct Prepared {
    template: Template,
    labels: BTreeMap<String, String>,
    fields: Box<[Box<str>]>,
}

impl Prepared {
    /// Serialises an object and takes out what selectors ask for.
    pub fn new(object: &Value, strategy: &Strategy) -> Prepared {
        let labels = object
            .get("metadata")
            .and_then(|m| m.get("labels"))
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
            .collect();
        let fields = strategy
            .selectable
            .iter()
            .map(|(label, _)| strategy.field(object, label).unwrap_or_default().into())
            .collect();
        Prepared { template: Template::new(object), labels, fields }
    }

    /// The entry at a revision. `key` is `namespace/name`, or `name` alone.
    pub fn entry(self, key: &str, revision: i64) -> Entry {
        let json = self.template.at(revision);
        Entry { key: key.into(), revision, json, labels: self.labels, fields: self.fields }
    }

    /// The JSON at a revision.
    pub fn json(&self, revision: i64) -> Json {
        self.template.at(revision)
    }
}

impl Entry {
    /// Namespace and name out of the key.
    pub fn name(&self) -> (&str, &str) {
        self.key.split_once('/').unwrap_or(("", &self.key))
    }

    /// A selectable field.
    pub fn field(&self, strategy: &Strategy, label: &str) -> &str {
        match label {
            "metadata.name" => self.name().1,
            "metadata.namespace" => self.name().0,
            _ => strategy.selectable.iter().position(|(l, _)| *l == label).map_or("", |i| &self.fields[i]),
        }
    }

    /// The object as a value.
    pub fn object(&self) -> Value {
        serde_json::from_slice(self.json.bytes()).expect("the cache serialised this itself")
    }
}

/// One change of one object.
#[derive(Debug)]
pub struct Event {
    /// Revision of the change.
    pub revision: i64,
    /// The object now; `None` if it was deleted.
    pub now: Option<Arc<Entry>>,
    /// The object before; `None` if it is new.
    pub before: Option<Arc<Entry>>,
    /// JSON of `before` at the revision of its disappearance, made once.
    gone: OnceLock<Bytes>,
}

impl Event {
    /// A change.
    pub fn new(revision: i64, now: Option<Arc<Entry>>, before: Option<Arc<Entry>>) -> Event {
        Event { revision, now, before, gone: OnceLock::new() }
    }

    /// The key of the object.
    pub fn key(&self) -> &str {
        self.now.as_deref().or(self.before.as_deref()).map_or("", Keyed::key)
    }

    /// The object's last state, with the revision of this change, for a DELETED event.
    pub fn gone(&self) -> &Bytes {
        self.gone.get_or_init(|| {
            self.before.as_ref().map_or_else(Bytes::new, |b| b.json.with_revision(self.revision))
        })
    }

    /// Bytes that this event keeps alive, roughly.
    pub fn weight(&self) -> usize {
        let of = |e: &Option<Arc<Entry>>| e.as_ref().map_or(0, |e| e.json.bytes().len() + 128);
        of(&self.now) + of(&self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn revision_is_put_in_and_replaced() {
        let object = json!({"apiVersion": "v1", "kind": "A", "data": {"x": "y"},
            "metadata": {"name": "n", "resourceVersion": "7"}});
        let json = Template::new(&object).at(12);
        assert_eq!(
            std::str::from_utf8(json.bytes()).unwrap(),
            r#"{"kind":"A","apiVersion":"v1","metadata":{"resourceVersion":"12","name":"n"},"data":{"x":"y"}}"#
        );
        let (open, rest) = json.item();
        let item: Value = serde_json::from_slice(&[open, rest].concat()).unwrap();
        assert_eq!(item, json!({"metadata": {"name": "n", "resourceVersion": "12"}, "data": {"x": "y"}}));
        let later: Value = serde_json::from_slice(&json.with_revision(1234)).unwrap();
        assert_eq!(later["metadata"]["resourceVersion"], "1234");
    }
}
