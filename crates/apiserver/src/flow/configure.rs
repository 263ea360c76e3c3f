//! The FlowSchemas and PriorityLevelConfigurations of the cluster: made at start, followed from then on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use isopod_api::Value;
use isopod_api::object::child_mut;
use isopod_api::status::Status;
use isopod_rules::flowcontrol::bootstrap::{flow_schemas, mended, priority_levels};
use isopod_rules::flowcontrol::level::PriorityLevel;
use isopod_rules::flowcontrol::schema::FlowSchema;
use serde_json::json;

use crate::context::timestamp;
use crate::server::ApiServer;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const LEVELS: &str = "prioritylevelconfigurations";
const SCHEMAS: &str = "flowschemas";
/// Writes under way at once, so that they share the store's syncs.
const CONCURRENT_MAX: usize = 32;
/// How often it is looked whether an object has changed: comparisons of numbers.
const INTERVAL: Duration = Duration::from_secs(1);

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// Creates the built-in objects that are missing and mends those that are not as they must be, then takes all over.
pub(crate) async fn ensure(server: &Arc<ApiServer>) -> Result<(), Status> {
    for (resource, expected) in [(LEVELS, priority_levels()), (SCHEMAS, flow_schemas())] {
        let existing = server.cached_objects(GROUP, resource, "").await?;
        let existing: HashMap<&str, &Value> = existing.iter().map(|object| (name(object), object)).collect();
        let work = expected.into_iter().map(|expected| {
            let current = existing.get(name(&expected)).copied().cloned();
            ensure_one(server, resource, current, expected)
        });
        stream::iter(work).buffer_unordered(CONCURRENT_MAX).try_collect::<()>().await?;
    }
    load(server).await
}

async fn ensure_one(
    server: &ApiServer,
    resource: &'static str,
    current: Option<Value>,
    expected: Value,
) -> Result<(), Status> {
    let Some(current) = current else {
        return crate::poststart::ensure(server, GROUP, resource, "", expected).await;
    };
    // Defaults are part of what is stored.
    let mut expected = expected;
    expected["apiVersion"] = current["apiVersion"].clone();
    let stored = server.registry().stored(GROUP, resource)?;
    isopod_api::defaults::apply(stored.group, stored.version, stored.kind, &mut expected);
    if mended(&current, &expected).is_none() {
        return Ok(());
    }
    let mut change = |current: Value| Ok(mended(&current, &expected));
    server.update_object(GROUP, resource, "", name(&expected), &mut change).await.map(|_| ())
}

/// Takes over the objects as they are now.
async fn load(server: &ApiServer) -> Result<(), Status> {
    // They may have been made just now: what the cache knows is too old.
    let levels = server.latest_objects(GROUP, LEVELS).await?;
    let schemas = server.latest_objects(GROUP, SCHEMAS).await?;
    server.flow.configure(
        levels.iter().map(PriorityLevel::of).collect(),
        schemas.iter().map(FlowSchema::of).collect(),
    );
    Ok(())
}

/// Follows the objects until the server stops.
pub(crate) async fn keep(server: Arc<ApiServer>) {
    let shutdown = server.shutdown().clone();
    let mut done = (-1, -1);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let revisions =
            (server.cached_revision(GROUP, LEVELS).await, server.cached_revision(GROUP, SCHEMAS).await);
        let (Ok(levels), Ok(schemas)) = revisions else { continue };
        if (levels, schemas) == done {
            continue;
        }
        let followed = async {
            ensure(&server).await?;
            tell_dangling(&server).await
        };
        match followed.await {
            Ok(()) => done = (levels, schemas),
            Err(status) => tracing::debug!(error = status.message, "flow schemas and priority levels"),
        }
    }
}

/// Says in each schema's status whether its level exists.
async fn tell_dangling(server: &ApiServer) -> Result<(), Status> {
    let levels = server.cached_objects(GROUP, LEVELS, "").await?;
    let schemas = server.cached_objects(GROUP, SCHEMAS, "").await?;
    for schema in &schemas {
        let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
        let exists = levels.iter().any(|l| name(l) == level);
        let now = timestamp(server.clock.now());
        let mut change = |current: Value| Ok(dangling(current, level, exists, &now));
        if dangling(schema.clone(), level, exists, &now).is_some() {
            server.update_object(GROUP, SCHEMAS, "", name(schema), &mut change).await?;
        }
    }
    Ok(())
}

/// The schema with its condition; `None` if it says so already.
fn dangling(mut schema: Value, level: &str, exists: bool, now: &Value) -> Option<Value> {
    let (status, reason, does) =
        if exists { ("False", "Found", "exists") } else { ("True", "NotFound", "does not exist") };
    let condition = json!({"type": "Dangling", "status": status, "reason": reason, "lastTransitionTime": now,
        "message": format!("its priority level {level:?} {does}")});
    let conditions = child_mut(&mut schema, "status").entry("conditions").or_insert_with(|| json!([]));
    let list = conditions.as_array_mut()?;
    match list.iter_mut().find(|c| c["type"] == "Dangling") {
        Some(old) if old["status"] == status && old["message"] == condition["message"] => return None,
        Some(old) => *old = condition,
        None => list.push(condition),
    }
    Some(schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_written_once() {
        let now = json!("2026-01-01T00:00:00Z");
        let schema = dangling(json!({"status": {}}), "l", true, &now).unwrap();
        assert_eq!(schema["status"]["conditions"][0]["status"], "False");
        assert_eq!(dangling(schema.clone(), "l", true, &json!("later")), None);
        let gone = dangling(schema, "l", false, &now).unwrap();
        assert_eq!(gone["status"]["conditions"].as_array().unwrap().len(), 1);
        assert_eq!(gone["status"]["conditions"][0]["reason"], "NotFound");
    }
}
