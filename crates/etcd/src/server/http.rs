//! Health, version and metrics over plain HTTP.

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode, header};
use prometheus::{Encoder, TextEncoder};
use tonic::body::Body;

use crate::engine::{Engine, VERSION};

/// Answers a request that is not gRPC.
pub(super) fn answer(engine: &Engine, request: &Request<Incoming>) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return respond(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "method not allowed\n".to_owned());
    }
    match request.uri().path() {
        "/health" => health(engine),
        "/livez" => check(engine_is_live(engine), "the log cannot be written"),
        "/readyz" => check(engine.is_healthy(), "writes are not taken"),
        "/version" => {
            let body =
                format!(r#"{{"etcdserver":"{VERSION}","etcdcluster":"{VERSION}","storage":"{VERSION}"}}"#);
            respond(StatusCode::OK, "application/json", body)
        }
        "/metrics" => metrics(),
        _ => respond(StatusCode::NOT_FOUND, "text/plain", "404 page not found\n".to_owned()),
    }
}

/// A full disk does not make a restart useful; a log in an unknown state does.
fn engine_is_live(engine: &Engine) -> bool {
    !engine.shared().is_log_failed()
}

fn health(engine: &Engine) -> Response<Body> {
    let errors = engine.status().errors;
    let (status, healthy) = match errors.is_empty() && engine.is_healthy() {
        true => (StatusCode::OK, "true"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "false"),
    };
    let reason = errors.join("; ").replace(['"', '\\'], "'");
    respond(status, "application/json", format!(r#"{{"health":"{healthy}","reason":"{reason}"}}"#))
}

fn check(good: bool, reason: &str) -> Response<Body> {
    match good {
        true => respond(StatusCode::OK, "text/plain", "ok\n".to_owned()),
        false => respond(StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("{reason}\n")),
    }
}

fn metrics() -> Response<Body> {
    let mut body = Vec::new();
    let encoder = TextEncoder::new();
    match encoder.encode(&prometheus::gather(), &mut body) {
        Ok(()) => {
            let body = String::from_utf8_lossy(&body).into_owned();
            respond(StatusCode::OK, encoder.format_type(), body)
        }
        Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
    }
}

fn respond(status: StatusCode, content_type: &str, body: String) -> Response<Body> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, content_type)
        .body(Body::new(http_body_util::Full::new(bytes::Bytes::from(body))))
        .expect("fixed header names and content types are valid")
}
