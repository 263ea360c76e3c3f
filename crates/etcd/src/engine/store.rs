//! [`Store`] in process.

use async_trait::async_trait;
use isopod_kv::{
    CompactionRequest, DeleteRangeRequest, DeleteRangeResponse, Error, LeaseGrantRequest, LeaseGrantResponse,
    LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, StatusResponse, Store, TxnRequest, TxnResponse,
    WatchCreateRequest, WatchStream,
};

use super::Engine;

#[async_trait]
impl Store for Engine {
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        Engine::range(self, &request).await
    }

    async fn put(&self, request: PutRequest) -> Result<PutResponse, Error> {
        Engine::put(self, request).await
    }

    async fn delete_range(&self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Error> {
        Engine::delete_range(self, request).await
    }

    async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Error> {
        Engine::txn(self, request).await
    }

    async fn compact(&self, revision: i64) -> Result<(), Error> {
        Engine::compact(self, CompactionRequest { revision, physical: false }).await.map(drop)
    }

    async fn watch(&self, request: WatchCreateRequest) -> Result<WatchStream, Error> {
        Ok(Engine::watch(self, &request))
    }

    async fn lease_grant(&self, request: LeaseGrantRequest) -> Result<LeaseGrantResponse, Error> {
        Engine::lease_grant(self, request).await
    }

    async fn lease_revoke(&self, id: i64) -> Result<(), Error> {
        Engine::lease_revoke(self, id).await.map(drop)
    }

    async fn lease_keep_alive(&self, id: i64) -> Result<LeaseKeepAliveResponse, Error> {
        Engine::lease_keep_alive(self, id).await
    }

    async fn lease_time_to_live(
        &self,
        request: LeaseTimeToLiveRequest,
    ) -> Result<LeaseTimeToLiveResponse, Error> {
        Engine::lease_time_to_live(self, request).await
    }

    async fn lease_leases(&self) -> Result<LeaseLeasesResponse, Error> {
        Ok(Engine::lease_leases(self))
    }

    async fn status(&self) -> Result<StatusResponse, Error> {
        Ok(Engine::status(self))
    }
}
