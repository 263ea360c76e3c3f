//! Reads and writes of single objects in the store.

use std::sync::Arc;

use bytes::Bytes;
use isopod_api::Value;
use isopod_api::status::Status;
use isopod_kv::{
    Compare, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, RequestOp, Store, TxnRequest,
    TxnResponse, response_op,
};

use super::Stored;
use crate::cache::{Entry, Prepared};

/// An object as the store has it now.
#[derive(Debug, Clone)]
pub struct Current {
    /// The object in the storage version, with its resourceVersion.
    pub object: Value,
    /// Revision of the last change.
    pub revision: i64,
    /// Whether the bytes stored would be encrypted otherwise now, so that an update is due that changes nothing.
    pub stale: bool,
}

/// How a write to one key ended.
#[derive(Debug)]
pub enum Outcome {
    /// Written (or deleted) at this revision.
    Done(i64),
    /// Somebody else changed the key first; what it holds now.
    Conflict(Option<Current>),
}

/// The failure of a store as clients see it.
pub fn store_error(error: &isopod_kv::Error) -> Status {
    match error {
        isopod_kv::Error::Compacted => {
            Status::expired("The provided continue parameter is too old to display a consistent list result.")
        }
        isopod_kv::Error::RequestTooLarge => Status::too_large("etcdserver: request is too large"),
        isopod_kv::Error::NoSpace => Status::failure(507, "InsufficientStorage", error.to_string()),
        e if e.is_unavailable() => Status::service_unavailable(e.to_string()),
        e => Status::internal(e),
    }
}

/// Puts the revision into an object's metadata.
pub fn set_revision(object: &mut Value, revision: i64) {
    isopod_api::object::child_mut(object, "metadata")
        .insert("resourceVersion".to_owned(), revision.to_string().into());
}

/// One object's key-value as the store has it now.
pub async fn get_kv(store: &dyn Store, key: String) -> Result<Option<KeyValue>, Status> {
    let response = store.range(RangeRequest::key(key)).await.map_err(|e| store_error(&e))?;
    Ok(response.kvs.into_iter().next())
}

impl Stored {
    /// The object as the store has it now; the cache saves decoding when it is up to date.
    pub async fn current(
        &self,
        store: &dyn Store,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Current>, Status> {
        match get_kv(store, self.store_key(namespace, name)).await? {
            Some(kv) => self.current_of(&kv).map(Some),
            None => Ok(None),
        }
    }

    /// The entry as the store has it now, ready to send.
    pub async fn entry(
        &self,
        store: &dyn Store,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Entry>>, Status> {
        let Some(kv) = get_kv(store, self.store_key(namespace, name)).await? else { return Ok(None) };
        let key = self.key(namespace, name);
        if let Some(entry) = self.cache.get(&key).filter(|e| e.revision == kv.mod_revision) {
            return Ok(Some(entry));
        }
        let object = self.decode(&self.store_key(namespace, name), &kv.value)?;
        Ok(Some(Arc::new(Prepared::new(&object, self.strategy).entry(&key, kv.mod_revision))))
    }

    /// Decodes a key-value.
    pub fn current_of(&self, kv: &KeyValue) -> Result<Current, Status> {
        let key = self.cache.suffix(&kv.key).unwrap_or_default();
        let stale = self.is_stale(&kv.value);
        if let Some(entry) = self.cache.get(key).filter(|e| e.revision == kv.mod_revision) {
            return Ok(Current { object: entry.object(), revision: kv.mod_revision, stale });
        }
        let store_key = String::from_utf8_lossy(&kv.key);
        let mut object = self.decode(&store_key, &kv.value)?;
        set_revision(&mut object, kv.mod_revision);
        Ok(Current { object, revision: kv.mod_revision, stale })
    }

    /// Writes an object if its key is at `expected` (0: does not exist). On success the object has its new
    /// resourceVersion, and the entry made of it is returned.
    pub async fn put(
        &self,
        store: &dyn Store,
        object: &mut Value,
        expected: i64,
        lease: i64,
    ) -> Result<Outcome, Status> {
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("resourceVersion");
        }
        let text = |key: &str| {
            object.get("metadata").and_then(|m| m.get(key)).and_then(Value::as_str).unwrap_or_default()
        };
        let key = self.key(text("namespace"), text("name"));
        let store_key = format!("{}{key}", self.cache.spec.prefix);
        let value = Bytes::from(self.encode(&store_key, object)?);
        let store_key = Bytes::from(store_key);
        if self.cache.is_ready() {
            self.cache.announce(&key, value.clone(), Prepared::new(object, self.strategy));
        }
        let put = PutRequest { key: store_key.clone(), value, lease, ..PutRequest::default() };
        let outcome = self.commit(store, store_key, expected, put.into()).await;
        match &outcome {
            Ok(Outcome::Done(revision)) => set_revision(object, *revision),
            _ => self.cache.retract(&key),
        }
        outcome
    }

    /// Deletes an object if its key is at `expected`.
    pub async fn remove(
        &self,
        store: &dyn Store,
        namespace: &str,
        name: &str,
        expected: i64,
    ) -> Result<Outcome, Status> {
        let key = Bytes::from(self.store_key(namespace, name));
        let delete = DeleteRangeRequest::key(key.clone());
        self.commit(store, key, expected, delete.into()).await
    }

    async fn commit(
        &self,
        store: &dyn Store,
        key: Bytes,
        expected: i64,
        operation: RequestOp,
    ) -> Result<Outcome, Status> {
        let compare = Compare::mod_revision_is(key.clone(), expected);
        let otherwise = RangeRequest::key(key);
        let request = TxnRequest::new(vec![compare], vec![operation], vec![otherwise.into()]);
        let response = store.txn(request).await.map_err(|e| store_error(&e))?;
        if response.succeeded {
            return Ok(Outcome::Done(response.header.map_or(0, |h| h.revision)));
        }
        match found(response) {
            Some(kv) => Ok(Outcome::Conflict(Some(self.current_of(&kv)?))),
            None => Ok(Outcome::Conflict(None)),
        }
    }
}

/// The key-value that the failure branch of a transaction read.
fn found(response: TxnResponse) -> Option<KeyValue> {
    match response.responses.into_iter().next()?.response? {
        response_op::Response::ResponseRange(range) => range.kvs.into_iter().next(),
        _ => None,
    }
}
