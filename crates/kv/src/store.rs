//! [`Store`]: what the API server needs of a store, whoever implements it.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures::Stream;

use crate::{
    DeleteRangeRequest, DeleteRangeResponse, Error, LeaseGrantRequest, LeaseGrantResponse,
    LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, StatusResponse, TxnRequest, TxnResponse, WatchCreateRequest,
    WatchResponse,
};

/// A key-value store with revisions, transactions, watches and leases, as etcd v3 defines them.
///
/// A write that has been answered is durable. A read that does not say `serializable` sees every write answered
/// before it began.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Key-values of a range, now or at a past revision.
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error>;

    /// Writes one key.
    async fn put(&self, request: PutRequest) -> Result<PutResponse, Error>;

    /// Deletes a range.
    async fn delete_range(&self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Error>;

    /// Compares, then does one of two lists of operations, at one revision.
    async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Error>;

    /// Drops history older than `revision`.
    async fn compact(&self, revision: i64) -> Result<(), Error>;

    /// Follows a range. Answers once the watch exists; `watch_id` and `fragment` of the request are ignored.
    async fn watch(&self, request: WatchCreateRequest) -> Result<WatchStream, Error>;

    /// Grants a lease; an ID of 0 lets the store choose one.
    async fn lease_grant(&self, request: LeaseGrantRequest) -> Result<LeaseGrantResponse, Error>;

    /// Revokes a lease and deletes its keys.
    async fn lease_revoke(&self, id: i64) -> Result<(), Error>;

    /// Renews a lease once; [`Error::LeaseNotFound`] when it has expired.
    async fn lease_keep_alive(&self, id: i64) -> Result<LeaseKeepAliveResponse, Error>;

    /// Remaining time of a lease, and its keys if asked for. An unknown lease has a TTL of -1.
    async fn lease_time_to_live(
        &self,
        request: LeaseTimeToLiveRequest,
    ) -> Result<LeaseTimeToLiveResponse, Error>;

    /// All leases.
    async fn lease_leases(&self) -> Result<LeaseLeasesResponse, Error>;

    /// Version, size, leader and health of the member that answers.
    async fn status(&self) -> Result<StatusResponse, Error>;
}

/// The back channel of a watch.
pub trait WatchControl: Send + Sync {
    /// Asks for a [`WatchResponse`] without events, sent once all events up to its revision have been.
    fn request_progress(&self);
}

/// Responses of one watch, in order of revision. All events of one revision come in one response.
///
/// A response without events reports progress: every event up to `header.revision` has been delivered. The stream
/// ends after an `Err`: [`Error::Compacted`] when the revision asked for is gone (the response's
/// `compact_revision` is in [`WatchStream::compact_revision`]), [`Error::WatchCanceled`] or a transport error
/// otherwise. Whoever drops the stream cancels the watch.
pub struct WatchStream {
    inner: Pin<Box<dyn Stream<Item = Result<WatchResponse, Error>> + Send>>,
    control: Box<dyn WatchControl>,
    created_revision: i64,
    compact_revision: i64,
    ended: bool,
}

impl WatchStream {
    /// A watch made of a stream of plain responses (a cancelled one is turned into an error here) and its control.
    pub fn new(
        created_revision: i64,
        inner: impl Stream<Item = Result<WatchResponse, Error>> + Send + 'static,
        control: Box<dyn WatchControl>,
    ) -> WatchStream {
        WatchStream { inner: Box::pin(inner), control, created_revision, compact_revision: 0, ended: false }
    }

    /// The store's revision when the watch was created.
    pub fn created_revision(&self) -> i64 {
        self.created_revision
    }

    /// The oldest revision still there, once the stream has ended with [`Error::Compacted`]; 0 before.
    pub fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    /// Asks for a progress response.
    pub fn request_progress(&self) {
        self.control.request_progress();
    }
}

impl fmt::Debug for WatchStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchStream")
            .field("created_revision", &self.created_revision)
            .finish_non_exhaustive()
    }
}

impl Stream for WatchStream {
    type Item = Result<WatchResponse, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let item = match self.inner.as_mut().poll_next(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => None,
            Poll::Ready(Some(Ok(response))) if response.canceled => {
                self.compact_revision = response.compact_revision;
                Some(Err(cancel_error(&response)))
            }
            Poll::Ready(Some(item)) => Some(item),
        };
        self.ended = !matches!(item, Some(Ok(_)));
        Poll::Ready(item)
    }
}

/// Why a cancelled watch ended.
fn cancel_error(response: &WatchResponse) -> Error {
    if response.compact_revision != 0 {
        return Error::Compacted;
    }
    match response.cancel_reason.as_str() {
        "" => Error::WatchCanceled,
        reason => Error::from_text(reason).unwrap_or_else(|| {
            Error::other(crate::Code::Cancelled, format!("etcdserver: watch canceled: {reason}"))
        }),
    }
}
