//! kube-scheduler: watches pods and nodes, decides with `isopod-scheduling`, binds.
//!
//! One loop decides, one pod after the other; bindings run beside it. A pod that was decided for counts on its node
//! at once ("assumed") and is taken off again when its binding fails.

mod config;
mod metrics;
mod report;
mod state;

pub use config::{Config, Error, LeaderElection};

use isopod_client::{Change, EventRecorder, Informers, LeaderElectionConfig, LeaderElector};
use isopod_scheduling::{Outcome, PodInfo, schedule};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use state::State;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Bindings under way at once; each is one small request.
const BINDINGS_MAX: usize = 64;

struct Scheduler {
    client: kube::Client,
    recorder: EventRecorder,
    state: Mutex<State>,
    wake: Notify,
    bindings: Arc<Semaphore>,
    start: Instant,
}

/// Runs the scheduler until `shutdown`, after winning the Lease if one is configured.
///
/// # Errors
/// When the configuration is invalid or the Lease was lost.
pub async fn run(
    config: Config,
    client: kube::Client,
    informers: Informers,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    config.validate()?;
    let Some(election) = config.leader_elect.clone() else {
        return lead(config, client, informers, shutdown).await;
    };
    let lease = LeaderElectionConfig {
        lease_duration: election.lease_duration,
        renew_deadline: election.renew_deadline,
        retry_period: election.retry_period,
        ..LeaderElectionConfig::new(&election.namespace, &election.name, &election.identity)
    };
    let elector = LeaderElector::new(client.clone(), lease);
    match elector.run(shutdown, |stop| lead(config, client, informers, stop)).await {
        isopod_client::leader_election::Ended::Finished(result) => result,
        isopod_client::leader_election::Ended::NeverLed => Ok(()),
        isopod_client::leader_election::Ended::Lost => Err(Error::LostLease),
    }
}

async fn lead(
    config: Config,
    client: kube::Client,
    informers: Informers,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let profiles = config.profiles.iter().map(isopod_scheduling::plugins::profile).collect();
    let scheduler = Arc::new(Scheduler {
        recorder: EventRecorder::new(client.clone(), "default-scheduler", ""),
        client,
        state: Mutex::new(State::new(profiles)),
        wake: Notify::new(),
        bindings: Arc::new(Semaphore::new(BINDINGS_MAX)),
        start: Instant::now(),
    });
    let (nodes, pods) = (informers.get::<Node>(), informers.get::<Pod>());
    // Decisions before the caches are complete would put pods onto nodes that are full.
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        () = async { nodes.wait_synced().await; pods.wait_synced().await } => {}
    }
    let weak = Arc::downgrade(&scheduler);
    nodes.on_change(move |change| {
        if let Some(scheduler) = weak.upgrade() {
            scheduler.observe(|state, now| state.node_changed(change, now));
        }
    });
    let weak = Arc::downgrade(&scheduler);
    pods.on_change(move |change: &Change<Pod>| {
        if let Some(scheduler) = weak.upgrade() {
            scheduler.observe(|state, now| state.pod_changed(change, now));
        }
    });
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = scheduler.clone().decide() => {}
    }
    Ok(())
}

impl Scheduler {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn observe(&self, change: impl FnOnce(&mut State, Duration)) {
        change(&mut self.state.lock(), self.now());
        self.wake.notify_one();
    }

    async fn decide(self: Arc<Self>) {
        loop {
            let now = self.now();
            let (pod, next) = {
                let mut state = self.state.lock();
                let next = state.queue.tick(now);
                (state.queue.pop(), next)
            };
            if let Some(pod) = pod {
                self.clone().schedule_one(pod).await;
                continue;
            }
            metrics::pending(&self.state.lock().queue);
            let timer = async {
                match next {
                    Some(at) => tokio::time::sleep_until(self.start + at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.wake.notified() => {}
                () = timer => {}
            }
        }
    }

    async fn schedule_one(self: Arc<Self>, pod: Arc<PodInfo>) {
        let permit = self.bindings.clone().acquire_owned().await.expect("the semaphore is never closed");
        let began = Instant::now();
        let outcome = {
            let mut state = self.state.lock();
            let State { cache, profiles, next_start, .. } = &mut *state;
            let Some(profile) = profiles.iter().find(|p| p.scheduler_name == pod.scheduler_name()) else {
                state.queue.remove(&pod.uid);
                return;
            };
            let outcome = schedule(profile, cache, &pod, next_start, &mut |n| rand::random_range(0..n));
            match &outcome {
                Outcome::Bind { node } => state.assume(node, pod.clone()),
                Outcome::Unschedulable(unfit) => {
                    state.queue.refused(&pod.uid, refusers(unfit), self.now());
                }
            }
            outcome
        };
        metrics::attempt(&outcome, pod.scheduler_name(), began.elapsed());
        tokio::spawn(async move {
            match outcome {
                Outcome::Bind { node } => self.bind(pod, node, began).await,
                Outcome::Unschedulable(unfit) => self.report_unschedulable(&pod, &unfit.message).await,
            }
            drop(permit);
        });
    }
}

/// The plugins whose hints wake the pod. A cluster without nodes is refused by no plugin, but the first node helps:
/// every plugin that waits for nodes stands for that.
fn refusers(unfit: &isopod_scheduling::schedule::Unfit) -> Vec<&'static str> {
    if unfit.plugins.is_empty() { vec!["NodeName", "NodeUnschedulable"] } else { unfit.plugins.clone() }
}
