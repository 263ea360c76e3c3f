//! Brings the bootstrap roles and bindings up to date at start, and sums up aggregated roles when others change.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use isopod_api::Value;
use isopod_api::status::Status;
use isopod_rules::rbac::GROUP;
use isopod_rules::rbac::aggregate::aggregated_rules;
use isopod_rules::rbac::bootstrap::{BindingPlan, policy, reconcile_binding, reconcile_role};

use crate::server::ApiServer;

/// Writes under way at once, so that they share the store's syncs.
const CONCURRENT_MAX: usize = 32;
/// How often it is looked whether a ClusterRole has changed: one comparison of two numbers.
const AGGREGATION_INTERVAL: Duration = Duration::from_secs(1);

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or("")
}

/// Creates what is missing and mends what is not as it must be.
pub(super) async fn reconcile(server: &Arc<ApiServer>) -> Result<(), Status> {
    let policy = policy();
    let kinds = [
        ("clusterroles", policy.cluster_roles),
        ("clusterrolebindings", policy.cluster_role_bindings),
        ("roles", policy.roles),
        ("rolebindings", policy.role_bindings),
    ];
    for (resource, expected) in kinds {
        let existing = server.cached_objects(GROUP, resource, "").await?;
        let key = |object: &Value| (text(object, "namespace").to_owned(), text(object, "name").to_owned());
        let existing: HashMap<_, _> = existing.into_iter().map(|object| (key(&object), object)).collect();
        let work = expected.into_iter().map(|expected| {
            let existing = existing.get(&key(&expected)).cloned();
            reconcile_one(server, resource, existing, expected)
        });
        stream::iter(work).buffer_unordered(CONCURRENT_MAX).try_collect::<()>().await?;
    }
    Ok(())
}

async fn reconcile_one(
    server: &ApiServer,
    resource: &'static str,
    existing: Option<Value>,
    expected: Value,
) -> Result<(), Status> {
    let (namespace, name) = (text(&expected, "namespace").to_owned(), text(&expected, "name").to_owned());
    let Some(existing) = existing else { return create(server, resource, &namespace, expected).await };
    let mended = if resource.ends_with("bindings") {
        match reconcile_binding(&existing, &expected) {
            BindingPlan::Keep => None,
            BindingPlan::Update(binding) => Some(binding),
            BindingPlan::Recreate => {
                server.delete_object(GROUP, resource, &namespace, &name).await?;
                return create(server, resource, &namespace, expected).await;
            }
        }
    } else {
        reconcile_role(&existing, &expected)
    };
    if mended.is_none() {
        return Ok(());
    }
    let mut change = |current: Value| {
        Ok(if resource.ends_with("bindings") {
            match reconcile_binding(&current, &expected) {
                BindingPlan::Update(binding) => Some(binding),
                _ => None,
            }
        } else {
            reconcile_role(&current, &expected)
        })
    };
    server.update_object(GROUP, resource, &namespace, &name, &mut change).await.map(|_| ())
}

/// Another server may have been faster.
async fn create(server: &ApiServer, resource: &str, namespace: &str, object: Value) -> Result<(), Status> {
    crate::poststart::ensure(server, GROUP, resource, namespace, object).await
}

/// Sums up aggregated roles whenever a ClusterRole has changed, until the server stops.
pub(super) async fn keep_aggregated(server: Arc<ApiServer>) {
    let shutdown = server.shutdown().clone();
    let mut done = -1;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(AGGREGATION_INTERVAL) => {}
        }
        let Ok(revision) = server.cached_revision(GROUP, "clusterroles").await else { continue };
        if revision == done {
            continue;
        }
        match aggregate(&server).await {
            Ok(()) => done = revision,
            Err(status) => tracing::debug!(error = status.message, "aggregated roles"),
        }
    }
}

async fn aggregate(server: &ApiServer) -> Result<(), Status> {
    let all = server.cached_objects(GROUP, "clusterroles", "").await?;
    for role in all.iter().filter(|role| !role["aggregationRule"].is_null()) {
        if aggregated_rules(role, &all).is_none() {
            continue;
        }
        let mut change = |mut current: Value| {
            Ok(aggregated_rules(&current, &all).map(|rules| {
                current["rules"] = rules;
                current
            }))
        };
        server.update_object(GROUP, "clusterroles", "", text(role, "name"), &mut change).await?;
    }
    Ok(())
}
