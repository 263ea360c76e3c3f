//! The client: the traits for a runtime behind a unix socket (containerd, CRI-O, or isopod's own).

use std::path::PathBuf;

use async_trait::async_trait;
use futures::StreamExt;
use hyper_util::rt::TokioIo;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

use super::{IMAGE_SERVICE, MESSAGE_BYTES_MAX, RUNTIME_SERVICE};
use crate::v1::*;
use crate::{Error, EventStream, ImageService, RuntimeService};

/// A runtime reached by gRPC.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
}

/// A client for `unix:///path/of.sock` (or a plain path). Connects on the first call, and again when the
/// connection was lost.
pub fn connect(endpoint: &str) -> Result<Client, Error> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    if !path.starts_with('/') {
        return Err(Error::invalid_argument(format!("CRI endpoint {endpoint:?} is not unix:///path")));
    }
    let path = PathBuf::from(path);
    // The URI is never resolved: the connector ignores it. Servers see it as the authority.
    let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(
        move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(path).await?)) }
        },
    ));
    Ok(Client { channel })
}

impl Client {
    async fn unary<Q, A>(&self, service: &str, call: &str, request: Q) -> Result<A, Error>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc().await?;
        let path = path(service, call);
        let response = grpc.unary(tonic::Request::new(request), path, ProstCodec::<Q, A>::default()).await?;
        Ok(response.into_inner())
    }

    async fn grpc(&self) -> Result<tonic::client::Grpc<Channel>, Error> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        grpc.ready().await.map_err(|e| Error::unavailable(format!("container runtime: {e}")))?;
        Ok(grpc)
    }
}

fn path(service: &str, call: &str) -> PathAndQuery {
    format!("/{service}/{call}").parse().expect("names of services and calls are valid in a path")
}

macro_rules! client_runtime {
    ($($method:ident, $name:literal, $request:ident, $response:ident;)*) => {
        #[async_trait]
        impl RuntimeService for Client {
            $(async fn $method(&self, request: $request) -> Result<$response, Error> {
                self.unary(RUNTIME_SERVICE, $name, request).await
            })*

            async fn get_container_events(&self, request: GetEventsRequest) -> Result<EventStream, Error> {
                let mut grpc = self.grpc().await?;
                let codec = ProstCodec::<GetEventsRequest, ContainerEventResponse>::default();
                let path = path(RUNTIME_SERVICE, "GetContainerEvents");
                let response = grpc.server_streaming(tonic::Request::new(request), path, codec).await?;
                Ok(response.into_inner().map(|event| event.map_err(Error::from)).boxed())
            }
        }
    };
}

macro_rules! client_image {
    ($($method:ident, $name:literal, $request:ident, $response:ident;)*) => {
        #[async_trait]
        impl ImageService for Client {
            $(async fn $method(&self, request: $request) -> Result<$response, Error> {
                self.unary(IMAGE_SERVICE, $name, request).await
            })*
        }
    };
}

runtime_calls!(client_runtime);
image_calls!(client_image);
