//! Get.

use std::sync::Arc;

use isopod_api::status::Status;

use super::Resource;
use crate::cache::Entry;
use crate::options::parse_resource_version;
use crate::server::ApiServer;

impl ApiServer {
    /// One object. Without a resourceVersion the answer is never older than the request; with one it may
    /// come from the cache once that has reached it.
    pub async fn entry(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        resource_version: &str,
    ) -> Result<Arc<Entry>, Status> {
        let stored = &resource.stored;
        let registry = self.registry();
        let found = if resource_version.is_empty() {
            if !stored.cache.is_ready() {
                // The first reader of a resource fills its cache; the others then send bytes.
                stored.cache.ensure(&*registry.store).await?;
            }
            stored.entry(&*registry.store, namespace, name).await?
        } else {
            let at_least = parse_resource_version(resource_version)?;
            let snapshot = self.snapshot(resource, Some(at_least)).await?;
            snapshot.objects.get(&stored.key(namespace, name)).cloned()
        };
        found.ok_or_else(|| resource.not_found(name))
    }
}
