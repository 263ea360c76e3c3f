//! One watch on a stream of its own.
//!
//! HTTP/2 flow control carries back-pressure: a consumer that does not read holds up this watch alone, and the
//! server then catches it up from history.

use futures::StreamExt;
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use super::rpc::{method, ready};
use crate::watch_request::RequestUnion;
use crate::{
    Error, WatchControl, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse, WatchStream,
};

/// Requests that may wait to be sent: the creation, and progress requests. More than a few of the latter at once
/// ask the same question.
const REQUEST_QUEUE: usize = 4;

/// The sending half; dropping it ends the stream and with it the watch.
struct Control {
    requests: mpsc::Sender<WatchRequest>,
}

impl WatchControl for Control {
    fn request_progress(&self) {
        let request = RequestUnion::ProgressRequest(WatchProgressRequest {});
        // A full queue holds the same question already.
        let _ = self.requests.try_send(WatchRequest { request_union: Some(request) });
    }
}

/// Opens a watch and waits until the server has confirmed it.
pub(super) async fn open(channel: Channel, mut create: WatchCreateRequest) -> Result<WatchStream, Error> {
    create.watch_id = 0;
    create.fragment = false;
    let mut grpc = ready(&channel).await?;
    let (requests, receiver) = mpsc::channel(REQUEST_QUEUE);
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    requests.try_send(request).expect("a new queue has room");
    let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
    let outgoing = tonic::Request::new(ReceiverStream::new(receiver));
    let mut answers =
        grpc.streaming(outgoing, PathAndQuery::from_static(method::WATCH), codec).await?.into_inner();

    let first = match answers.next().await {
        Some(answer) => answer?,
        None => return Err(Error::other(crate::Code::Unavailable, "the watch stream ended before it began")),
    };
    let created_revision = first.header.as_ref().map_or(0, |header| header.revision);
    // A server may refuse in its first answer (no permission); the stream then says so.
    let refused = (first.canceled || !first.created).then_some(Ok(first));
    let answers = futures::stream::iter(refused).chain(answers.map(|answer| answer.map_err(Error::from)));
    Ok(WatchStream::new(created_revision, answers, Box::new(Control { requests })))
}
