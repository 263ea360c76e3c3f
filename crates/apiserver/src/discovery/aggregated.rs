//! Aggregated discovery: everything in one document, with an ETag.

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use isopod_api::Value;
use serde_json::json;
use sha2::Digest as _;

use super::legacy::{groups, versions};
use crate::body::Body;
use crate::context::Ctx;
use crate::registry::Resource;
use crate::respond;
use crate::server::ApiServer;

/// A document and the hash of it.
#[derive(Debug, Clone)]
pub(super) struct Document {
    body: Bytes,
    etag: String,
}

/// The version of `apidiscovery.k8s.io` that a client accepts before plain JSON.
pub(super) fn wanted(accept: &str) -> Option<&'static str> {
    for range in crate::negotiate::ranges(accept) {
        let aggregated =
            range.param("g") == "apidiscovery.k8s.io" && range.param("as") == "APIGroupDiscoveryList";
        match (range.media, aggregated, range.param("v")) {
            ("application/json", true, "v2") => return Some("v2"),
            ("application/json", true, "v2beta1") => return Some("v2beta1"),
            ("application/json" | "*/*", false, _) if range.params.is_empty() => return None,
            _ => {}
        }
    }
    None
}

/// Answers with the document, or with 304 if the client has it.
pub(super) fn serve(server: &ApiServer, ctx: &Ctx, prefix: &str, version: &'static str) -> Response<Body> {
    let key = match (prefix, version) {
        ("api", "v2") => "api v2",
        ("api", _) => "api v2beta1",
        (_, "v2") => "apis v2",
        _ => "apis v2beta1",
    };
    let document = server
        .published
        .aggregated
        .lock()
        .entry(key)
        .or_insert_with(|| make(server, prefix, version))
        .clone();
    let content_type = match version {
        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    };
    let unchanged = ctx.header(header::IF_NONE_MATCH).trim_matches('"') == document.etag;
    let mut response = if unchanged {
        respond::with_body(304, content_type, Body::empty())
    } else {
        let gzip = respond::accept(ctx).is_ok_and(|a| a.gzip);
        respond::compressed(respond::with_body(200, content_type, Body::empty()), document.body, gzip)
    };
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{}\"", document.etag)) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn make(server: &ApiServer, prefix: &str, version: &str) -> Document {
    let names: Vec<&str> = if prefix == "api" { vec![""] } else { groups(server).collect() };
    let items: Vec<Value> = names.iter().map(|group| group_item(server, group)).collect();
    let value = json!({"kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items});
    let body = Bytes::from(value.to_string());
    let etag = sha2::Sha512::digest(&body).iter().map(|b| format!("{b:02X}")).collect();
    Document { body, etag }
}

fn group_item(server: &ApiServer, group: &str) -> Value {
    let versions: Vec<Value> = versions(server, group)
        .iter()
        .map(|version| {
            let mut resources: Vec<&std::sync::Arc<Resource>> = server
                .registry()
                .resources()
                .iter()
                .filter(|r| r.facts.group == group && r.facts.version == *version)
                .collect();
            resources.sort_by_key(|r| r.facts.plural);
            let resources: Vec<Value> = resources.iter().map(|r| resource_item(r)).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
    json!({"metadata": metadata, "versions": versions})
}

fn resource_item(resource: &Resource) -> Value {
    let facts = resource.facts;
    let kind =
        |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut item = json!({
        "resource": facts.plural,
        "responseKind": kind(facts.group, facts.version, facts.kind),
        "scope": if facts.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": facts.singular,
        "verbs": facts.verbs,
    });
    if !facts.short_names.is_empty() {
        item["shortNames"] = json!(facts.short_names);
    }
    if !facts.categories.is_empty() {
        item["categories"] = json!(facts.categories);
    }
    if !facts.subresources.is_empty() {
        let subs: Vec<Value> = facts
            .subresources
            .iter()
            .map(|s| {
                json!({"subresource": s.name, "responseKind": kind(s.group, s.version, s.kind),
                    "verbs": s.verbs})
            })
            .collect();
        item["subresources"] = subs.into();
    }
    item
}
