//! The server's own access to stored objects, for its layers and its start-up.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use futures::future::BoxFuture;
use isopod_api::Value;
use isopod_api::identity::{GROUP_MASTERS, UserInfo};
use isopod_api::status::Status;

use super::Resource;
use super::write::{Manager, Part, Write};
use crate::context::Ctx;
use crate::handlers::no_options;
use crate::layers::Objects;
use crate::request_info::RequestInfo;
use crate::server::ApiServer;

/// Name under which the server acts itself.
pub const SYSTEM_USER: &str = "system:apiserver";

/// [`Objects`] on a server; weak, because the server's layers hold it.
pub(crate) struct SystemObjects(Weak<ApiServer>);

impl SystemObjects {
    pub(crate) fn new(server: &Arc<ApiServer>) -> SystemObjects {
        SystemObjects(Arc::downgrade(server))
    }

    fn server(&self) -> Result<Arc<ApiServer>, Status> {
        self.0.upgrade().ok_or_else(|| Status::service_unavailable("the server is shutting down"))
    }
}

impl ApiServer {
    /// The resource in its storage version.
    fn storage_resource(&self, group: &str, plural: &str) -> Result<Arc<Resource>, Status> {
        let stored = self.registry().stored(group, plural)?;
        let found = self.registry().resource(stored.group, stored.version, stored.plural);
        // A storage version that is not served: any served one will do, objects are converted.
        let found = found.or_else(|| {
            self.registry().resources().iter().find(|r| r.facts.group == group && r.facts.plural == plural)
        });
        found.cloned().ok_or_else(Status::no_such_resource)
    }

    /// A context in the server's own name.
    pub(crate) fn system_ctx(&self) -> Ctx {
        let user = UserInfo::authenticated(SYSTEM_USER, &[GROUP_MASTERS]);
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.headers.insert(http::header::USER_AGENT, http::HeaderValue::from_static("kube-apiserver"));
        Ctx::new(user, RequestInfo::default(), parts, self.clock.now())
    }

    /// Creates an object (in the storage version) in the server's own name. Boxed, as the other writes here:
    /// allocations write objects on the path of a write.
    pub(crate) fn create_object<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
        mut object: Value,
    ) -> BoxFuture<'a, Result<Value, Status>> {
        Box::pin(async move {
            let resource = self.storage_resource(group, resource)?;
            let ctx = self.system_ctx();
            let options = no_options();
            let manager = Manager::of(&ctx, &options);
            let stored = &resource.stored;
            if let Some(map) = object.as_object_mut() {
                map.insert("apiVersion".to_owned(), stored.api_version().into());
                map.insert("kind".to_owned(), stored.kind.into());
            }
            let normal = isopod_api::codec::normalize(object, &stored.schema, options.field_validation)
                .map_err(|e| Status::internal(e.bad_request(stored.kind, stored.version)))?;
            let mut object = normal.value;
            isopod_api::defaults::apply(stored.group, stored.version, stored.kind, &mut object);
            let write = self.system_write(&ctx, &resource, namespace, "", &options, &manager);
            write.create(object).await
        })
    }

    /// Changes an object in the server's own name; `change` gives `None` to leave it as it is.
    pub(crate) fn update_object<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
        name: &'a str,
        change: &'a mut (dyn FnMut(Value) -> Result<Option<Value>, Status> + Send + 'a),
    ) -> BoxFuture<'a, Result<Value, Status>> {
        Box::pin(async move {
            let resource = self.storage_resource(group, resource)?;
            let ctx = self.system_ctx();
            let options = no_options();
            let manager = Manager::of(&ctx, &options);
            let write = self.system_write(&ctx, &resource, namespace, name, &options, &manager);
            let mut step = |current: &Value| Ok(change(current.clone())?.unwrap_or_else(|| current.clone()));
            Ok(write.update(Part::Subresource, &mut step, None).await?.object)
        })
    }

    /// Deletes an object in the server's own name, at once.
    pub(crate) fn delete_object<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let resource = self.storage_resource(group, resource)?;
            let ctx = self.system_ctx();
            let options = no_options();
            let manager = Manager::of(&ctx, &options);
            let write = self.system_write(&ctx, &resource, namespace, name, &options, &manager);
            let delete = super::delete::DeleteOptions { grace_seconds: Some(0), ..Default::default() };
            match write.delete(&delete).await {
                Ok(_) => Ok(()),
                Err(status) if status.code == 404 => Ok(()),
                Err(status) => Err(status),
            }
        })
    }

    fn system_write<'a>(
        &'a self,
        ctx: &'a Ctx,
        resource: &'a Arc<Resource>,
        namespace: &'a str,
        name: &'a str,
        options: &'a crate::options::WriteOptions,
        manager: &'a Manager,
    ) -> Write<'a> {
        Write {
            server: self,
            ctx,
            resource,
            subresource: "",
            namespace,
            name,
            options,
            manager,
            system: true,
        }
    }

    /// An object as the store has it now.
    pub(crate) async fn stored_object(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, Status> {
        let stored = self.registry().stored(group, resource)?;
        let current = stored.current(&*self.registry().store, namespace, name).await?;
        Ok(current.map(|c| c.object))
    }

    /// Revision of the newest change to any object of a resource that the cache has seen.
    pub(crate) async fn cached_revision(&self, group: &str, resource: &str) -> Result<i64, Status> {
        let stored = self.registry().stored(group, resource)?;
        stored.cache.ensure(&*self.registry().store).await?;
        Ok(stored.cache.revision())
    }

    /// What the cache of a resource holds now.
    async fn cached(&self, stored: &super::Stored) -> Result<crate::cache::Snapshot, Status> {
        for _ in 0..crate::limits::UPDATE_RETRIES_MAX {
            stored.cache.ensure(&*self.registry().store).await?;
            if let Some(snapshot) = stored.cache.snapshot(0) {
                return Ok(snapshot);
            }
        }
        Err(Status::service_unavailable("the cache is being filled anew").retry_after(1))
    }

    /// All objects of a resource, as the store has them now.
    pub(crate) async fn latest_objects(&self, group: &str, resource: &str) -> Result<Vec<Value>, Status> {
        let resource = self.storage_resource(group, resource)?;
        let snapshot = self.snapshot(&resource, None).await?;
        Ok(snapshot.objects.with_prefix("").map(|e| e.object()).collect())
    }

    /// All objects of a resource in the cache.
    pub(crate) async fn cached_objects(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
    ) -> Result<Vec<Value>, Status> {
        let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        let snapshot = self.cached(self.registry().stored(group, resource)?).await?;
        Ok(snapshot.objects.with_prefix(&prefix).map(|e| e.object()).collect())
    }
}

#[async_trait]
impl Objects for SystemObjects {
    async fn get(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, Status> {
        let server = self.server()?;
        let stored = server.registry().stored(group, resource)?;
        let snapshot = server.cached(stored).await?;
        Ok(snapshot.objects.get(&stored.key(namespace, name)).map(|e| e.object()))
    }

    async fn get_latest(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, Status> {
        self.server()?.stored_object(group, resource, namespace, name).await
    }

    async fn list(&self, group: &str, resource: &str, namespace: &str) -> Result<Vec<Value>, Status> {
        self.server()?.cached_objects(group, resource, namespace).await
    }

    async fn revision(&self, group: &str, resource: &str) -> Result<i64, Status> {
        self.server()?.cached_revision(group, resource).await
    }

    async fn create(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        object: Value,
    ) -> Result<Value, Status> {
        self.server()?.create_object(group, resource, namespace, object).await
    }

    async fn update(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
        change: &mut (dyn FnMut(Value) -> Result<Option<Value>, Status> + Send),
    ) -> Result<Value, Status> {
        self.server()?.update_object(group, resource, namespace, name, change).await
    }
}
