//! Discovery: which groups, versions and resources there are.

use std::sync::Arc;

use isopod_api::status::Status;
use parking_lot::Mutex;

use crate::context::Ctx;
use crate::respond::{self, Answer};
use crate::server::ApiServer;

mod aggregated;
mod legacy;

/// Documents made on demand.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) openapi: crate::openapi::Turn,
    aggregated: Mutex<std::collections::BTreeMap<&'static str, aggregated::Document>>,
}

/// Answers `/api`, `/apis` and below, and `/`.
pub(crate) fn serve(server: &Arc<ApiServer>, ctx: &Ctx, segments: &[&str]) -> Answer {
    match segments {
        [] | [""] => Ok(respond::json_value(200, &legacy::root(server))),
        [prefix @ ("api" | "apis")] => {
            if let Some(wanted) = aggregated::wanted(ctx.header(http::header::ACCEPT)) {
                return Ok(aggregated::serve(server, ctx, prefix, wanted));
            }
            let value = if *prefix == "api" { legacy::api(server) } else { legacy::apis(server) };
            Ok(respond::json_value(200, &value))
        }
        ["api", version] => legacy::resources(server, "", version),
        ["apis", group] => legacy::group(server, group),
        ["apis", group, version] => legacy::resources(server, group, version),
        _ => Err(Status::no_such_resource()),
    }
}
