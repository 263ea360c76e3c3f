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
        _write: &Write<'_>,
        _new: &mut Value,
        _old: Option<&Value>,
        _rollbacks: &mut Rollbacks,
    ) -> Result<(), Status> {
        Ok(())
    }

    /// After an object has changed.
    pub(crate) async fn after_update(&self, _stored: &Stored, _new: &Value, _old: &Value) {}

    /// After an object is gone.
    pub(crate) async fn after_delete(&self, _stored: &Stored, _object: &Value) {}

    /// The store lease that a kind's objects are written under; 0 for objects that stay.
    pub(crate) async fn lease_for(&self, stored: &Stored) -> Result<i64, Status> {
        if stored.kind != "Event" || self.config.event_ttl_seconds == 0 {
            return Ok(0);
        }
        self.leases.get(&*self.registry().store, self.config.event_ttl_seconds).await
    }
}
