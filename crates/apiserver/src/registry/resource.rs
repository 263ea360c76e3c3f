//! A served resource, and the place where its objects are stored.

use std::sync::Arc;

use isopod_api::codec::{self, proto};
use isopod_api::convert::convert;
use isopod_api::facts::{self, ResourceFacts};
use isopod_api::schema::Schema;
use isopod_api::status::Status;
use isopod_api::{Value, object};
use isopod_rules::kinds::{Strategy, strategy};

use super::encryption::{Encryption, Transformer, is_encrypted};
use crate::cache::resource::{Decode, Spec};
use crate::cache::{Cache, filter};

/// A resource in one version.
#[derive(Debug)]
pub struct Resource {
    /// What the facts table says.
    pub facts: &'static ResourceFacts,
    /// Where its objects are stored.
    pub stored: Arc<Stored>,
}

impl Resource {
    /// `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        object::api_version(self.facts.group, self.facts.version)
    }

    /// Whether requests in this version see objects exactly as they are stored.
    pub fn is_storage_version(&self) -> bool {
        self.facts.group == self.stored.group && self.facts.version == self.stored.version
    }

    /// Whether a verb is served.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.facts.verbs.contains(&verb)
    }

    /// A subresource.
    pub fn subresource(&self, name: &str) -> Option<&'static facts::SubresourceFacts> {
        self.facts.subresources.iter().find(|s| s.name == name)
    }

    /// An object of the storage version as this version shows it.
    pub fn to_version(&self, object: Value) -> Value {
        if self.is_storage_version() {
            return object;
        }
        match convert(object.clone(), self.facts.group, self.facts.version) {
            Ok(converted) => converted,
            Err(error) => {
                // Every served version converts; should one not, showing the stored form loses nothing.
                tracing::error!(%error, kind = self.facts.kind, "a stored object cannot be converted");
                object
            }
        }
    }

    /// An object of this version in the storage version.
    pub fn to_storage(&self, object: Value) -> Result<Value, Status> {
        if self.is_storage_version() {
            return Ok(object);
        }
        convert(object, self.stored.group, self.stored.version)
            .map_err(|e| Status::bad_request(e.to_string()))
    }

    /// The error for an object that does not exist.
    pub fn not_found(&self, name: &str) -> Status {
        Status::not_found(self.facts.group, self.facts.plural, name)
    }
}

/// Where the objects of a resource are stored, in one version.
pub struct Stored {
    /// Storage group.
    pub group: &'static str,
    /// Storage version.
    pub version: &'static str,
    /// Plural.
    pub plural: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether there is a status subresource.
    pub has_status: bool,
    /// The kind's rules.
    pub strategy: &'static Strategy,
    /// Schema of the storage version.
    pub schema: Schema,
    /// The watch cache.
    pub cache: Arc<Cache>,
    /// An object without content, as a decoder gives it.
    pub empty: Value,
    json: bool,
    encryption: Option<Arc<Transformer>>,
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stored({})", self.cache.spec.prefix)
    }
}

impl Stored {
    /// The storage of a resource.
    pub fn new(
        facts: &'static ResourceFacts,
        prefix: &str,
        json: bool,
        encryption: Option<&Encryption>,
    ) -> Stored {
        let encryption = encryption.and_then(|e| e.of(facts.storage_group, facts.plural));
        let strategy = strategy(facts.storage_group, facts.kind);
        let schema = facts::builtin()
            .kind(facts.storage_group, facts.storage_version, facts.kind)
            .map_or_else(|| facts.schema.clone(), |k| k.schema.clone());
        let cache = Cache::new(Spec {
            group: facts.storage_group.to_owned(),
            resource: facts.plural.to_owned(),
            prefix: format!("/{prefix}/{}/", facts.storage_path),
            namespaced: facts.namespaced,
            strategy,
            index: filter::indexed_field(facts.kind),
            decode: decoder(facts, encryption.clone()),
        });
        let empty = codec::normalize(serde_json::json!({}), &schema, codec::FieldValidation::Ignore);
        Stored {
            empty: empty.map(|d| d.value).unwrap_or_default(),
            group: facts.storage_group,
            version: facts.storage_version,
            plural: facts.plural,
            kind: facts.kind,
            namespaced: facts.namespaced,
            has_status: facts.subresources.iter().any(|s| s.name == "status"),
            strategy,
            schema,
            cache: Arc::new(cache),
            json,
            encryption,
        }
    }

    /// `apiVersion` of stored objects.
    pub fn api_version(&self) -> String {
        object::api_version(self.group, self.version)
    }

    /// Key of an object within the resource.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced { format!("{namespace}/{name}") } else { name.to_owned() }
    }

    /// Key of an object in the store.
    pub fn store_key(&self, namespace: &str, name: &str) -> String {
        format!("{}{}", self.cache.spec.prefix, self.key(namespace, name))
    }

    /// The bytes to store for an object. Its resourceVersion is not part of them.
    pub fn encode(&self, store_key: &str, object: &Value) -> Result<Vec<u8>, Status> {
        let plain = if self.json {
            serde_json::to_vec(object).expect("a value serialises into memory")
        } else {
            proto::encode_object(&self.schema, object)
        };
        match &self.encryption {
            Some(encryption) => encryption.seal(store_key, plain).map_err(Status::internal),
            None => Ok(plain),
        }
    }

    /// Whether stored bytes would be encrypted otherwise now.
    pub fn is_stale(&self, bytes: &[u8]) -> bool {
        self.encryption.as_ref().is_some_and(|e| e.is_stale(bytes))
    }

    /// The object in stored bytes.
    pub fn decode(&self, store_key: &str, bytes: &[u8]) -> Result<Value, Status> {
        (self.cache.spec.decode)(store_key, bytes).map_err(Status::internal)
    }
}

/// First bytes of every stored protobuf object.
const PROTO_MAGIC: &[u8] = b"k8s\0";

fn decoder(facts: &'static ResourceFacts, encryption: Option<Arc<Transformer>>) -> Decode {
    Arc::new(move |store_key, bytes| {
        let mut opened = None;
        match &encryption {
            Some(encryption) => opened = encryption.open(store_key, bytes).map_err(|e| e.to_string())?,
            None if is_encrypted(bytes) => {
                return Err("the stored value is encrypted and no key is configured".to_owned());
            }
            None => {}
        }
        let bytes = opened.as_deref().unwrap_or(bytes);
        let object: Value = if bytes.starts_with(PROTO_MAGIC) {
            proto::decode(bytes).map_err(|e| e.to_string())?.value
        } else {
            serde_json::from_slice(bytes).map_err(|e| e.to_string())?
        };
        // An older or newer apiserver may have stored another version of the kind.
        let api_version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
        let (group, version) = object::split_api_version(&api_version);
        if (group, version) == (facts.storage_group, facts.storage_version) {
            return Ok(object);
        }
        convert(object, facts.storage_group, facts.storage_version).map_err(|e| e.to_string())
    })
}
