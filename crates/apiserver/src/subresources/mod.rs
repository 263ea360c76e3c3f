//! Subresources.

use std::sync::Arc;

use isopod_api::status::Status;

use crate::body::RequestBody;
use crate::context::Ctx;
use crate::registry::Resource;
use crate::registry::write::Part;
use crate::respond::{self, Answer, Shown};
use crate::server::ApiServer;

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
    if let Some(handler) = server.layers().virtual_resource(facts.group, facts.plural, sub.name) {
        if info.verb != "create" {
            return Err(Status::method_not_allowed());
        }
        return server.create_virtual(ctx, resource, &**handler, Some(sub), body).await;
    }
    match (sub.name, info.verb.as_str()) {
        ("status", "get") => {
            let entry = server.entry(resource, &info.namespace, &info.name, "").await?;
            respond::object(ctx, resource, 200, Shown::Entry(entry))
        }
        ("status", "update") => server.serve_update(ctx, resource, Part::Status, body).await,
        ("status", "patch") => server.serve_patch(ctx, resource, Part::Status, body).await,
        _ => Err(Status::method_not_allowed()),
    }
}
