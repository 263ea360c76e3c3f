//! kube-proxy: makes Services reachable from this node, with nftables.
//!
//! Shell around `isopod-servicerules`: watches Services, EndpointSlices and the node's own object, hands what changed
//! to the pure core, and applies the transaction it answers with `nft`. Every source of change ends in the same set of
//! dirty Services; nothing is remembered but desired state, so a failed transaction is followed by a full one.
//!
//! The only backend so far is nftables; where that is not to be had, [`run`] says why and ends.

mod config;
mod conntrack;
mod convert;
mod health;
mod http;
mod metrics;
mod nft;
mod proxier;
mod watch;

#[cfg(test)]
mod packets;

pub use config::{Config, NodePortAddresses};

use isopod_client::Informers;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Why the proxy ended or could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the configuration.
    #[error("kube-proxy configuration: {0}")]
    Config(String),
    /// No way to program the packet filter.
    #[error("no usable proxy backend: nftables: {0}")]
    NoBackend(#[source] NftError),
}

pub use nft::NftError;

/// Runs until `shutdown`. The rules stay in the kernel when it ends, so that a restart cuts no connection.
pub async fn run(config: Config, client: kube::Client, shutdown: CancellationToken) -> Result<(), Error> {
    let informers = Informers::new(client, shutdown.clone());
    run_shared(config, &informers, shutdown).await
}

/// [`run`] with informers that other parts of the process use too.
pub async fn run_shared(
    config: Config,
    informers: &Informers,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    config.validate()?;
    let version = nft::probe().await.map_err(Error::NoBackend)?;
    tracing::info!(backend = "nftables", version, "kube-proxy backend chosen");
    let health = Arc::new(health::Health::default());
    let servers = health::serve(&config, health.clone(), shutdown.clone());
    watch::run(&config, informers, health, &shutdown).await;
    servers.await;
    Ok(())
}

/// Removes our tables from the kernel.
pub async fn purge() -> Result<(), NftError> {
    for commands in isopod_servicerules::purge_commands() {
        nft::apply(&commands).await?;
    }
    Ok(())
}
