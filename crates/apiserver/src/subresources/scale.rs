//! `scale`: the number of replicas of a workload as `autoscaling/v1` Scale.

use std::sync::Arc;

use isopod_api::field::{Error, Path};
use isopod_api::object::child_mut;
use isopod_api::selector::LabelSelector;
use isopod_api::status::Status;
use isopod_api::{Value, codec, patch};
use serde_json::json;

use crate::body::RequestBody;
use crate::context::Ctx;
use crate::negotiate::{Accept, Target};
use crate::options::WriteOptions;
use crate::registry::Resource;
use crate::registry::decode::{decode_kind, media, read_body};
use crate::registry::patch::Patch;
use crate::registry::write::{Manager, Part};
use crate::respond::{self, Answer};
use crate::server::ApiServer;
use crate::table;

/// The Scale of a workload.
fn scale_of(object: &Value) -> Value {
    let meta = &object["metadata"];
    let mut metadata = json!({});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = meta.get(key) {
            metadata[key] = value.clone();
        }
    }
    let selector = &object["spec"]["selector"];
    let selector = match object["kind"].as_str() {
        Some("ReplicationController") => {
            let pairs = selector.as_object().into_iter().flatten();
            pairs
                .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
                .collect::<Vec<_>>()
                .join(",")
        }
        _ => LabelSelector::from_value(selector).map(|s| s.to_string()).unwrap_or_default(),
    };
    let mut spec = json!({});
    if let Some(replicas) = object["spec"]["replicas"].as_i64().filter(|r| *r != 0) {
        spec["replicas"] = replicas.into();
    }
    let mut status = json!({"replicas": object["status"]["replicas"].as_i64().unwrap_or(0)});
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

/// A Scale in the form the client accepts.
fn shown(ctx: &Ctx, scale: Value, accept: &Accept) -> Value {
    match &accept.target {
        Target::Object => scale,
        Target::Table(version) => table::scale(ctx, scale, version),
        Target::Metadata(version) => respond::partial_metadata(&scale, version),
    }
}

/// Puts a Scale's replicas into its workload.
fn rescaled(current: &Value, scale: &Value, name: &str) -> Result<Value, Status> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let at = Path::new("spec").child("replicas");
        let error = Error::invalid(&at, replicas, "must be greater than or equal to 0");
        return Err(Status::invalid("autoscaling", "Scale", name, &[error]));
    }
    let mut new = current.clone();
    child_mut(&mut new, "spec").insert("replicas".to_owned(), replicas.into());
    let meta = child_mut(&mut new, "metadata");
    for key in ["resourceVersion", "uid", "name", "namespace"] {
        match scale["metadata"].get(key).filter(|v| v.as_str().is_some_and(|t| !t.is_empty())) {
            Some(value) => meta.insert(key.to_owned(), value.clone()),
            None => meta.remove(key),
        };
    }
    Ok(new)
}

/// Answers a request to a scale subresource.
pub(super) async fn serve(
    server: &ApiServer,
    ctx: &Arc<Ctx>,
    resource: &Arc<Resource>,
    body: RequestBody,
) -> Answer {
    let info = &ctx.info;
    let accept = respond::accept(ctx)?;
    if info.verb == "get" {
        let entry = server.entry(resource, &info.namespace, &info.name, "").await?;
        let scale = scale_of(&entry.object());
        ctx.audit_response(&scale);
        let scale = shown(ctx, scale, &accept);
        return Ok(respond::value_response(200, &scale, &accept, resource));
    }
    let facts = isopod_api::facts::builtin().kind("autoscaling", "v1", "Scale");
    let schema = &facts.ok_or_else(|| Status::internal("no Scale"))?.schema;
    let gvk = ("autoscaling", "v1", "Scale");
    let bytes = read_body(body).await?;
    let (kind, is_patch) = match info.verb.as_str() {
        "update" => ("UpdateOptions", false),
        "patch" => ("PatchOptions", true),
        _ => return Err(Status::method_not_allowed()),
    };
    let options = WriteOptions::parse(&ctx.query, kind, false)?;
    let manager = Manager::of(ctx, &options);
    let write = server.write(ctx, resource, &options, &manager);
    let updated = if is_patch {
        let sent = Patch::parse(ctx.header(http::header::CONTENT_TYPE), &bytes)?;
        let mut change = |current: &Value| {
            let mut scale = scale_of(current);
            let failed = |e: patch::PatchError| Status::bad_request(e.to_string());
            match &sent {
                Patch::Json(operations) => patch::json_patch(&mut scale, operations).map_err(failed)?,
                Patch::Merge(patch) => patch::merge_patch(&mut scale, patch),
                Patch::Strategic(patch) => {
                    patch::strategic_merge_patch(schema, &mut scale, patch).map_err(failed)?
                }
                Patch::Apply(document) => {
                    let applied =
                        codec::decode(document, codec::MediaType::Yaml, schema, options.field_validation)
                            .map_err(|e| Status::bad_request(e.bad_request("Scale", "v1")))?;
                    scale["spec"] = applied.value["spec"].clone();
                }
            }
            let scale = codec::normalize(scale, schema, options.field_validation)
                .map_err(|e| Status::bad_request(e.bad_request("Scale", "v1")))?;
            rescaled(current, &scale.value, &info.name)
        };
        write.update(Part::Subresource, &mut change, None).await?
    } else {
        let scale = decode_kind(ctx, &bytes, media(ctx)?, schema, gvk, options.field_validation)?;
        let mut change = |current: &Value| rescaled(current, &scale, &info.name);
        write.update(Part::Subresource, &mut change, None).await?
    };
    let scale = scale_of(&updated.object);
    ctx.audit_response(&scale);
    let scale = shown(ctx, scale, &accept);
    Ok(respond::value_response(200, &scale, &accept, resource))
}
