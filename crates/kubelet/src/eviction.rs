//! Eviction: when the node runs short, conditions say so, and pods go one at a time until it does not.

use std::sync::Arc;
use std::time::Duration;

use isopod_cri::v1;
use isopod_podplan::Ending;
use isopod_podplan::admit::Pressure;
use isopod_podplan::evict::{self, Candidate, Resource};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Notify;

use crate::image_gc;
use crate::kubelet::Kubelet;
use crate::node::facts;
use crate::{labels, metrics};

/// How often the node is looked at, as upstream does it.
const INTERVAL: Duration = Duration::from_secs(10);
/// Grace of an evicted pod's containers under a hard threshold.
const GRACE_SECONDS: i64 = 1;

/// One signal: what is short, what is left of it, and below what it counts.
#[derive(Clone, Debug)]
struct Signal {
    name: &'static str,
    resource: Resource,
    available: u64,
    threshold: u64,
}

impl Signal {
    fn met(&self) -> bool {
        self.available < self.threshold
    }
}

/// When each condition was last met.
#[derive(Clone, Copy, Default)]
struct LastMet {
    memory: Option<Timestamp>,
    disk: Option<Timestamp>,
    pids: Option<Timestamp>,
}

/// Watches over the node until shutdown; `changed` is told when a condition changes.
pub(crate) async fn run(kubelet: Arc<Kubelet>, changed: Arc<Notify>) {
    let mut last = LastMet::default();
    let mut timer = tokio::time::interval(INTERVAL);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        let signals = signals(&kubelet).await;
        let now = kubelet.now();
        if set_pressure(&kubelet, &signals, &mut last, now) {
            changed.notify_one();
        }
        let Some(signal) = signals.iter().find(|s| s.met()).cloned() else { continue };
        tracing::warn!(signal = signal.name, available = signal.available, "the node runs short");
        if signal.resource == Resource::Disk {
            image_gc::free_all(&kubelet).await;
            if self::signals(&kubelet).await.iter().all(|s| s.name != signal.name || !s.met()) {
                continue;
            }
        }
        evict_one(&kubelet, &signal).await;
    }
}

/// Available memory, as the kernel's working set accounting has it.
fn memory_available() -> u64 {
    facts::meminfo("MemAvailable").unwrap_or(u64::MAX)
}

async fn signals(kubelet: &Kubelet) -> Vec<Signal> {
    let e = kubelet.config.eviction;
    let mut out = Vec::new();
    if e.memory_available_bytes > 0 {
        out.push(Signal {
            name: "memory.available",
            resource: Resource::Memory,
            available: memory_available(),
            threshold: e.memory_available_bytes,
        });
    }
    let disk = |name, d: facts::Disk, percent: u8| Signal {
        name,
        resource: Resource::Disk,
        available: d.available,
        threshold: d.capacity / 100 * u64::from(percent),
    };
    out.push(disk("nodefs.available", facts::disk(&kubelet.config.data_dir), e.nodefs_available_percent));
    if let Ok(d) = image_gc::usage(kubelet).await {
        out.push(disk("imagefs.available", d, e.imagefs_available_percent));
    }
    if e.pid_available_percent > 0
        && let Some((used, max)) = pids()
    {
        out.push(Signal {
            name: "pid.available",
            resource: Resource::Pids,
            available: max.saturating_sub(used),
            threshold: max / 100 * u64::from(e.pid_available_percent),
        });
    }
    out
}

/// Processes that exist, and most that may.
fn pids() -> Option<(u64, u64)> {
    let max: u64 = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()?;
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    let used: u64 = load.split_whitespace().nth(3)?.split('/').nth(1)?.parse().ok()?;
    Some((used, max))
}

/// Sets the conditions; true if one changed. A condition stays for a while after its cause went.
fn set_pressure(kubelet: &Kubelet, signals: &[Signal], last: &mut LastMet, now: Timestamp) -> bool {
    let hold =
        SignedDuration::try_from(kubelet.config.eviction.pressure_transition).unwrap_or(SignedDuration::ZERO);
    let on = |resource: Resource, at: &mut Option<Timestamp>| {
        if signals.iter().any(|s| s.resource == resource && s.met()) {
            *at = Some(now);
        }
        at.is_some_and(|t| now.duration_since(t) < hold || t == now)
    };
    let new = Pressure {
        memory: on(Resource::Memory, &mut last.memory),
        disk: on(Resource::Disk, &mut last.disk),
        pids: on(Resource::Pids, &mut last.pids),
    };
    let mut current = kubelet.pressure.write();
    let old = (current.memory, current.disk, current.pids);
    *current = new;
    old != (new.memory, new.disk, new.pids)
}

async fn evict_one(kubelet: &Kubelet, signal: &Signal) {
    let pods: Vec<(Arc<Pod>, i64)> = usage(kubelet, signal.resource).await;
    let candidates: Vec<Candidate<'_>> =
        pods.iter().map(|(pod, used)| Candidate { pod, used: *used }).collect();
    let Some(chosen) = evict::first(&candidates, signal.resource) else {
        tracing::warn!(signal = signal.name, "no pod can be evicted");
        return;
    };
    let text = evict::message(
        signal.resource,
        &signal.threshold.to_string(),
        &signal.available.to_string(),
        &chosen,
    );
    let uid = chosen.pod.metadata.uid.as_deref().unwrap_or_default();
    kubelet.event(chosen.pod, None, true, "Evicted", text.clone());
    metrics::EVICTIONS.with_label_values(&[signal.name]).inc();
    if let Some(p) = kubelet.pods.get(uid) {
        p.change(|d| {
            d.ending = Some(Ending {
                reason: "Evicted".into(),
                message: text,
                grace_seconds: Some(GRACE_SECONDS),
                rejected: false,
            });
        });
    }
}

/// Use by pod: memory by the runtime's statistics, disk by writable layers, processes by sandbox.
async fn usage(kubelet: &Kubelet, resource: Resource) -> Vec<(Arc<Pod>, i64)> {
    let stats = kubelet.runtime.list_container_stats(v1::ListContainerStatsRequest { filter: None }).await;
    let stats = stats.map(|s| s.stats).unwrap_or_default();
    let of = |s: &v1::ContainerStats| match resource {
        Resource::Memory => s.memory.as_ref().and_then(|m| m.working_set_bytes).map_or(0, |v| v.value),
        Resource::Disk => s.writable_layer.as_ref().and_then(|w| w.used_bytes).map_or(0, |v| v.value),
        Resource::Pids => 1,
    };
    kubelet
        .pods
        .list()
        .into_iter()
        .filter(|p| !p.view().over)
        .map(|p| {
            let used: u64 = stats
                .iter()
                .filter(|s| s.attributes.as_ref().and_then(|a| a.labels.get(labels::POD_UID)) == Some(&p.uid))
                .map(of)
                .sum();
            (p.pod(), i64::try_from(used).unwrap_or(i64::MAX))
        })
        .collect()
}
