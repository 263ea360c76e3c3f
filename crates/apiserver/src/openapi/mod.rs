//! OpenAPI documents: version 2 (JSON and gnostic's protobuf) and version 3 (an index and one document a
//! group version).
//!
//! Documents are large and rarely read: each is made when asked for and let go of, one at a time. Their
//! ETags come from the version of the API alone, so that an unchanged client never causes one to be made.

mod gnostic;
mod paths;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use isopod_api::openapi::{Flavor, definitions, group_definitions};
use isopod_api::status::Status;
use isopod_api::{Map, Value};
use serde_json::json;
use sha2::Digest as _;

use crate::GIT_VERSION;
use crate::body::Body;
use crate::context::Ctx;
use crate::negotiate;
use crate::respond::{self, Answer};
use crate::server::ApiServer;

const V2_PROTO: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const V2_PROTO_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Lets one document be made at a time.
#[derive(Debug, Default)]
pub(crate) struct Turn(tokio::sync::Mutex<()>);

/// Answers a request below `/openapi`.
pub(crate) async fn serve(server: &Arc<ApiServer>, ctx: &Ctx, segments: &[&str]) -> Answer {
    match segments {
        ["openapi", "v2"] => v2(server, ctx).await,
        ["openapi", "v3"] => Ok(respond::json_value(200, &index(server))),
        ["openapi", "v3", rest @ ..] => v3(server, ctx, rest).await,
        _ => Err(Status::no_such_resource()),
    }
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": GIT_VERSION})
}

/// A hash that changes when the document of a place may.
fn hash(place: &str) -> String {
    let digest = sha2::Sha512::digest(format!("{GIT_VERSION} {} {place}", env!("CARGO_PKG_VERSION")));
    digest.iter().map(|b| format!("{b:02X}")).collect()
}

fn group_versions(server: &ApiServer) -> Vec<(&'static str, &'static str)> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    for resource in server.registry().resources() {
        let this = (resource.facts.group, resource.facts.version);
        if !found.contains(&this) {
            found.push(this);
        }
    }
    found
}

fn place(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn index(server: &ApiServer) -> Value {
    let mut paths = Map::new();
    for (group, version) in group_versions(server) {
        let place = place(group, version);
        let url = format!("/openapi/v3/{place}?hash={}", hash(&place));
        paths.insert(place, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

async fn v3(server: &Arc<ApiServer>, ctx: &Ctx, rest: &[&str]) -> Answer {
    let wanted = rest.join("/");
    let found = group_versions(server).into_iter().find(|(g, v)| place(g, v) == wanted);
    let Some((group, version)) = found else { return Err(Status::no_such_resource()) };
    let asked = ctx.query.get("hash");
    let etag = hash(&wanted);
    if !asked.is_empty() && asked != etag {
        let mut response = respond::with_body(301, "text/plain", Body::empty());
        let url = format!("/openapi/v3/{wanted}?hash={etag}");
        if let Ok(url) = HeaderValue::from_str(&url) {
            response.headers_mut().insert(header::LOCATION, url);
        }
        return Ok(response);
    }
    if let Some(unchanged) = unchanged(ctx, &etag) {
        return Ok(unchanged);
    }
    let _turn = server.published.openapi.0.lock().await;
    let server = Arc::clone(server);
    let bytes = tokio::task::spawn_blocking(move || {
        let schemas = group_definitions(group, version, Flavor::V3);
        let document = json!({"openapi": "3.0.0", "info": info(),
            "paths": paths::of(&server, Some((group, version)), Flavor::V3), "components": {"schemas": schemas}});
        serde_json::to_vec(&document).map(Bytes::from)
    })
    .await;
    let bytes = bytes.map_err(Status::internal)?.map_err(Status::internal)?;
    Ok(document(ctx, "application/json", bytes, &etag))
}

async fn v2(server: &Arc<ApiServer>, ctx: &Ctx) -> Answer {
    let ranges = ctx.header(header::ACCEPT).to_owned();
    let first = negotiate::ranges(&ranges)
        .into_iter()
        .find(|r| matches!(r.media, "application/json" | "*/*" | "application/*" | V2_PROTO | V2_PROTO_OLD));
    let proto = first.is_some_and(|r| matches!(r.media, V2_PROTO | V2_PROTO_OLD));
    let etag = hash(if proto { "v2 proto" } else { "v2" });
    if let Some(unchanged) = unchanged(ctx, &etag) {
        return Ok(unchanged);
    }
    let _turn = server.published.openapi.0.lock().await;
    let server = Arc::clone(server);
    let made = tokio::task::spawn_blocking(move || {
        let document = json!({"swagger": "2.0", "info": info(), "paths": paths::of(&server, None, Flavor::V2),
            "definitions": definitions(Flavor::V2)});
        if proto { gnostic::encode(&document) } else { document.to_string().into_bytes() }
    });
    let bytes = Bytes::from(made.await.map_err(Status::internal)?);
    let kind =
        if proto { "application/com.github.proto-openapi.spec.v2.v1.0+protobuf" } else { "application/json" };
    Ok(document(ctx, kind, bytes, &etag))
}

fn unchanged(ctx: &Ctx, etag: &str) -> Option<Response<Body>> {
    if ctx.header(header::IF_NONE_MATCH).trim_matches('"') != etag {
        return None;
    }
    let mut response = respond::with_body(304, "application/json", Body::empty());
    set_etag(&mut response, etag);
    Some(response)
}

fn set_etag(response: &mut Response<Body>, etag: &str) {
    if let Ok(value) = HeaderValue::from_str(&format!("\"{etag}\"")) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
}

fn document(ctx: &Ctx, kind: &'static str, bytes: Bytes, etag: &str) -> Response<Body> {
    let gzip = ctx.header(header::ACCEPT_ENCODING).contains("gzip");
    let mut response = respond::compressed(respond::with_body(200, kind, Body::empty()), bytes, gzip);
    set_etag(&mut response, etag);
    response
}
