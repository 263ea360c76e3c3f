//! Reads. A single key is answered under one short hold of the lock; a long range is read in steps, so that neither
//! writers nor other tasks wait for it.

use isopod_kv::{Error, HashKVResponse, RangeRequest, RangeResponse};
use isopod_mvcc::{HashCursor, RangeCursor, validate_range};

use super::Engine;

/// Keys visited under one hold of the lock.
const KEYS_PER_STEP: usize = 1000;

impl Engine {
    /// Reads a range. A linearizable read (all that do not say `serializable`) waits until the leader has confirmed
    /// how far the log is committed; in a group of one, what was answered has been applied.
    ///
    /// # Errors
    /// As etcd's `Range`.
    pub async fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        validate_range(request)?;
        crate::metrics::RANGES.inc();
        self.settle(request.serializable).await?;
        let mut response = match self.range_in_steps(request).await {
            // A compaction has overtaken a read of the revision that was current when it began: begin anew, in one
            // step.
            Err(Error::Compacted) if request.revision <= 0 => self.shared.state.read().range(request)?,
            result => result?,
        };
        self.shared.stamp(&mut response.header);
        Ok(response)
    }

    async fn range_in_steps(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        let mut cursor = RangeCursor::new(&self.shared.state.read(), request)?;
        while !cursor.advance(&self.shared.state.read(), KEYS_PER_STEP)? {
            tokio::task::yield_now().await;
        }
        Ok(cursor.finish())
    }

    /// Checksum of the state at a revision; 0 for the current one.
    ///
    /// # Errors
    /// A revision that is compacted or not reached; a compaction in between.
    pub async fn hash_kv(&self, revision: i64) -> Result<HashKVResponse, Error> {
        let mut cursor = HashCursor::new(&self.shared.state.read(), revision)?;
        while !cursor.advance(&self.shared.state.read(), KEYS_PER_STEP)? {
            tokio::task::yield_now().await;
        }
        let (hash_revision, compact_revision, hash) = cursor.finish();
        Ok(HashKVResponse { header: self.shared.header(), hash, compact_revision, hash_revision })
    }
}
