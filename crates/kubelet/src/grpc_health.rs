//! The client of `grpc.health.v1.Health/Check`, for gRPC probes.

use std::time::Duration;

use http::uri::PathAndQuery;
use isopod_podplan::probe::Outcome;
use tonic::transport::Endpoint;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// SERVING in `HealthCheckResponse.ServingStatus`.
const SERVING: i32 = 1;

/// Asks the server at `ip:port` for the health of `service`.
pub(crate) async fn check(ip: &str, port: i32, service: String, limit: Duration) -> Outcome {
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let address = format!("{host}:{port}");
    let connect_failed = || {
        Outcome::Failure(format!(
            "timeout: failed to connect service {address:?} within {}s",
            limit.as_secs()
        ))
    };
    let endpoint = match Endpoint::from_shared(format!("http://{address}")) {
        Ok(endpoint) => endpoint.connect_timeout(limit).user_agent("kube-probe/1.36"),
        Err(e) => return Outcome::Error(e.to_string()),
    };
    let Ok(endpoint) = endpoint else { return connect_failed() };
    let call = async {
        let channel = endpoint.connect().await.map_err(|_| None)?;
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.map_err(|_| None)?;
        let codec: ProstCodec<HealthCheckRequest, HealthCheckResponse> = ProstCodec::default();
        let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let request = Request::new(HealthCheckRequest { service: service.clone() });
        client.unary(request, path, codec).await.map_err(Some)
    };
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(answer)) if answer.get_ref().status == SERVING => Outcome::Success(None),
        Ok(Ok(answer)) => {
            let status = match answer.get_ref().status {
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "UNKNOWN",
            };
            Outcome::Failure(format!("service unhealthy (responded with {status:?})"))
        }
        Ok(Err(Some(status))) if status.code() == Code::Unimplemented => Outcome::Failure(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".into(),
        ),
        Ok(Err(Some(status))) => Outcome::Failure(format!("error: health rpc failed: {}", status.message())),
        Ok(Err(None)) => connect_failed(),
        Err(_) => {
            Outcome::Failure(format!("timeout: health rpc did not complete within {}s", limit.as_secs()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};

    /// A server that answers every call with a message and a gRPC status.
    async fn serve(message: &'static [u8], status: &'static str) -> i32 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", status.parse().unwrap());
                let frames: Vec<Result<Frame<Bytes>, std::convert::Infallible>> =
                    vec![Ok(Frame::data(Bytes::from_static(message))), Ok(Frame::trailers(trailers))];
                let answer = hyper::Response::builder().header("content-type", "application/grpc");
                answer.body(StreamBody::new(futures::stream::iter(frames)))
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        i32::from(port)
    }

    async fn ask(message: &'static [u8], status: &'static str) -> Outcome {
        let port = serve(message, status).await;
        check("127.0.0.1", port, String::new(), Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn answers() {
        assert_eq!(ask(&[0, 0, 0, 0, 2, 8, 1], "0").await, Outcome::Success(None));
        let Outcome::Failure(text) = ask(&[0, 0, 0, 0, 2, 8, 2], "0").await else { panic!() };
        assert_eq!(text, "service unhealthy (responded with \"NOT_SERVING\")");
        let Outcome::Failure(text) = ask(&[], "12").await else { panic!() };
        assert!(text.contains("does not implement the grpc health protocol"), "{text}");
    }
}
