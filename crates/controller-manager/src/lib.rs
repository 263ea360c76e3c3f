//! The control loops of kube-controller-manager in one process.
//!
//! A loop is made of a pure function in `isopod-reconcile` and one registration file in `controllers`, which says
//! which informers feed it, how an object becomes a key, and how the view for a key is gathered. Everything else is
//! shared: queues, workers, the executor of plans, events and metrics.

mod config;
mod context;
mod control_loop;
mod controllers;
mod discovery;
mod executor;
mod metrics;
mod request;

use std::sync::Arc;

use isopod_client::leader_election::Ended;
use isopod_client::{Informers, LeaderElectionConfig, LeaderElector, SystemClock};
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use config::{CertificateSigner, Config, Error, LeaderElection, TokenSigner};
pub use context::Clients;
pub use isopod_reconcile::certificate;

use context::Context;

/// The identity that reads for all loops and holds the lease.
const SELF: &str = "kube-controller-manager";

/// Runs the enabled control loops until `shutdown`, or until the lease is lost.
///
/// `clients` is asked once for each controller, by the name of its service account in kube-system, and with
/// `kube-controller-manager` for the process itself. `informers` may be shared with other parts of the process.
/// Nothing is assumed of the API server: it may come later, or go and come back.
pub async fn run(
    config: Config,
    clients: Clients,
    informers: Informers,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    config.validate()?;
    let election = config.leader_elect.clone();
    let work = |stop: CancellationToken| {
        let context = Context {
            config: Arc::new(config),
            clients: clients.clone(),
            informers,
            clock: Arc::new(SystemClock),
            shutdown: stop,
        };
        run_loops(context)
    };
    let Some(election) = election else {
        work(shutdown).await;
        return Ok(());
    };
    let settings = LeaderElectionConfig {
        namespace: election.namespace,
        name: election.name,
        identity: election.identity,
        lease_duration: election.lease_duration,
        renew_deadline: election.renew_deadline,
        retry_period: election.retry_period,
    };
    match LeaderElector::new(clients(SELF), settings).run(shutdown, work).await {
        Ended::Finished(()) | Ended::NeverLed => Ok(()),
        Ended::Lost => Err(Error::LostLease),
    }
}

async fn run_loops(context: Context) {
    let mut tasks = tokio::task::JoinSet::new();
    for (name, register) in controllers::ALL {
        if context.config.enables(name)
            && let Some(running) = register(&context)
        {
            info!(controller = name, "starting");
            tasks.spawn(running);
        }
    }
    while tasks.join_next().await.is_some() {}
}
