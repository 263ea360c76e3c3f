//! Store leases for objects that expire (events), shared by all objects written within a minute.

use std::time::{Duration, Instant};

use isopod_api::status::Status;
use isopod_kv::{LeaseGrantRequest, Store};

/// Objects written within this time share a lease, so that a burst of events makes few of them.
const REUSE: Duration = Duration::from_secs(60);

/// The lease in use.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    current: tokio::sync::Mutex<Option<(i64, Instant)>>,
}

impl Leases {
    /// A lease that lasts at least `ttl_seconds`.
    pub(crate) async fn get(&self, store: &dyn Store, ttl_seconds: u32) -> Result<i64, Status> {
        let mut current = self.current.lock().await;
        if let Some((id, since)) = *current
            && since.elapsed() < REUSE
        {
            return Ok(id);
        }
        let ttl = i64::from(ttl_seconds) + REUSE.as_secs() as i64;
        let request = LeaseGrantRequest { ttl, ..LeaseGrantRequest::default() };
        let granted =
            store.lease_grant(request).await.map_err(|e| crate::registry::storage::store_error(&e))?;
        *current = Some((granted.id, Instant::now()));
        Ok(granted.id)
    }
}
