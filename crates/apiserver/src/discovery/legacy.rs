//! The discovery documents of old: `APIVersions`, `APIGroupList`, `APIGroup`, `APIResourceList`.

use base64::Engine as _;
use isopod_api::Value;
use isopod_api::object::api_version;
use isopod_api::status::Status;
use serde_json::json;
use sha2::Digest as _;

use crate::registry::Resource;
use crate::respond::{self, Answer};
use crate::server::ApiServer;

/// Served versions of a group, preferred first.
pub(super) fn versions(server: &ApiServer, group: &str) -> Vec<&'static str> {
    let facts = isopod_api::facts::builtin();
    let Some(known) = facts.groups().iter().find(|g| g.name == group) else { return Vec::new() };
    let served = |version: &str| {
        server.registry().resources().iter().any(|r| r.facts.group == group && r.facts.version == version)
    };
    known.versions.iter().copied().filter(|v| served(v)).collect()
}

/// Served groups but the core one, in order.
pub(super) fn groups(server: &ApiServer) -> impl Iterator<Item = &'static str> + '_ {
    let facts = isopod_api::facts::builtin();
    facts.groups().iter().map(|g| g.name).filter(|g| !g.is_empty() && !versions(server, g).is_empty())
}

/// `/`: the paths there are.
pub(super) fn root(server: &ApiServer) -> Value {
    let mut paths: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ]
    .map(str::to_owned)
    .to_vec();
    for group in groups(server) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions(server, group).iter().map(|v| format!("/apis/{group}/{v}")));
    }
    paths.sort();
    json!({"paths": paths})
}

/// `/api`.
pub(super) fn api(server: &ApiServer) -> Value {
    let address = format!("{}:{}", server.config.advertise_address, server.config.advertise_port);
    json!({"kind": "APIVersions", "versions": versions(server, ""),
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]})
}

fn api_group(server: &ApiServer, group: &str) -> Value {
    let versions: Vec<Value> = versions(server, group)
        .iter()
        .map(|v| json!({"groupVersion": api_version(group, v), "version": v}))
        .collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions.first()})
}

/// `/apis`.
pub(super) fn apis(server: &ApiServer) -> Value {
    let groups: Vec<Value> = groups(server).map(|g| api_group(server, g)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`.
pub(super) fn group(server: &ApiServer, group: &str) -> Answer {
    if group.is_empty() || versions(server, group).is_empty() {
        return Ok(respond::text(404, "404 page not found\n"));
    }
    let mut value = api_group(server, group);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Ok(respond::json_value(200, &value))
}

/// Upstream's hash of a kind in storage, by which clients see that a storage version changed.
fn storage_hash(resource: &Resource) -> String {
    let stored = &resource.stored;
    let text = format!("{}/{}/{}", stored.group, stored.version, stored.kind);
    base64::engine::general_purpose::STANDARD.encode(&sha2::Sha256::digest(text.as_bytes())[..8])
}

/// `/api/VERSION` and `/apis/GROUP/VERSION`.
pub(super) fn resources(server: &ApiServer, group: &str, version: &str) -> Answer {
    let mut list = Vec::new();
    for resource in server.registry().resources() {
        let facts = resource.facts;
        if facts.group != group || facts.version != version {
            continue;
        }
        let mut entry = json!({"name": facts.plural, "singularName": facts.singular,
            "namespaced": facts.namespaced, "kind": facts.kind, "verbs": facts.verbs});
        if !facts.short_names.is_empty() {
            entry["shortNames"] = json!(facts.short_names);
        }
        if !facts.categories.is_empty() {
            entry["categories"] = json!(facts.categories);
        }
        if resource.has_verb("get") {
            entry["storageVersionHash"] = storage_hash(resource).into();
        }
        list.push((facts.plural.to_owned(), entry));
        for sub in &facts.subresources {
            let name = format!("{}/{}", facts.plural, sub.name);
            let mut entry = json!({"name": name, "singularName": "", "namespaced": facts.namespaced,
                "kind": sub.kind, "verbs": sub.verbs});
            if (sub.group, sub.version) != (facts.group, facts.version) {
                entry["group"] = sub.group.into();
                entry["version"] = sub.version.into();
            }
            list.push((name, entry));
        }
    }
    if list.is_empty() {
        return Err(Status::no_such_resource());
    }
    list.sort_by(|a, b| a.0.cmp(&b.0));
    let list: Vec<Value> = list.into_iter().map(|(_, v)| v).collect();
    let value = json!({"kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": api_version(group, version), "resources": list});
    Ok(respond::json_value(200, &value))
}
