//! `isopod kube-controller-manager`.

use anyhow::{Context, Result};
use clap::Args;
use isopod_client::Informers;
use isopod_controller_manager::{Config, LeaderElection};
use std::path::PathBuf;
use std::sync::Arc;

/// Upstream's flags that are supported.
#[derive(Args, Debug, Clone)]
pub(crate) struct Flags {
    /// How to reach the API server
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Controllers to run: * for all, name to add one, -name to leave one out
    #[arg(long, value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    controllers: Vec<String>,
    /// Give nodes ranges of pod addresses
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, default_value_t = false, action = clap::ArgAction::Set)]
    allocate_node_cidrs: bool,
    /// Range of pod addresses
    #[arg(long, value_delimiter = ',')]
    cluster_cidr: Vec<ipnet::IpNet>,
    /// Prefix length of a node's range
    #[arg(long, default_value_t = 24)]
    node_cidr_mask_size: u8,
    /// Range of Service addresses
    #[arg(long, value_delimiter = ',')]
    service_cluster_ip_range: Vec<ipnet::IpNet>,
    /// CA published to pods
    #[arg(long)]
    root_ca_file: Option<PathBuf>,
    /// Elect a leader before doing anything
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    leader_elect: bool,
    /// Silence after which a node is unknown, such as 50s
    #[arg(long, default_value = "50s", value_parser = crate::config::duration)]
    node_monitor_grace_period: std::time::Duration,
    /// How often node health is looked at, such as 5s
    #[arg(long, default_value = "5s", value_parser = crate::config::duration)]
    node_monitor_period: std::time::Duration,
    /// Finished pods kept before the oldest are deleted
    #[arg(long, default_value_t = 12_500)]
    terminated_pod_gc_threshold: i64,
    /// Give each controller its own service account
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, default_value_t = false, action = clap::ArgAction::Set)]
    use_service_account_credentials: bool,
}

/// Runs the part.
pub(crate) async fn run(flags: Flags) -> Result<()> {
    let root_ca = flags.root_ca_file.as_deref().map(|p| super::read("root-ca-file", p)).transpose()?;
    let config = Config {
        controllers: flags.controllers,
        leader_elect: if flags.leader_elect {
            Some(LeaderElection::new(super::lease_identity()?))
        } else {
            None
        },
        allocate_node_cidrs: flags.allocate_node_cidrs,
        cluster_cidrs: flags.cluster_cidr,
        node_cidr_mask_size_ipv4: flags.node_cidr_mask_size,
        service_cidrs: flags.service_cluster_ip_range,
        node_monitor_period: flags.node_monitor_period,
        node_monitor_grace_period: flags.node_monitor_grace_period,
        terminated_pod_gc_threshold: flags.terminated_pod_gc_threshold,
        root_ca,
        ..Config::default()
    };
    config.validate()?;
    let client = super::client(&flags.kubeconfig).await?;
    let own = flags.use_service_account_credentials;
    let path = flags.kubeconfig.clone();
    super::until_signal(async |shutdown| {
        let clients: isopod_controller_manager::Clients = if own {
            let accounts = super::accounts::Accounts::new(client.clone(), &path, shutdown.clone()).await?;
            Arc::new(move |name: &str| accounts.client(name))
        } else {
            let client = client.clone();
            Arc::new(move |_: &str| client.clone())
        };
        let informers = Informers::new(client.clone(), shutdown.clone());
        Ok(isopod_controller_manager::run(config, clients, informers, shutdown).await?)
    })
    .await
    .context("kube-controller-manager")
}
