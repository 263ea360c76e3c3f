//! [`Store`] as calls to the current endpoint.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use super::rpc::{method, ready, unary};
use super::watch;
use crate::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, Error, LeaseGrantRequest,
    LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, StatusRequest,
    StatusResponse, Store, TxnRequest, TxnResponse, WatchCreateRequest, WatchStream,
};

/// The client. Cheap in calls: a channel is a handle to a shared connection.
pub(super) struct Client {
    channels: Vec<Channel>,
    /// Index of the endpoint that answered last.
    current: AtomicUsize,
}

impl Client {
    pub(super) fn new(channels: Vec<Channel>) -> Client {
        Client { channels, current: AtomicUsize::new(0) }
    }

    /// One attempt at the current endpoint; moves on when it is out of reach.
    async fn once<R, F>(&self, call: impl FnOnce(Channel) -> F) -> Result<R, Error>
    where
        F: Future<Output = Result<R, Error>>,
    {
        let index = self.current.load(Ordering::Relaxed);
        let result = call(self.channels[index].clone()).await;
        if matches!(&result, Err(error) if error.is_unavailable()) {
            let next = (index + 1) % self.channels.len();
            // Lost races are fine: somebody else has moved on already.
            let _ = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
        }
        result
    }

    /// Attempts at all endpoints in turn, for requests that change nothing.
    async fn read<R, F>(&self, call: impl Fn(Channel) -> F) -> Result<R, Error>
    where
        F: Future<Output = Result<R, Error>>,
    {
        let mut result = self.once(&call).await;
        for _ in 1..self.channels.len().max(2) {
            match &result {
                Err(error) if error.is_unavailable() => result = self.once(&call).await,
                _ => break,
            }
        }
        result
    }
}

#[async_trait]
impl Store for Client {
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        self.read(|channel| {
            let request = request.clone();
            async move { unary(&channel, method::RANGE, request).await }
        })
        .await
    }

    async fn put(&self, request: PutRequest) -> Result<PutResponse, Error> {
        self.once(|channel| async move { unary(&channel, method::PUT, request).await }).await
    }

    async fn delete_range(&self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Error> {
        self.once(|channel| async move { unary(&channel, method::DELETE_RANGE, request).await }).await
    }

    async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Error> {
        self.once(|channel| async move { unary(&channel, method::TXN, request).await }).await
    }

    async fn compact(&self, revision: i64) -> Result<(), Error> {
        let request = CompactionRequest { revision, physical: false };
        let _: CompactionResponse =
            self.once(|channel| async move { unary(&channel, method::COMPACT, request).await }).await?;
        Ok(())
    }

    async fn watch(&self, request: WatchCreateRequest) -> Result<WatchStream, Error> {
        self.read(|channel| watch::open(channel, request.clone())).await
    }

    async fn lease_grant(&self, request: LeaseGrantRequest) -> Result<LeaseGrantResponse, Error> {
        self.once(|channel| async move { unary(&channel, method::LEASE_GRANT, request).await }).await
    }

    async fn lease_revoke(&self, id: i64) -> Result<(), Error> {
        let request = LeaseRevokeRequest { id };
        let _: LeaseRevokeResponse =
            self.once(|channel| async move { unary(&channel, method::LEASE_REVOKE, request).await }).await?;
        Ok(())
    }

    async fn lease_keep_alive(&self, id: i64) -> Result<LeaseKeepAliveResponse, Error> {
        self.read(|channel| keep_alive(channel, id)).await
    }

    async fn lease_time_to_live(
        &self,
        request: LeaseTimeToLiveRequest,
    ) -> Result<LeaseTimeToLiveResponse, Error> {
        self.read(|channel| {
            let request = request.clone();
            async move { unary(&channel, method::LEASE_TIME_TO_LIVE, request).await }
        })
        .await
    }

    async fn lease_leases(&self) -> Result<LeaseLeasesResponse, Error> {
        self.read(|channel| async move { unary(&channel, method::LEASE_LEASES, LeaseLeasesRequest {}).await })
            .await
    }

    async fn status(&self) -> Result<StatusResponse, Error> {
        self.read(|channel| async move { unary(&channel, method::STATUS, StatusRequest {}).await }).await
    }
}

/// One renewal on a stream of its own: the method is bidirectional, but one request has one answer.
async fn keep_alive(channel: Channel, id: i64) -> Result<LeaseKeepAliveResponse, Error> {
    let mut grpc = ready(&channel).await?;
    let codec = ProstCodec::<LeaseKeepAliveRequest, LeaseKeepAliveResponse>::default();
    let requests = tonic::Request::new(futures::stream::iter([LeaseKeepAliveRequest { id }]));
    let path = http::uri::PathAndQuery::from_static(method::LEASE_KEEP_ALIVE);
    let mut answers = grpc.streaming(requests, path, codec).await?.into_inner();
    match answers.next().await {
        Some(Ok(answer)) if answer.ttl > 0 => Ok(answer),
        // The server's way to say that the lease is gone.
        Some(Ok(_)) => Err(Error::LeaseNotFound),
        Some(Err(status)) => Err(status.into()),
        None => Err(Error::other(crate::Code::Unavailable, "the keep-alive stream ended without an answer")),
    }
}
