//! `isopod kube-scheduler`.

use super::serving::{self, ServingFlags};
use anyhow::Result;
use clap::Args;
use isopod_client::Informers;
use isopod_scheduler::{Config, LeaderElection};
use std::path::PathBuf;

/// Upstream's port of health and metrics.
const PORT: u16 = 10259;

/// Upstream's flags that are supported.
#[derive(Args, Debug, Clone)]
pub(crate) struct Flags {
    /// How to reach the API server
    #[arg(long)]
    kubeconfig: PathBuf,
    /// A KubeSchedulerConfiguration file
    #[arg(long)]
    config: Option<PathBuf>,
    /// Elect a leader before doing anything
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    leader_elect: bool,
    /// Namespace of the lease
    #[arg(long, default_value = "kube-system")]
    leader_elect_resource_namespace: String,
    /// Name of the lease
    #[arg(long, default_value = "kube-scheduler")]
    leader_elect_resource_name: String,
    #[command(flatten)]
    serving: ServingFlags,
}

/// Runs the part.
pub(crate) async fn run(flags: Flags) -> Result<()> {
    let mut config = match &flags.config {
        Some(path) => Config::from_yaml(&super::read("config", path)?)?,
        None => Config::default(),
    };
    if flags.leader_elect {
        config.leader_elect = Some(LeaderElection {
            namespace: flags.leader_elect_resource_namespace,
            name: flags.leader_elect_resource_name,
            ..LeaderElection::new(super::lease_identity()?)
        });
    }
    let client = super::client(&flags.kubeconfig).await?;
    super::until_signal(async |shutdown| {
        serving::start(&flags.serving, PORT, client.clone(), shutdown.clone()).await?;
        let informers = Informers::new(client.clone(), shutdown.clone());
        Ok(isopod_scheduler::run(config, client, informers, shutdown).await?)
    })
    .await
}
