//! Subresources: one file each, found through one table.

mod binding;
mod ephemeral;
mod eviction;
mod finalize;
mod scale;

use std::sync::Arc;

use isopod_api::status::Status;

use crate::body::RequestBody;
use crate::context::Ctx;
use crate::handlers::Project;
use crate::registry::Resource;
use crate::registry::write::Part;
use crate::respond::{self, Answer, Shown};
use crate::server::ApiServer;
use crate::tunnel;

/// Subresources that write a part of their object: plural, name, and what the part is.
const PARTS: &[(&str, &str, Project)] = &[
    ("pods", "ephemeralcontainers", ephemeral::containers),
    ("pods", "resize", ephemeral::resize),
    ("namespaces", "finalize", finalize::namespace),
    ("certificatesigningrequests", "approval", finalize::approval),
];

/// Answers a request to a subresource.
pub(crate) async fn serve(
    server: &Arc<ApiServer>,
    ctx: &Arc<Ctx>,
    resource: &Arc<Resource>,
    body: RequestBody,
) -> Answer {
    let info = &ctx.info;
    let Some(sub) = resource.subresource(&info.subresource) else {
        return Err(Status::no_such_resource());
    };
    let facts = resource.facts;
    let verb = info.verb.as_str();
    if let Some(handler) = server.layers().virtual_resource(facts.group, facts.plural, sub.name) {
        if verb != "create" {
            return Err(Status::method_not_allowed());
        }
        return server.create_virtual(ctx, resource, &**handler, Some(sub), body).await;
    }
    let part = PARTS.iter().find(|(plural, name, _)| (*plural, *name) == (facts.plural, sub.name));
    let (part, project) = match part {
        Some((_, _, project)) => (Part::Subresource, Some(*project)),
        None => (Part::Status, None),
    };
    match (sub.name, verb) {
        ("log", "get") | ("exec" | "attach" | "portforward", "get" | "create") => {
            tunnel::kubelet::serve(server, ctx, resource).await
        }
        ("proxy", _) => tunnel::proxy::serve(server, ctx, resource, body).await,
        ("scale", _) => scale::serve(server, ctx, resource, body).await,
        ("binding", "create") => binding::serve(server, ctx, resource, body).await,
        ("eviction", "create") => eviction::serve(server, ctx, resource, body).await,
        _ if part == Part::Status && sub.name != "status" => Err(Status::method_not_allowed()),
        (_, "get") => {
            let entry = server.entry(resource, &info.namespace, &info.name, "").await?;
            respond::object(ctx, resource, 200, Shown::Entry(entry))
        }
        (_, "update") => server.serve_update(ctx, resource, part, project, body).await,
        (_, "patch") => server.serve_patch(ctx, resource, part, project, body).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// The resource whose POST binds a pod, beside `pods/binding`.
pub(crate) async fn create_binding(
    server: &Arc<ApiServer>,
    ctx: &Arc<Ctx>,
    resource: &Arc<Resource>,
    body: RequestBody,
) -> Answer {
    binding::serve(server, ctx, resource, body).await
}

/// The answer to a successful POST that stores nothing of its own.
fn success(ctx: &Ctx, resource: &Resource) -> Answer {
    let status = serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
        "status": "Success", "code": 201});
    ctx.audit_response(&status);
    Ok(respond::value_response(201, &status, &respond::accept(ctx)?, resource))
}
