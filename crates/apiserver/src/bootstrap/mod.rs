//! What every cluster has from its first start: roles, bindings, priority classes, flow schemas, and whom to trust.

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
    tokio::try_join!(rbac::reconcile(server), crate::flow::configure::ensure(server))?;
    tokio::spawn(rbac::keep_aggregated(Arc::clone(server)));
    tokio::spawn(crate::flow::configure::keep(Arc::clone(server)));
    Ok(())
}
