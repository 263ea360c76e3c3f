//! One write of a plan as one request.

use http::{Method, Request};
use isopod_reconcile::plan::{ApiError, PatchKind, Propagation, Target, Write};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

/// Bytes that need no escape in a path segment.
fn push_segment(path: &mut String, segment: &str) {
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// The URL path of an object or, without a name, of its collection.
pub(crate) fn path(target: &Target, subresource: Option<&str>) -> String {
    let resource = &target.resource;
    let mut path = if resource.group.is_empty() {
        format!("/api/{}", resource.version)
    } else {
        format!("/apis/{}/{}", resource.group, resource.version)
    };
    if let Some(namespace) = &target.namespace {
        path.push_str("/namespaces/");
        push_segment(&mut path, namespace);
    }
    path.push('/');
    path.push_str(&resource.plural);
    if !target.name.is_empty() {
        path.push('/');
        push_segment(&mut path, &target.name);
    }
    if let Some(subresource) = subresource {
        path.push('/');
        path.push_str(subresource);
    }
    path
}

fn request(method: Method, path: String, content_type: &str, body: &Value) -> Request<Vec<u8>> {
    let bytes = serde_json::to_vec(body).expect("a JSON value is always JSON");
    Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, content_type)
        .header(http::header::ACCEPT, "application/json")
        .body(bytes)
        .expect("the path is escaped and the headers are constants")
}

/// Asks for an object's metadata alone.
const PARTIAL: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
/// Asks for the metadata of a list of objects.
const PARTIAL_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

#[derive(serde::Deserialize)]
struct WithMeta {
    #[serde(default)]
    metadata: ObjectMeta,
}

#[derive(serde::Deserialize)]
struct ListOfMeta {
    #[serde(default)]
    items: Vec<WithMeta>,
}

fn read(path: String, accept: &str) -> Request<Vec<u8>> {
    Request::builder()
        .method(Method::GET)
        .uri(path)
        .header(http::header::ACCEPT, accept)
        .body(Vec::new())
        .expect("the path is escaped and the headers are constants")
}

/// Reads an object's metadata afresh.
pub(crate) async fn metadata(client: &kube::Client, target: &Target) -> Result<ObjectMeta, ApiError> {
    let found: WithMeta = client.request(read(path(target, None), PARTIAL)).await.map_err(error)?;
    Ok(found.metadata)
}

/// Reads the metadata of a collection afresh.
pub(crate) async fn metadata_list(
    client: &kube::Client,
    target: &Target,
) -> Result<Vec<ObjectMeta>, ApiError> {
    let found: ListOfMeta = client.request(read(path(target, None), PARTIAL_LIST)).await.map_err(error)?;
    Ok(found.items.into_iter().map(|item| item.metadata).collect())
}

/// Reads an object afresh.
pub(crate) async fn object<K: serde::de::DeserializeOwned>(
    client: &kube::Client,
    target: &Target,
) -> Result<K, ApiError> {
    client.request(read(path(target, None), "application/json")).await.map_err(error)
}

fn policy(propagation: Propagation) -> &'static str {
    match propagation {
        Propagation::Background => "Background",
        Propagation::Foreground => "Foreground",
        Propagation::Orphan => "Orphan",
    }
}

/// The request that carries out a write.
pub(crate) fn of(write: &Write) -> Request<Vec<u8>> {
    const JSON: &str = "application/json";
    match write {
        Write::Create { target, body } => {
            let collection = Target { name: String::new(), ..target.clone() };
            request(Method::POST, path(&collection, None), JSON, body)
        }
        Write::Update { target, subresource, body } => {
            request(Method::PUT, path(target, *subresource), JSON, body)
        }
        Write::Patch { target, subresource, kind, body } => {
            let content_type = match kind {
                PatchKind::Merge => "application/merge-patch+json",
                PatchKind::Strategic => "application/strategic-merge-patch+json",
            };
            request(Method::PATCH, path(target, *subresource), content_type, body)
        }
        Write::Delete { target, uid, resource_version, propagation, grace_seconds } => {
            let mut options = json!({ "apiVersion": "v1", "kind": "DeleteOptions" });
            if uid.is_some() || resource_version.is_some() {
                options["preconditions"] = json!({});
            }
            if let Some(uid) = uid {
                options["preconditions"]["uid"] = json!(uid);
            }
            if let Some(version) = resource_version {
                options["preconditions"]["resourceVersion"] = json!(version);
            }
            if let Some(propagation) = propagation {
                options["propagationPolicy"] = json!(policy(*propagation));
            }
            if let Some(seconds) = grace_seconds {
                options["gracePeriodSeconds"] = json!(seconds);
            }
            request(Method::DELETE, path(target, None), JSON, &options)
        }
        Write::DeleteCollection { target } => {
            let options = json!({
                "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
            });
            request(Method::DELETE, path(target, None), JSON, &options)
        }
    }
}

/// A client error in the form that decisions are made on.
pub(crate) fn error(error: kube::Error) -> ApiError {
    match error {
        kube::Error::Api(status) => {
            let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
            ApiError {
                code: status.code,
                reason: status.reason.clone(),
                message: status.message.clone(),
                namespace_terminating: causes.iter().any(|cause| cause.reason == "NamespaceTerminating"),
            }
        }
        other => ApiError {
            code: 0,
            reason: String::new(),
            message: other.to_string(),
            namespace_terminating: false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isopod_reconcile::plan::Resource;

    #[test]
    fn paths_and_escapes() {
        let target = |group: &str, plural: &str, namespace: Option<&str>, name: &str| Target {
            resource: Resource { group: group.into(), version: "v1".into(), plural: plural.into() },
            namespace: namespace.map(str::to_owned),
            name: name.into(),
        };
        assert_eq!(
            path(&target("", "pods", Some("d"), "a"), Some("status")),
            "/api/v1/namespaces/d/pods/a/status"
        );
        assert_eq!(
            path(&target("rbac.authorization.k8s.io", "clusterroles", None, "system:a/b"), None),
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:a%2Fb"
        );
        assert_eq!(path(&target("", "pods", Some("d"), ""), None), "/api/v1/namespaces/d/pods");
    }
}
