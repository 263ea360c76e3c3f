//! `isopod kube-proxy`.

use anyhow::{Result, bail};
use clap::Args;
use isopod_proxy::Config;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Upstream's flags that are supported.
#[derive(Args, Debug, Clone)]
pub(crate) struct Flags {
    /// How to reach the API server
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Name of the node
    #[arg(long)]
    hostname_override: Option<String>,
    /// Range of pod addresses
    #[arg(long, value_delimiter = ',')]
    cluster_cidr: Vec<ipnet::IpNet>,
    /// Only nftables is to be had
    #[arg(long, default_value = "nftables")]
    proxy_mode: String,
    /// Masquerade all traffic to cluster IPs
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, default_value_t = false, action = clap::ArgAction::Set)]
    masquerade_all: bool,
    /// Address of /healthz
    #[arg(long, default_value = "0.0.0.0:10256")]
    healthz_bind_address: SocketAddr,
    /// Address of /metrics
    #[arg(long, default_value = "127.0.0.1:10249")]
    metrics_bind_address: SocketAddr,
}

/// Runs the part.
pub(crate) async fn run(flags: Flags) -> Result<()> {
    if flags.proxy_mode != "nftables" {
        bail!("--proxy-mode: {:?} is not supported, only nftables", flags.proxy_mode);
    }
    let node_name = match flags.hostname_override {
        Some(name) => name,
        None => crate::config::hostname()?,
    };
    let config = Config {
        cluster_cidrs: flags.cluster_cidr,
        masquerade_all: flags.masquerade_all,
        healthz_bind_address: Some(flags.healthz_bind_address),
        metrics_bind_address: Some(flags.metrics_bind_address),
        ..Config::new(node_name)
    };
    let client = super::client(&flags.kubeconfig).await?;
    super::until_signal(async |shutdown| {
        let mut parts = tokio::task::JoinSet::new();
        // Routes to other nodes' pods need the rights that kube-proxy has: to read nodes.
        crate::agent::run_routes(client.clone(), &config.node_name, &mut parts, &shutdown);
        Ok(isopod_proxy::run(config, client, shutdown).await?)
    })
    .await
}
