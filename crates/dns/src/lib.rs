//! Cluster DNS: names of Services and pods, by the Kubernetes DNS specification 1.1.0, and everything else by
//! forwarding.
//!
//! The zone ([`zone`], pure) is an index kept current by watches; a query for a cluster name is a few hash look-ups,
//! answered on the receiving task. Queries for other names go to the servers of the node's `resolv.conf`, bounded in
//! number and time, through a small cache.
//!
//! How pods reach it: the server listens on an address of the node (the pod network's gateway). The Service
//! `kube-system/kube-dns` has the well-known cluster IP, no selector, and one EndpointSlice a node that this crate
//! keeps; kube-proxy does the rest. Each slice hints that its endpoint is for its own node, so that a pod asks its
//! node's server and, if that is missing, another's. Who runs another DNS server under that Service (one with a
//! selector) is left alone.

mod cache;
mod config;
mod convert;
mod forward;
mod metrics;
mod publish;
mod resolv_conf;
mod resolve;
mod server;
mod watch;
pub mod zone;

#[cfg(test)]
mod dig;

pub use config::Config;

use isopod_client::Informers;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the configuration.
    #[error("cluster DNS configuration: {0}")]
    Config(String),
    /// An address could not be bound, for UDP or TCP.
    #[error("cluster DNS cannot listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
}

/// Serves until `shutdown`.
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
    let zone = Arc::new(zone::Zone::new(config.zone_settings()));
    let sources = watch::start(informers, zone.clone());
    // An empty zone would answer that names do not exist, and clients would remember that.
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        () = sources.wait_synced() => {}
    }
    let sockets = server::bind(&config).await?;
    let at = sockets.addresses();
    tracing::info!(addresses = ?at, domain = %config.domain, "cluster DNS is serving");
    let resolver = Arc::new(resolve::Resolver::new(zone, forward::Forwarder::new(&config, &at)));
    tokio::join!(
        sockets.serve(resolver, shutdown.clone()),
        publish::run(&config, informers, &at, &shutdown),
        metrics::serve(config.metrics_bind_addresses(), &shutdown),
    );
    Ok(())
}
