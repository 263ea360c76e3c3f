//! What the tests of this directory share.

use std::collections::HashMap;

use async_trait::async_trait;
use isopod_api::Value;
use isopod_api::status::Status;
use jiff::Timestamp;

use crate::layers::Objects;

/// A fresh set of keys, in a directory that is gone when this returns, and the time they were made at.
pub(crate) fn pki() -> (isopod_pki::Pki, Timestamp) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let now: Timestamp = "2026-05-01T00:00:00Z".parse().expect("a timestamp");
    let config = isopod_pki::Config {
        directory: directory.path().to_owned(),
        node_name: "node-1".into(),
        server_names: Vec::new(),
        node_addresses: Vec::new(),
        service_address: [10, 43, 0, 1].into(),
        cluster_domain: "cluster.local".into(),
    };
    (isopod_pki::ensure(&config, now).expect("keys"), now)
}

/// Request parts with these headers.
pub(crate) fn parts(headers: &[(&str, &str)]) -> http::request::Parts {
    let mut request = http::Request::builder();
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("valid request").into_parts().0
}

/// A fixed set of objects.
#[derive(Default)]
pub(crate) struct Fixed(HashMap<(String, String, String), Value>);

impl Fixed {
    pub(crate) fn new(objects: &[(&str, &str, &str, Value)]) -> Self {
        let mut fixed = Self::default();
        for (resource, namespace, name, object) in objects {
            fixed.set(resource, namespace, name, Some(object.clone()));
        }
        fixed
    }

    pub(crate) fn set(&mut self, resource: &str, namespace: &str, name: &str, object: Option<Value>) {
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        match object {
            Some(object) => self.0.insert(key, object),
            None => self.0.remove(&key),
        };
    }
}

#[async_trait]
impl Objects for Fixed {
    async fn get(
        &self,
        _group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, Status> {
        Ok(self.0.get(&(resource.to_owned(), namespace.to_owned(), name.to_owned())).cloned())
    }

    async fn get_latest(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, Status> {
        self.get(group, resource, namespace, name).await
    }

    async fn list(&self, _group: &str, resource: &str, namespace: &str) -> Result<Vec<Value>, Status> {
        let chosen = self
            .0
            .iter()
            .filter(|((r, ns, _), _)| r == resource && (namespace.is_empty() || ns == namespace));
        Ok(chosen.map(|(_, object)| object.clone()).collect())
    }

    async fn revision(&self, _group: &str, _resource: &str) -> Result<i64, Status> {
        Ok(1)
    }

    async fn create(
        &self,
        _group: &str,
        _resource: &str,
        _namespace: &str,
        _object: Value,
    ) -> Result<Value, Status> {
        Err(Status::internal("fixed objects"))
    }

    async fn update(
        &self,
        _group: &str,
        _resource: &str,
        _namespace: &str,
        _name: &str,
        _change: &mut (dyn FnMut(Value) -> Result<Option<Value>, Status> + Send),
    ) -> Result<Value, Status> {
        Err(Status::internal("fixed objects"))
    }
}
