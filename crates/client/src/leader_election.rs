//! Leader election by a Lease, with upstream's fields and timings, so that a component here and upstream's can
//! compete for the same Lease.
//!
//! A leader is one only until its own renew deadline: when it cannot renew for that long it stops itself, before
//! the lease runs out for the others. Others judge the lease by when they saw it change, never by its timestamps,
//! so clocks need not agree.

use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use prometheus::{IntGaugeVec, register_int_gauge_vec};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::clock::{Clock, SystemClock};
use crate::informer::jittered;

static STATUS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "leader_election_master_status",
        "Whether this process leads (1) or not (0)",
        &["name"]
    )
    .expect("registered once, by this static")
});

/// Which lease, who, and how long.
#[derive(Debug, Clone)]
pub struct LeaderElectionConfig {
    /// The lease's namespace.
    pub namespace: String,
    /// The lease's name.
    pub name: String,
    /// Who this candidate is, unique among all of them.
    pub identity: String,
    /// How long others wait after the last renewal they saw.
    pub lease_duration: Duration,
    /// How long a leader goes on trying to renew before it stops leading.
    pub renew_deadline: Duration,
    /// Pause between tries.
    pub retry_period: Duration,
}

impl LeaderElectionConfig {
    /// Upstream's timings: 15 s, 10 s, 2 s.
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// How leading ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended<T> {
    /// The work ended by itself, or was told to by the shutdown; the lease was given up.
    Finished(T),
    /// Shut down before ever leading.
    NeverLed,
    /// The lease was lost; the work was cancelled. The process should exit, as upstream's do.
    Lost,
}

/// A candidate.
pub struct LeaderElector {
    api: Api<Lease>,
    config: LeaderElectionConfig,
    /// The lease as last seen, and when it was seen to change.
    observed: Option<(Lease, Instant)>,
}

impl LeaderElector {
    /// A candidate that speaks through `client`.
    pub fn new(client: kube::Client, config: LeaderElectionConfig) -> Self {
        Self { api: Api::namespaced(client, &config.namespace), config, observed: None }
    }

    /// Waits to lead, then runs `work` while the lease can be renewed. The token given to `work` is cancelled when
    /// the lease is lost or `shutdown` is.
    pub async fn run<T, F: Future<Output = T>>(
        mut self,
        shutdown: CancellationToken,
        work: impl FnOnce(CancellationToken) -> F,
    ) -> Ended<T> {
        let status = STATUS.with_label_values(&[&self.config.name]);
        status.set(0);
        tokio::select! {
            () = shutdown.cancelled() => return Ended::NeverLed,
            () = self.acquire() => {}
        }
        info!(lease = self.config.name, identity = self.config.identity, "leading");
        status.set(1);
        let stop = shutdown.child_token();
        let mut work = std::pin::pin!(work(stop.clone()));
        let ended = tokio::select! {
            result = &mut work => Ended::Finished(result),
            () = self.renew() => Ended::Lost,
        };
        status.set(0);
        stop.cancel();
        match &ended {
            Ended::Lost => warn!(lease = self.config.name, "lease lost"),
            _ => self.release().await,
        }
        ended
    }

    async fn acquire(&mut self) {
        loop {
            if self.try_acquire_or_renew().await {
                return;
            }
            tokio::time::sleep(jittered(self.config.retry_period)).await;
        }
    }

    /// Returns when the lease could not be renewed within the deadline.
    async fn renew(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.config.retry_period).await;
            let deadline = renewed + self.config.renew_deadline;
            let attempt = Instant::now();
            match tokio::time::timeout_at(deadline, self.try_acquire_or_renew()).await {
                Ok(true) => renewed = attempt,
                Ok(false) if Instant::now() < deadline => {}
                _ => return,
            }
        }
    }

    async fn try_acquire_or_renew(&mut self) -> bool {
        match self.attempt().await {
            Ok(held) => held,
            Err(error) => {
                debug!(lease = self.config.name, error = &error as &dyn std::error::Error, "lease");
                false
            }
        }
    }

    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let now = SystemClock.now();
        let Some(mut lease) = self.api.get_opt(&self.config.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.config.name.clone()),
                    namespace: Some(self.config.namespace.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.held_spec(None, now)),
            };
            let created = self.api.create(&PostParams::default(), &lease).await?;
            self.observe(created);
            return Ok(true);
        };
        self.observe(lease.clone());
        let spec = lease.spec.take().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or("");
        if !holder.is_empty() && holder != self.config.identity && self.is_valid(&spec) {
            return Ok(false);
        }
        lease.spec = Some(self.held_spec(Some(&spec), now));
        let replaced = self.api.replace(&self.config.name, &PostParams::default(), &lease).await?;
        self.observe(replaced);
        Ok(true)
    }

    /// Remembers when the lease changed, by this process's monotonic clock.
    fn observe(&mut self, lease: Lease) {
        let same = self.observed.as_ref().is_some_and(|(known, _)| known.spec == lease.spec);
        if !same {
            self.observed = Some((lease, Instant::now()));
        }
    }

    /// Whether another's lease is still to be honoured: it changed within its own duration.
    fn is_valid(&self, spec: &LeaseSpec) -> bool {
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let duration = seconds.map_or(self.config.lease_duration, Duration::from_secs);
        self.observed.as_ref().is_some_and(|(_, changed)| changed.elapsed() < duration)
    }

    fn held_spec(&self, before: Option<&LeaseSpec>, now: Timestamp) -> LeaseSpec {
        let ours = before.filter(|spec| spec.holder_identity.as_ref() == Some(&self.config.identity));
        let transitions = before.map(|spec| spec.lease_transitions.unwrap_or(0) + i32::from(ours.is_none()));
        LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: Some(
                i32::try_from(self.config.lease_duration.as_secs()).unwrap_or(i32::MAX),
            ),
            acquire_time: ours.and_then(|spec| spec.acquire_time.clone()).or(Some(MicroTime(now))),
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(transitions.unwrap_or(0)),
            preferred_holder: before.and_then(|spec| spec.preferred_holder.clone()),
            strategy: before.and_then(|spec| spec.strategy.clone()),
        }
    }

    /// Gives the lease up so that another can lead at once.
    async fn release(&mut self) {
        let now = SystemClock.now();
        let Some((mut lease, _)) = self.observed.take() else { return };
        let Some(spec) = &mut lease.spec else { return };
        if spec.holder_identity.as_ref() != Some(&self.config.identity) {
            return;
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(now));
        spec.acquire_time = Some(MicroTime(now));
        let params = PostParams::default();
        let replace = self.api.replace(&self.config.name, &params, &lease);
        if let Ok(Err(error)) = tokio::time::timeout(self.config.retry_period, replace).await {
            debug!(lease = self.config.name, error = &error as &dyn std::error::Error, "release");
        }
    }
}
