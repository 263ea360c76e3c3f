//! What some kinds need around a write beyond their pure rules.

use isopod_api::Value;
use isopod_api::status::Status;

use super::Stored;
use super::write::{Rollbacks, Write};
use crate::server::ApiServer;

impl ApiServer {
    /// Last step before an object is written: allocations that must not happen twice.
    pub(crate) async fn before_store(
        &self,
        write: &Write<'_>,
        new: &mut Value,
        old: Option<&Value>,
        rollbacks: &mut Rollbacks,
    ) -> Result<(), Status> {
        if write.resource.stored.kind == "Service" && write.subresource.is_empty() {
            self.allocate(new, old, rollbacks, write.options.dry_run).await?;
        }
        Ok(())
    }

    /// After an object has changed.
    pub(crate) async fn after_update(&self, stored: &Stored, new: &Value, old: &Value) {
        if stored.kind == "Service" {
            self.release_unused(old, Some(new)).await;
        }
    }

    /// After an object is gone.
    pub(crate) async fn after_delete(&self, stored: &Stored, object: &Value) {
        if stored.kind == "Service" {
            self.release_unused(object, None).await;
        }
    }

    /// The store lease that a kind's objects are written under; 0 for objects that stay.
    pub(crate) async fn lease_for(&self, stored: &Stored) -> Result<i64, Status> {
        if stored.kind != "Event" || self.config.event_ttl_seconds == 0 {
            return Ok(0);
        }
        self.leases.get(&*self.registry().store, self.config.event_ttl_seconds).await
    }
}
