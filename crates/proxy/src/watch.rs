//! The loop: from changes of API objects to rounds of [`Proxier::sync`].

use crate::config::Config;
use crate::convert::{self, NodeInfo};
use crate::health::Health;
use crate::metrics::METRICS;
use crate::proxier::Proxier;
use isopod_client::{Informer, Informers, ObjectKey, Scope};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Index of slices by the Service they belong to.
const BY_SERVICE: &str = "proxy-service";

/// How long after a first change others are waited for: a rollout touches several objects at once.
const SETTLE: Duration = Duration::from_millis(3);

/// Pauses after nft refused, doubling.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Services to look at again. Bounded by the number of Services there are.
#[derive(Default)]
struct Dirty {
    services: Mutex<BTreeSet<String>>,
    node: Mutex<bool>,
    wake: Notify,
}

struct Sources {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    nodes: Informer<Node>,
    dirty: Arc<Dirty>,
}

impl Sources {
    fn start(config: &Config, informers: &Informers, health: &Arc<Health>) -> Self {
        let dirty = Arc::new(Dirty::default());
        let services = informers.get::<Service>();
        let slices = informers.get::<EndpointSlice>();
        let nodes = informers.scoped::<Node>(Scope::fields(&format!("metadata.name={}", config.node_name)));
        slices
            .add_index(BY_SERVICE, |slice: &EndpointSlice| convert::service_of(slice).into_iter().collect());
        let mark = {
            let (dirty, health) = (dirty.clone(), health.clone());
            move |names: &mut dyn Iterator<Item = String>| {
                dirty.services.lock().extend(names);
                health.queued();
                dirty.wake.notify_one();
            }
        };
        services.on_change({
            let mark = mark.clone();
            move |change| {
                METRICS.service_changes.inc();
                mark(&mut std::iter::once(change.key().to_string()));
            }
        });
        slices.on_change(move |change| {
            if !convert::is_ours(change.object()) {
                return;
            }
            METRICS.endpoint_changes.inc();
            let old = match change {
                isopod_client::Change::Updated { old, .. } => convert::service_of(old),
                _ => None,
            };
            mark(&mut old.into_iter().chain(convert::service_of(change.object())));
        });
        nodes.on_change({
            let dirty = dirty.clone();
            move |_| {
                *dirty.node.lock() = true;
                dirty.wake.notify_one();
            }
        });
        Self { services, slices, nodes, dirty }
    }

    async fn wait_synced(&self) {
        self.services.wait_synced().await;
        self.slices.wait_synced().await;
        self.nodes.wait_synced().await;
    }

    /// Hands what changed to the proxier.
    fn drain(&self, config: &Config, proxier: &mut Proxier<'_>) {
        let mut names = std::mem::take(&mut *self.dirty.services.lock());
        if std::mem::take(&mut *self.dirty.node.lock()) {
            let node = self.nodes.store().find("", &config.node_name);
            let info = node.as_deref().map(NodeInfo::of).unwrap_or_default();
            if proxier.set_node(info) {
                names.extend(self.services.store().keys().iter().map(ToString::to_string));
            }
        }
        for name in names {
            let service = self.services.store().get(&ObjectKey::from(name.as_str()));
            let slices = self.slices.store().by_index(BY_SERVICE, &name);
            proxier.set_service(&name, service.as_deref(), &slices);
        }
    }
}

/// Runs until `shutdown`.
pub(crate) async fn run(
    config: &Config,
    informers: &Informers,
    health: Arc<Health>,
    shutdown: &CancellationToken,
) {
    let sources = Sources::start(config, informers, &health);
    let mut proxier = Proxier::new(config, health.clone(), shutdown.clone());
    tokio::select! {
        () = shutdown.cancelled() => return,
        () = sources.wait_synced() => {}
    }
    let mut pause = RETRY_MIN;
    let mut checked = Instant::now();
    loop {
        let started = Instant::now();
        sources.drain(config, &mut proxier);
        let mut next_try = None;
        match proxier.sync().await {
            Ok(()) => {
                health.synced();
                pause = RETRY_MIN;
            }
            Err(error) => {
                tracing::warn!(error = %error, source = ?std::error::Error::source(&error), retry_in = ?pause,
                    "rules could not be applied");
                next_try = Some(Instant::now() + pause);
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sources.dirty.wake.notified() => {
                let earliest = (started + config.min_sync_period).max(Instant::now() + SETTLE);
                tokio::time::sleep_until(earliest).await;
            }
            () = at(next_try) => {}
            () = at(check_due(config, checked)) => {
                checked = Instant::now();
                if !proxier.table_is_there().await {
                    tracing::warn!("the rules are gone from the kernel; writing them again");
                    proxier.distrust_kernel();
                }
            }
        }
    }
}

fn check_due(config: &Config, checked: Instant) -> Option<Instant> {
    (!config.check_period.is_zero()).then(|| checked + config.check_period)
}

/// Waits until then; for ever if there is no such time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
