//! The KV service.

use std::sync::Arc;

use bytes::Bytes;
use isopod_kv::request_op::Request;
use isopod_kv::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, Error, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse,
};
use isopod_mvcc::{Caller, State, txn_writes};

use crate::engine::Engine;

pub(super) async fn range(engine: Arc<Engine>, request: RangeRequest) -> Result<RangeResponse, Error> {
    let check =
        |state: &State, caller: &Caller| state.auth().check_read(caller, &request.key, &request.range_end);
    engine.checked(check, engine.range(&request)).await
}

pub(super) async fn put(engine: Arc<Engine>, mut request: PutRequest) -> Result<PutResponse, Error> {
    own_put(&mut request);
    engine.put(request).await
}

pub(super) async fn delete_range(
    engine: Arc<Engine>,
    request: DeleteRangeRequest,
) -> Result<DeleteRangeResponse, Error> {
    engine.delete_range(request).await
}

pub(super) async fn txn(engine: Arc<Engine>, mut request: TxnRequest) -> Result<TxnResponse, Error> {
    if txn_writes(&request) {
        own_txn(&mut request, TXN_DEPTH);
        return engine.txn(request).await;
    }
    // Without a write there is no command that would be checked.
    let checked = request.clone();
    let check = |state: &State, caller: &Caller| state.check_txn_rights(caller, &checked);
    engine.checked(check, engine.txn(request)).await
}

pub(super) async fn compact(
    engine: Arc<Engine>,
    request: CompactionRequest,
) -> Result<CompactionResponse, Error> {
    engine.compact(request).await
}

/// How deep to look into nested transactions. Deeper ones are refused by the engine.
const TXN_DEPTH: usize = 64;

/// Key and value as decoded are slices of the network's buffer, often of a much larger one: what the store keeps is
/// copied out of it.
pub(super) fn own(bytes: &mut Bytes) {
    *bytes = Bytes::copy_from_slice(bytes);
}

fn own_put(request: &mut PutRequest) {
    own(&mut request.key);
    own(&mut request.value);
}

fn own_txn(request: &mut TxnRequest, depth: usize) {
    for op in request.success.iter_mut().chain(&mut request.failure) {
        own_op(op, depth);
    }
}

fn own_op(op: &mut RequestOp, depth: usize) {
    match &mut op.request {
        Some(Request::RequestPut(put)) => own_put(put),
        Some(Request::RequestTxn(inner)) if depth > 0 => own_txn(inner, depth - 1),
        _ => {}
    }
}
