//! The objects every cluster has, made when the server starts.

mod compact;
mod kubernetes_service;

use std::sync::Arc;

use isopod_api::status::Status;
use serde_json::json;

use crate::server::ApiServer;

/// Namespaces that exist in every cluster.
const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Makes what is missing; safe to run by several servers at once.
pub(crate) async fn run(server: &Arc<ApiServer>) -> Result<(), Status> {
    for name in NAMESPACES {
        ensure(server, "", "namespaces", "", json!({"metadata": {"name": name}})).await?;
    }
    crate::bootstrap::run(server).await?;
    kubernetes_service::create(server).await?;
    tokio::spawn(kubernetes_service::keep(Arc::clone(server)));
    tokio::spawn(crate::services::repair::run(Arc::clone(server)));
    tokio::spawn(compact::run(Arc::clone(server)));
    Ok(())
}

/// Creates an object unless it exists.
pub(crate) async fn ensure(
    server: &ApiServer,
    group: &str,
    resource: &str,
    namespace: &str,
    object: serde_json::Value,
) -> Result<(), Status> {
    // Looked for first: creating what exists may fail for other reasons than that, such as an address that it holds.
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if server.stored_object(group, resource, namespace, name).await?.is_some() {
        return Ok(());
    }
    match server.create_object(group, resource, namespace, object).await {
        Ok(_) => Ok(()),
        Err(status) if status.reason == "AlreadyExists" => Ok(()),
        Err(status) => Err(status),
    }
}
