//! What every cluster has from its first start: roles, bindings, priority classes, and whom to trust.

mod authentication_config;
mod priority_classes;
mod rbac;

use std::sync::Arc;

use isopod_api::status::Status;

use crate::server::ApiServer;

/// Makes and mends them, and keeps summed-up roles up to date from then on.
pub(crate) async fn run(server: &Arc<ApiServer>) -> Result<(), Status> {
    priority_classes::ensure(server).await?;
    authentication_config::ensure(server).await?;
    rbac::reconcile(server).await?;
    tokio::spawn(rbac::keep_aggregated(Arc::clone(server)));
    Ok(())
}
