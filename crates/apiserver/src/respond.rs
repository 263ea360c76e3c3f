//! Building answers: statuses, objects, lists.

use std::io::Write as _;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header};
use isopod_api::Value;
use isopod_api::codec::{self, proto};
use isopod_api::object::api_version;
use isopod_api::status::Status;
use serde_json::json;

use crate::body::Body;
use crate::cache::Entry;
use crate::context::Ctx;
use crate::limits;
use crate::negotiate::{self, Accept, Media, Target};
use crate::registry::Resource;
use crate::registry::list::Page;
use crate::table;

/// An answer on its way out.
pub(crate) type Answer = Result<Response<Body>, Status>;

/// A response with a body of one media type.
pub(crate) fn with_body(code: u16, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A plain text response.
pub(crate) fn text(code: u16, text: impl Into<String>) -> Response<Body> {
    let mut response = with_body(code, "text/plain; charset=utf-8", Body::full(text.into()));
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// A JSON response.
pub(crate) fn json_value(code: u16, value: &Value) -> Response<Body> {
    with_body(code, "application/json", Body::full(serde_json::to_vec(value).expect("values serialise")))
}

/// A failure (or success) as the client asked to read it; JSON if its wish cannot be met.
pub(crate) fn status(headers: &http::HeaderMap, status: &Status) -> Response<Body> {
    let media = negotiate::objects(headers).map_or(Media::Json, |a| a.media);
    let value = status.to_value();
    let body = match media {
        Media::Json => serde_json::to_vec(&value).expect("values serialise"),
        Media::Yaml => codec::encode(&value, media, meta_schema("Status")),
        Media::Protobuf => proto::encode_as(meta_schema("Status"), "v1", "Status", &value),
    };
    let mut response = with_body(status.code, media.as_str(), Body::full(body));
    if status.retry_after_seconds > 0 {
        response.headers_mut().insert(header::RETRY_AFTER, status.retry_after_seconds.into());
    }
    response
}

/// Schema of a type of `meta/v1`.
pub(crate) fn meta_schema(kind: &str) -> &'static isopod_api::schema::Schema {
    let facts = isopod_api::facts::builtin();
    &facts.kind("meta.k8s.io", "v1", kind).expect("the kinds of meta/v1 are built in").schema
}

/// One object to be sent, in the storage version of its kind.
pub(crate) enum Shown {
    /// From the cache.
    Entry(Arc<Entry>),
    /// Just made.
    Value(Value),
}

impl Shown {
    /// The object as a value.
    pub(crate) fn into_value(self) -> Value {
        match self {
            Shown::Entry(entry) => entry.object(),
            Shown::Value(value) => value,
        }
    }
}

/// How a request wants its objects.
pub(crate) fn accept(ctx: &Ctx) -> Result<Accept, Status> {
    let mut accept = negotiate::objects(&ctx.parts.headers)?;
    let agent = ctx.header(header::USER_AGENT);
    accept.pretty = match ctx.query.get("pretty") {
        "" => ["curl/", "Wget/", "Mozilla/"].iter().any(|a| agent.starts_with(a)),
        text => crate::request_info::parse_bool(text),
    };
    Ok(accept)
}

/// An object in the form the client accepts.
pub(crate) fn object(ctx: &Ctx, resource: &Resource, code: u16, shown: Shown) -> Answer {
    let accept = accept(ctx)?;
    let audited = ctx.audit.as_ref().is_some_and(|record| record.wants_response());
    if let (Shown::Entry(entry), Media::Json, Target::Object, false, true, false) =
        (&shown, accept.media, &accept.target, accept.pretty, resource.is_storage_version(), audited)
    {
        return Ok(with_body(code, "application/json", Body::full(entry.json.bytes().clone())));
    }
    let value = resource.to_version(shown.into_value());
    ctx.audit_response(&value);
    let value = match &accept.target {
        Target::Object => value,
        Target::Table(version) => table::single(ctx, resource, value, version),
        Target::Metadata(version) => partial_metadata(&value, version),
    };
    Ok(value_response(code, &value, &accept, resource))
}

/// A value of the resource's kind (or what it was transformed to) in the media type accepted.
pub(crate) fn value_response(
    code: u16,
    value: &Value,
    accept: &Accept,
    resource: &Resource,
) -> Response<Body> {
    let bytes = encode(value, accept, resource);
    compressed(with_body(code, accept.media.as_str(), Body::Full(None)), bytes, accept.gzip)
}

/// Serialises a value; its schema is found by its own kind.
pub(crate) fn encode(value: &Value, accept: &Accept, resource: &Resource) -> Bytes {
    match accept.media {
        Media::Json if accept.pretty => serde_json::to_vec_pretty(value).expect("values serialise").into(),
        Media::Json => serde_json::to_vec(value).expect("values serialise").into(),
        Media::Yaml => codec::encode(value, Media::Yaml, &resource.facts.schema).into(),
        Media::Protobuf => encode_proto(value, resource).into(),
    }
}

/// Protobuf with its envelope, whatever kind of the API the value is.
pub(crate) fn encode_proto(value: &Value, resource: &Resource) -> Vec<u8> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let (group, version) = isopod_api::object::split_api_version(api_version);
    match isopod_api::facts::builtin().kind(group, version, kind) {
        Some(facts) => proto::encode_as(&facts.schema, api_version, kind, value),
        None => proto::encode_object(&resource.facts.schema, value),
    }
}

/// Puts bytes into a response, compressed if they are many and the client allows it.
pub(crate) fn compressed(mut response: Response<Body>, bytes: Bytes, gzip: bool) -> Response<Body> {
    if !gzip || bytes.len() < limits::GZIP_BYTES_MIN {
        *response.body_mut() = Body::full(bytes);
        return response;
    }
    let mut encoder = gzip_encoder();
    let written = encoder.write_all(&bytes).and_then(|()| encoder.finish());
    match written {
        Ok(packed) => {
            gzip_headers(&mut response);
            *response.body_mut() = Body::full(packed);
        }
        Err(_) => *response.body_mut() = Body::full(bytes),
    }
    response
}

fn gzip_encoder() -> flate2::write::GzEncoder<Vec<u8>> {
    // Upstream's level: lists are repetitive, a low level already finds most of it.
    flate2::write::GzEncoder::new(
        Vec::with_capacity(limits::RESPONSE_CHUNK_BYTES),
        flate2::Compression::new(4),
    )
}

fn gzip_headers(response: &mut Response<Body>) {
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// Metadata alone.
pub(crate) fn partial_metadata(value: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": api_version("meta.k8s.io", version),
        "metadata": value.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// `metadata` of a list.
pub(crate) fn list_metadata(page: &Page) -> Value {
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if !page.continue_token.is_empty() {
        metadata["continue"] = page.continue_token.as_str().into();
    }
    if let Some(remaining) = page.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    metadata
}

/// A list in the form the client accepts.
pub(crate) fn list(ctx: &Ctx, resource: &Resource, page: Page) -> Answer {
    let accept = accept(ctx)?;
    if let Some(record) = ctx.audit.as_ref().filter(|record| record.wants_response()) {
        record.response_object(&list_value(resource, &page, list_metadata(&page)));
    }
    let plain = accept.media == Media::Json && accept.target == Target::Object && !accept.pretty;
    if plain && resource.is_storage_version() {
        return Ok(stream_list(resource, page, accept.gzip));
    }
    let metadata = list_metadata(&page);
    let value = match &accept.target {
        Target::Table(version) => table::list(ctx, resource, &page, metadata, version),
        Target::Metadata(version) => {
            let items: Vec<Value> = page
                .entries
                .iter()
                .map(|e| partial_metadata(&resource.to_version(e.object()), version))
                .collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": api_version("meta.k8s.io", version),
                "metadata": metadata, "items": items})
        }
        Target::Object => list_value(resource, &page, metadata),
    };
    Ok(value_response(200, &value, &accept, resource))
}

/// A list as one value.
fn list_value(resource: &Resource, page: &Page, metadata: Value) -> Value {
    let items: Vec<Value> = page
        .entries
        .iter()
        .map(|entry| {
            let mut item = resource.to_version(entry.object());
            if let Some(map) = item.as_object_mut() {
                map.remove("kind");
                map.remove("apiVersion");
            }
            item
        })
        .collect();
    json!({"kind": format!("{}List", resource.facts.kind), "apiVersion": resource.api_version(),
        "metadata": metadata, "items": items})
}

/// A list whose items are copied out of the cache, chunk by chunk.
fn stream_list(resource: &Resource, page: Page, gzip: bool) -> Response<Body> {
    let mut head = BytesMut::with_capacity(256);
    head.put_slice(b"{\"kind\":\"");
    head.put_slice(resource.facts.kind.as_bytes());
    head.put_slice(b"List\",\"apiVersion\":\"");
    head.put_slice(resource.api_version().as_bytes());
    head.put_slice(b"\",\"metadata\":");
    head.put_slice(list_metadata(&page).to_string().as_bytes());
    head.put_slice(b",\"items\":[");
    let size: usize = page.entries.iter().map(|e| e.json.bytes().len()).sum();
    let mut response = with_body(200, "application/json", Body::empty());
    let mut chunks = Chunks { entries: page.entries.into_iter(), buffer: head, first: true, done: false };
    if size < limits::RESPONSE_CHUNK_BYTES {
        *response.body_mut() = chunks.next().map_or_else(Body::empty, Body::full);
    } else if gzip && size >= limits::GZIP_BYTES_MIN {
        gzip_headers(&mut response);
        *response.body_mut() = Body::Chunks(Box::new(Gzipped { chunks, encoder: Some(gzip_encoder()) }));
    } else {
        *response.body_mut() = Body::Chunks(Box::new(chunks));
    }
    response
}

/// The body of a streamed list.
struct Chunks {
    entries: std::vec::IntoIter<Arc<Entry>>,
    buffer: BytesMut,
    first: bool,
    done: bool,
}

impl Iterator for Chunks {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        for entry in self.entries.by_ref() {
            if !std::mem::take(&mut self.first) {
                self.buffer.put_u8(b',');
            }
            let (open, rest) = entry.json.item();
            self.buffer.put_slice(open);
            self.buffer.put_slice(rest);
            if self.buffer.len() >= limits::RESPONSE_CHUNK_BYTES {
                return Some(self.buffer.split().freeze());
            }
        }
        self.done = true;
        self.buffer.put_slice(b"]}\n");
        Some(self.buffer.split().freeze())
    }
}

/// The same, compressed.
struct Gzipped {
    chunks: Chunks,
    encoder: Option<flate2::write::GzEncoder<Vec<u8>>>,
}

impl Iterator for Gzipped {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        loop {
            let encoder = self.encoder.as_mut()?;
            match self.chunks.next() {
                Some(chunk) => {
                    encoder.write_all(&chunk).expect("writing into memory");
                    if encoder.get_ref().len() >= limits::RESPONSE_CHUNK_BYTES {
                        return Some(std::mem::take(encoder.get_mut()).into());
                    }
                }
                None => {
                    let encoder = self.encoder.take()?;
                    return encoder.finish().ok().map(Bytes::from);
                }
            }
        }
    }
}
