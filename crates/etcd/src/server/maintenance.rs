//! The Maintenance service.

use std::sync::Arc;

use bytes::Bytes;
use hyper::Response;
use isopod_kv::{
    DefragmentRequest, DefragmentResponse, Error, HashKVRequest, HashKVResponse, HashRequest, HashResponse,
    MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;

use super::rpc::Call;
use crate::engine::{Engine, VERSION};

/// Largest piece of a backup in a message, in bytes: below the 4 MiB that gRPC clients take by default.
const PIECE_BYTES: usize = 1 << 20;

pub(super) async fn status(engine: Arc<Engine>, _request: StatusRequest) -> Result<StatusResponse, Error> {
    Ok(engine.status())
}

pub(super) async fn defragment(
    engine: Arc<Engine>,
    _request: DefragmentRequest,
) -> Result<DefragmentResponse, Error> {
    engine.checkpoint().await?;
    Ok(DefragmentResponse { header: engine.shared().header() })
}

pub(super) async fn hash(engine: Arc<Engine>, _request: HashRequest) -> Result<HashResponse, Error> {
    let response = engine.hash_kv(0).await?;
    Ok(HashResponse { header: response.header, hash: response.hash })
}

pub(super) async fn hash_kv(engine: Arc<Engine>, request: HashKVRequest) -> Result<HashKVResponse, Error> {
    engine.hash_kv(request.revision).await
}

pub(super) async fn move_leader(
    engine: Arc<Engine>,
    request: MoveLeaderRequest,
) -> Result<MoveLeaderResponse, Error> {
    engine.move_leader(request.target_id).await?;
    Ok(MoveLeaderResponse { header: engine.shared().header() })
}

/// Streams a backup. What remains is not known beforehand, since writers go on; clients read to the end.
pub(super) async fn snapshot(call: Call<'_>) -> Response<Body> {
    call.server_streaming(|engine: Arc<Engine>, _: SnapshotRequest| {
        let header = engine.shared().header();
        let pieces = ReceiverStream::new(engine.backup());
        let blobs = futures::StreamExt::flat_map(pieces, |piece| futures::stream::iter(split(piece)));
        blobs.map(move |blob| {
            Ok::<_, Status>(SnapshotResponse {
                header: header.clone(),
                remaining_bytes: 0,
                blob,
                version: VERSION.to_owned(),
            })
        })
    })
    .await
}

fn split(mut piece: Bytes) -> Vec<Bytes> {
    let mut blobs = Vec::new();
    while !piece.is_empty() {
        blobs.push(piece.split_to(piece.len().min(PIECE_BYTES)));
    }
    blobs
}
