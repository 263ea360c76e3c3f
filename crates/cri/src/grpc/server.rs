//! The server: an implementation of the traits on a unix socket.

use std::convert::Infallible;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::{Stream, StreamExt, stream};
use tokio::net::UnixListener;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tonic_prost::ProstCodec;

use super::MESSAGE_BYTES_MAX;
use crate::v1::*;
use crate::{Error, ImageService, RuntimeService};

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;
type Items<T> = Pin<Box<dyn Stream<Item = Result<T, tonic::Status>> + Send>>;

/// Serves both services on a new unix socket of mode 0600 at `path` until `shutdown` completes. A socket
/// left behind by an earlier process is replaced.
pub async fn serve<R, I>(
    path: &Path,
    runtime: Arc<R>,
    images: Arc<I>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error>
where
    R: RuntimeService + ?Sized,
    I: ImageService + ?Sized,
{
    let fail = |what: &str, e: std::io::Error| Error::unavailable(format!("{what} {}: {e}", path.display()));
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(fail("remove", e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(|e| fail("listen on", e))?;
    // Connecting needs write permission on the socket; its directory is 0700, so there is no gap.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, mode).map_err(|e| fail("restrict", e))?;
    serve_listener(listener, runtime, images, shutdown).await
}

/// Serves both services on `listener` until `shutdown` completes.
pub async fn serve_listener<R, I>(
    listener: UnixListener,
    runtime: Arc<R>,
    images: Arc<I>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error>
where
    R: RuntimeService + ?Sized,
    I: ImageService + ?Sized,
{
    tonic::transport::Server::builder()
        .add_service(RuntimeServer(runtime))
        .add_service(ImageServer(images))
        .serve_with_incoming_shutdown(tokio_stream::wrappers::UnixListenerStream::new(listener), shutdown)
        .await
        .map_err(|e| Error::unavailable(format!("CRI server: {e}")))
}

struct RuntimeServer<R: ?Sized>(Arc<R>);
struct ImageServer<I: ?Sized>(Arc<I>);

impl<R: ?Sized> Clone for RuntimeServer<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<I: ?Sized> Clone for ImageServer<I> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R: ?Sized> NamedService for RuntimeServer<R> {
    const NAME: &'static str = "runtime.v1.RuntimeService";
}

impl<I: ?Sized> NamedService for ImageServer<I> {
    const NAME: &'static str = "runtime.v1.ImageService";
}

fn unary<Q, A, F, Fut>(request: Request<Body>, call: F) -> Answer
where
    Q: prost::Message + Default + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
    F: FnOnce(Q) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<A, Error>> + Send + 'static,
{
    Box::pin(async move {
        let service = tower::service_fn(move |request: tonic::Request<Q>| {
            let answer = call.clone()(request.into_inner());
            async move { answer.await.map(tonic::Response::new).map_err(tonic::Status::from) }
        });
        let mut grpc = tonic::server::Grpc::new(ProstCodec::<A, Q>::default())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok(grpc.unary(service, request).await)
    })
}

fn streaming<Q, A, F, Fut>(request: Request<Body>, call: F) -> Answer
where
    Q: prost::Message + Default + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
    F: FnOnce(Q) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<Items<A>, Error>> + Send + 'static,
{
    Box::pin(async move {
        let service = tower::service_fn(move |request: tonic::Request<Q>| {
            let answer = call.clone()(request.into_inner());
            async move { answer.await.map(tonic::Response::new).map_err(tonic::Status::from) }
        });
        let mut grpc = tonic::server::Grpc::new(ProstCodec::<A, Q>::default());
        Ok(grpc.server_streaming(service, request).await)
    })
}

fn unknown_call() -> Answer {
    Box::pin(async { Ok(tonic::Status::unimplemented("no such call").into_http()) })
}

/// Cuts a list into messages of at most `LIST_CHUNK` items.
fn chunks<T: Send + 'static, A: Send + 'static>(items: Vec<T>, wrap: fn(Vec<T>) -> A) -> Items<A> {
    const LIST_CHUNK: usize = 1000;
    let mut items = items.into_iter();
    stream::iter(std::iter::from_fn(move || {
        let chunk: Vec<T> = items.by_ref().take(LIST_CHUNK).collect();
        (!chunk.is_empty()).then(|| Ok(wrap(chunk)))
    }))
    .boxed()
}

macro_rules! server_runtime {
    ($($method:ident, $name:literal, $request:ident, $response:ident;)*) => {
        fn runtime_call<R: RuntimeService + ?Sized>(runtime: Arc<R>, request: Request<Body>) -> Answer {
            let call = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            match call.as_str() {
                $($name => unary(request, |message: $request| async move { runtime.$method(message).await }),)*
                _ => runtime_streaming(runtime, request),
            }
        }
    };
}

macro_rules! server_image {
    ($($method:ident, $name:literal, $request:ident, $response:ident;)*) => {
        fn image_call<I: ImageService + ?Sized>(images: Arc<I>, request: Request<Body>) -> Answer {
            let call = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            match call.as_str() {
                $($name => unary(request, |message: $request| async move { images.$method(message).await }),)*
                _ => image_streaming(images, request),
            }
        }
    };
}

runtime_calls!(server_runtime);
image_calls!(server_image);

fn runtime_streaming<R: RuntimeService + ?Sized>(runtime: Arc<R>, request: Request<Body>) -> Answer {
    match request.uri().path().rsplit('/').next().unwrap_or_default() {
        "GetContainerEvents" => streaming(request, |message: GetEventsRequest| async move {
            let events = runtime.get_container_events(message).await?;
            Ok(events.map(|event| event.map_err(tonic::Status::from)).boxed())
        }),
        "StreamPodSandboxes" => streaming(request, |message: StreamPodSandboxesRequest| async move {
            let list = runtime.list_pod_sandbox(ListPodSandboxRequest { filter: message.filter }).await?;
            Ok(chunks(list.items, |pod_sandboxes| StreamPodSandboxesResponse { pod_sandboxes }))
        }),
        "StreamContainers" => streaming(request, |message: StreamContainersRequest| async move {
            let list = runtime.list_containers(ListContainersRequest { filter: message.filter }).await?;
            Ok(chunks(list.containers, |containers| StreamContainersResponse { containers }))
        }),
        "StreamContainerStats" => streaming(request, |message: StreamContainerStatsRequest| async move {
            let list =
                runtime.list_container_stats(ListContainerStatsRequest { filter: message.filter }).await?;
            Ok(chunks(list.stats, |container_stats| StreamContainerStatsResponse { container_stats }))
        }),
        "StreamPodSandboxStats" => streaming(request, |message: StreamPodSandboxStatsRequest| async move {
            let list =
                runtime.list_pod_sandbox_stats(ListPodSandboxStatsRequest { filter: message.filter }).await?;
            Ok(chunks(list.stats, |pod_sandbox_stats| StreamPodSandboxStatsResponse { pod_sandbox_stats }))
        }),
        "StreamPodSandboxMetrics" => streaming(request, |_: StreamPodSandboxMetricsRequest| async move {
            let list = runtime.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {}).await?;
            Ok(chunks(list.pod_metrics, |pod_sandbox_metrics| StreamPodSandboxMetricsResponse {
                pod_sandbox_metrics,
            }))
        }),
        _ => unknown_call(),
    }
}

fn image_streaming<I: ImageService + ?Sized>(images: Arc<I>, request: Request<Body>) -> Answer {
    match request.uri().path().rsplit('/').next().unwrap_or_default() {
        "StreamImages" => streaming(request, |message: StreamImagesRequest| async move {
            let list = images.list_images(ListImagesRequest { filter: message.filter }).await?;
            Ok(chunks(list.images, |images| StreamImagesResponse { images }))
        }),
        _ => unknown_call(),
    }
}

impl<R: RuntimeService + ?Sized> tower::Service<Request<Body>> for RuntimeServer<R> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        runtime_call(self.0.clone(), request)
    }
}

impl<I: ImageService + ?Sized> tower::Service<Request<Body>> for ImageServer<I> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        image_call(self.0.clone(), request)
    }
}
