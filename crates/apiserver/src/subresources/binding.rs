//! `pods/binding`, and `bindings`: a scheduler assigns a pod to a node.

use std::sync::Arc;

use isopod_api::Value;
use isopod_api::field::{Error, Path};
use isopod_api::object::child_mut;
use isopod_api::status::Status;
use serde_json::json;

use crate::body::RequestBody;
use crate::context::{Ctx, timestamp};
use crate::options::WriteOptions;
use crate::registry::Resource;
use crate::registry::decode::{decode_kind, media, read_body};
use crate::registry::write::{Manager, Part, Write};
use crate::respond::Answer;
use crate::server::ApiServer;

/// Sets a condition of an object's status by its type; the transition time moves only with the status.
pub(super) fn set_condition(object: &mut Value, mut condition: Value) {
    let status = child_mut(object, "status");
    let list = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(list) = list.as_array_mut() else { return };
    match list.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(old) => {
            if old["status"] == condition["status"] {
                condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = condition;
        }
        None => list.push(condition),
    }
}

fn assigned(pod: &Value, binding: &Value, node: &str, ctx: &Ctx) -> Result<Value, Status> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let conflict = |why: String| Err(Status::conflict("", "pods/binding", name, &why));
    let uid = binding["metadata"]["uid"].as_str().unwrap_or_default();
    if !uid.is_empty() && pod["metadata"]["uid"] != uid {
        let actual = pod["metadata"]["uid"].as_str().unwrap_or_default();
        return conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {actual}"
        ));
    }
    if pod["metadata"]["deletionTimestamp"].is_string() {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if let Some(current) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
        return conflict(format!("pod {name} is already assigned to node {current:?}"));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut new = pod.clone();
    child_mut(&mut new, "spec").insert("nodeName".to_owned(), node.into());
    for field in ["annotations", "labels"] {
        if let Some(added) = binding["metadata"][field].as_object() {
            let meta = new.get_mut("metadata").expect("a stored pod has metadata");
            let all = child_mut(meta, field);
            added.iter().for_each(|(k, v)| drop(all.insert(k.clone(), v.clone())));
        }
    }
    set_condition(
        &mut new,
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
            "lastTransitionTime": timestamp(ctx.now)}),
    );
    Ok(new)
}

/// Answers a POST of a Binding.
pub(super) async fn serve(
    server: &ApiServer,
    ctx: &Arc<Ctx>,
    resource: &Arc<Resource>,
    body: RequestBody,
) -> Answer {
    let options = WriteOptions::parse(&ctx.query, "CreateOptions", false)?;
    let facts = isopod_api::facts::builtin().kind("", "v1", "Binding");
    let schema = &facts.ok_or_else(|| Status::internal("no Binding"))?.schema;
    let bytes = read_body(body).await?;
    let binding =
        decode_kind(ctx, &bytes, media(ctx)?, schema, ("", "v1", "Binding"), options.field_validation)?;
    let sent = binding["metadata"]["name"].as_str().unwrap_or_default();
    let name = if ctx.info.name.is_empty() { sent } else { ctx.info.name.as_str() };
    if !sent.is_empty() && sent != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({sent}) does not match the name on the URL ({name})"
        )));
    }
    let target = &binding["target"];
    let mut errors = Vec::new();
    let at = Path::new("target");
    let kind = target["kind"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        errors.push(Error::not_supported(&at.child("kind"), kind, &["Node", "<empty>"]));
    }
    let node = target["name"].as_str().unwrap_or_default();
    if node.is_empty() {
        errors.push(Error::required(&at.child("name"), ""));
    }
    if !errors.is_empty() {
        return Err(Status::invalid("", "Binding", name, &errors));
    }
    let pods = server.registry().resource("", "v1", "pods").ok_or_else(Status::no_such_resource)?;
    let manager = Manager::of(ctx, &options);
    let write = Write { name, subresource: "binding", ..server.write(ctx, pods, &options, &manager) };
    let mut change = |pod: &Value| assigned(pod, &binding, node, ctx);
    write.update(Part::Subresource, &mut change, None).await?;
    super::success(ctx, resource)
}
