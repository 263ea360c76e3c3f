//! Short constructors for the requests that nearly every caller makes.

use bytes::Bytes;

use crate::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::keys::prefix_end;
use crate::request_op::Request;
use crate::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseOp, TxnRequest,
    WatchCreateRequest, response_op,
};

impl RangeRequest {
    /// One key, now.
    pub fn key(key: impl Into<Bytes>) -> RangeRequest {
        RangeRequest { key: key.into(), ..Default::default() }
    }

    /// All keys with a prefix, now. An empty prefix stands for all keys.
    pub fn prefix(prefix: impl Into<Bytes>) -> RangeRequest {
        let (key, range_end) = prefix_range(prefix.into());
        RangeRequest { key, range_end, ..Default::default() }
    }
}

impl PutRequest {
    /// A plain write without a lease.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> PutRequest {
        PutRequest { key: key.into(), value: value.into(), ..Default::default() }
    }
}

impl DeleteRangeRequest {
    /// One key.
    pub fn key(key: impl Into<Bytes>) -> DeleteRangeRequest {
        DeleteRangeRequest { key: key.into(), ..Default::default() }
    }

    /// All keys with a prefix.
    pub fn prefix(prefix: impl Into<Bytes>) -> DeleteRangeRequest {
        let (key, range_end) = prefix_range(prefix.into());
        DeleteRangeRequest { key, range_end, ..Default::default() }
    }
}

impl WatchCreateRequest {
    /// One key, from a revision on; 0 stands for "from now".
    pub fn key(key: impl Into<Bytes>, start_revision: i64) -> WatchCreateRequest {
        WatchCreateRequest { key: key.into(), start_revision, ..Default::default() }
    }

    /// All keys with a prefix, from a revision on; 0 stands for "from now".
    pub fn prefix(prefix: impl Into<Bytes>, start_revision: i64) -> WatchCreateRequest {
        let (key, range_end) = prefix_range(prefix.into());
        WatchCreateRequest { key, range_end, start_revision, ..Default::default() }
    }
}

impl Compare {
    /// The key's last modification was at `revision`; 0 stands for a key that does not exist.
    pub fn mod_revision_is(key: impl Into<Bytes>, revision: i64) -> Compare {
        Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Mod as i32,
            key: key.into(),
            target_union: Some(TargetUnion::ModRevision(revision)),
            range_end: Bytes::new(),
        }
    }
}

impl TxnRequest {
    /// "If all of `compare` hold then `success` else `failure`."
    pub fn new(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
        TxnRequest { compare, success, failure }
    }
}

macro_rules! request_ops {
    ($($variant:ident($inner:ty);)*) => {
        $(impl From<$inner> for RequestOp {
            fn from(request: $inner) -> RequestOp {
                RequestOp { request: Some(Request::$variant(request)) }
            }
        })*
    };
}

request_ops! {
    RequestRange(RangeRequest);
    RequestPut(PutRequest);
    RequestDeleteRange(DeleteRangeRequest);
    RequestTxn(TxnRequest);
}

impl From<response_op::Response> for ResponseOp {
    fn from(response: response_op::Response) -> ResponseOp {
        ResponseOp { response: Some(response) }
    }
}

/// The key and range end that stand for a prefix. An empty key is an error on the wire, so that "all keys" begins
/// at the smallest key there is.
fn prefix_range(prefix: Bytes) -> (Bytes, Bytes) {
    let end = prefix_end(&prefix);
    if prefix.is_empty() { (Bytes::from_static(&[0]), end) } else { (prefix, end) }
}
