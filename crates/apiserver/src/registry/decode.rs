//! From a request body to an object in the storage version.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use isopod_api::codec::{self, FieldValidation};
use isopod_api::object::api_version;
use isopod_api::schema::Schema;
use isopod_api::status::Status;
use isopod_api::{Value, defaults};

use super::Resource;
use crate::body::RequestBody;
use crate::context::Ctx;
use crate::limits;
use crate::negotiate::{self, Media};

/// Reads a whole body, within the limits of size and time.
pub async fn read_body(body: RequestBody) -> Result<Bytes, Status> {
    match tokio::time::timeout(limits::BODY_READ_TIMEOUT, collect(body)).await {
        Ok(result) => result,
        Err(_) => Err(Status::timeout("the request body did not arrive in time")),
    }
}

async fn collect(mut body: RequestBody) -> Result<Bytes, Status> {
    let mut first = Bytes::new();
    let mut more: Option<BytesMut> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Status::bad_request(format!("reading the request body: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + more.as_ref().map_or(0, BytesMut::len) + data.len() > limits::REQUEST_BODY_BYTES_MAX
        {
            return Err(Status::too_large(&format!("limit is {}", limits::REQUEST_BODY_BYTES_MAX)));
        }
        // Most bodies are one frame, which is kept as it came.
        match &mut more {
            Some(more) => more.extend_from_slice(&data),
            None if first.is_empty() => first = data,
            None => {
                let mut joined = BytesMut::with_capacity((first.len() + data.len()) * 2);
                joined.extend_from_slice(&std::mem::take(&mut first));
                joined.extend_from_slice(&data);
                more = Some(joined);
            }
        }
    }
    Ok(more.map_or(first, BytesMut::freeze))
}

/// The media type of a request's body.
pub fn media(ctx: &Ctx) -> Result<Media, Status> {
    let header = ctx.parts.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    negotiate::of_body(header)
}

/// Refuses documents nested deeper than any real object, before a recursive decoder meets them.
pub fn check_depth(bytes: &[u8]) -> Result<(), Status> {
    let (mut depth, mut text, mut escaped) = (0usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b'{' | b'[' if !text => {
                depth += 1;
                if depth > limits::JSON_DEPTH_MAX {
                    return Err(Status::bad_request(format!(
                        "the document is nested deeper than {} levels",
                        limits::JSON_DEPTH_MAX
                    )));
                }
            }
            b'}' | b']' if !text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Decodes an object of `kind` by its schema; unknown fields become warnings.
pub fn decode_kind(
    ctx: &Ctx,
    bytes: &[u8],
    media: Media,
    schema: &Schema,
    (group, version, kind): (&str, &str, &str),
    validation: FieldValidation,
) -> Result<Value, Status> {
    if bytes.is_empty() {
        return Err(Status::bad_request("EOF"));
    }
    if media == Media::Json {
        check_depth(bytes)?;
    }
    let wanted = api_version(group, version);
    let (sent_version, sent_kind) =
        codec::peek(bytes, media).map_err(|e| Status::bad_request(e.to_string()))?;
    if !sent_kind.is_empty() && sent_kind != kind || !sent_version.is_empty() && sent_version != wanted {
        return Err(Status::bad_request(format!(
            "{sent_kind} in version {:?} cannot be handled as a {kind}: no kind {sent_kind:?} is registered for this request; expected {wanted}, Kind={kind}",
            sent_version
        )));
    }
    let decoded = codec::decode(bytes, media, schema, validation)
        .map_err(|e| Status::bad_request(e.bad_request(kind, version)))?;
    decoded.warnings.into_iter().for_each(|w| ctx.warn(w));
    let mut object = decoded.value;
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".to_owned(), wanted.into());
        map.insert("kind".to_owned(), kind.into());
    }
    ctx.audit_request(&object);
    Ok(object)
}

/// Decodes, defaults and converts the body of a create or update.
pub fn decode_object(
    ctx: &Ctx,
    bytes: &[u8],
    resource: &Resource,
    validation: FieldValidation,
) -> Result<Value, Status> {
    let facts = resource.facts;
    let gvk = (facts.group, facts.version, facts.kind);
    let mut object = decode_kind(ctx, bytes, media(ctx)?, &facts.schema, gvk, validation)?;
    defaults::apply(facts.group, facts.version, facts.kind, &mut object);
    resource.to_storage(object)
}

#[cfg(test)]
mod tests {
    use super::check_depth;

    #[test]
    fn depth() {
        assert!(check_depth(b"{\"a\":[[{\"b\":\"[[[[\\\"[[\"}]]}").is_ok());
        assert!(check_depth("[".repeat(100_000).as_bytes()).is_err());
    }
}
