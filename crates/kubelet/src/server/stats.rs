//! `/stats/summary`: use of CPU, memory, disk and network by node, pod and container.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use http::Response;
use isopod_cri::v1;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::Body;
use crate::kubelet::Kubelet;
use crate::node::facts;
use crate::{image_gc, labels};

/// A sample of the node's CPU time, to tell the rate from the next one.
static LAST_CPU: Mutex<Option<(Timestamp, u64, u64)>> = Mutex::new(None);
/// Shorter spans give no meaningful rate.
const SPAN_MIN_MS: i128 = 1000;

/// CPU time and memory of the whole node.
pub(super) struct NodeUse {
    pub(super) cpu_nanos: u64,
    pub(super) cpu_rate: u64,
    pub(super) memory_usage: u64,
    pub(super) memory_available: u64,
    pub(super) working_set: u64,
}

pub(super) fn node_use(now: Timestamp) -> NodeUse {
    let cpu_nanos = cpu_nanos();
    let total = facts::meminfo("MemTotal").unwrap_or(0);
    let free = facts::meminfo("MemFree").unwrap_or(0);
    let available = facts::meminfo("MemAvailable").unwrap_or(0);
    let mut last = LAST_CPU.lock();
    let mut rate = last.map_or(0, |(_, _, rate)| rate);
    match *last {
        Some((at, nanos, _)) => {
            let span = now.as_millisecond() - at.as_millisecond();
            if i128::from(span) >= SPAN_MIN_MS {
                rate = cpu_nanos.saturating_sub(nanos) * 1000 / span.unsigned_abs().max(1);
                *last = Some((now, cpu_nanos, rate));
            }
        }
        None => *last = Some((now, cpu_nanos, 0)),
    }
    NodeUse {
        cpu_nanos,
        cpu_rate: rate,
        memory_usage: total.saturating_sub(free),
        memory_available: available,
        working_set: total.saturating_sub(available),
    }
}

/// CPU time of all processes since boot, from /proc/stat (in hundredths of a second).
fn cpu_nanos() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let Some(line) = stat.lines().next() else { return 0 };
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|v| v.parse().ok()).collect();
    // user, nice, system, then idle and iowait, then irq, softirq, steal.
    let busy: u64 =
        ticks.iter().enumerate().filter(|(i, _)| !matches!(i, 3 | 4) && *i < 8).map(|(_, v)| v).sum();
    busy * 10_000_000
}

fn number(v: Option<&v1::UInt64Value>) -> Value {
    v.map_or(Value::Null, |v| json!(v.value))
}

fn time(nanos: i64) -> Value {
    let t = Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or_default();
    json!(t.to_string())
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept: Map<String, Value> =
                map.into_iter().map(|(k, v)| (k, without_nulls(v))).filter(|(_, v)| !v.is_null()).collect();
            if kept.is_empty() { Value::Null } else { Value::Object(kept) }
        }
        other => other,
    }
}

fn cpu(c: Option<&v1::CpuUsage>) -> Value {
    let Some(c) = c else { return Value::Null };
    json!({
        "time": time(c.timestamp),
        "usageNanoCores": number(c.usage_nano_cores.as_ref()),
        "usageCoreNanoSeconds": number(c.usage_core_nano_seconds.as_ref()),
    })
}

fn memory(m: Option<&v1::MemoryUsage>) -> Value {
    let Some(m) = m else { return Value::Null };
    json!({
        "time": time(m.timestamp),
        "availableBytes": number(m.available_bytes.as_ref()),
        "usageBytes": number(m.usage_bytes.as_ref()),
        "workingSetBytes": number(m.working_set_bytes.as_ref()),
        "rssBytes": number(m.rss_bytes.as_ref()),
        "pageFaults": number(m.page_faults.as_ref()),
        "majorPageFaults": number(m.major_page_faults.as_ref()),
    })
}

fn disk(now: Timestamp, d: &facts::Disk) -> Value {
    json!({
        "time": now.to_string(),
        "availableBytes": d.available,
        "capacityBytes": d.capacity,
        "usedBytes": d.capacity.saturating_sub(d.available),
        "inodesFree": d.inodes_free,
        "inodes": d.inodes,
        "inodesUsed": d.inodes.saturating_sub(d.inodes_free),
    })
}

fn network(n: &v1::NetworkUsage) -> Value {
    let one = |i: &v1::NetworkInterfaceUsage| {
        json!({
            "name": i.name,
            "rxBytes": number(i.rx_bytes.as_ref()),
            "rxErrors": number(i.rx_errors.as_ref()),
            "txBytes": number(i.tx_bytes.as_ref()),
            "txErrors": number(i.tx_errors.as_ref()),
        })
    };
    let mut out = n.default_interface.as_ref().map_or_else(|| json!({}), one);
    out["time"] = time(n.timestamp);
    let all: Vec<Value> = n.default_interface.iter().chain(&n.interfaces).map(one).collect();
    out["interfaces"] = json!(all);
    out
}

fn container(c: &v1::ContainerStats, started: Option<String>, now: Timestamp, fs: &facts::Disk) -> Value {
    let name = c.attributes.as_ref().and_then(|a| a.metadata.as_ref()).map_or("", |m| m.name.as_str());
    let rootfs = c.writable_layer.as_ref().map(|w| {
        json!({
            "time": now.to_string(),
            "availableBytes": fs.available,
            "capacityBytes": fs.capacity,
            "usedBytes": number(w.used_bytes.as_ref()),
            "inodesUsed": number(w.inodes_used.as_ref()),
        })
    });
    json!({
        "name": name,
        "startTime": started,
        "cpu": cpu(c.cpu.as_ref()),
        "memory": memory(c.memory.as_ref()),
        "rootfs": rootfs,
    })
}

/// Statistics of all pods, by uid: the sandbox's, and its containers'.
pub(super) async fn by_pod(
    kubelet: &Kubelet,
) -> BTreeMap<String, (Option<v1::PodSandboxStats>, Vec<v1::ContainerStats>)> {
    let mut out: BTreeMap<String, (Option<v1::PodSandboxStats>, Vec<v1::ContainerStats>)> = BTreeMap::new();
    let containers =
        kubelet.runtime.list_container_stats(v1::ListContainerStatsRequest { filter: None }).await;
    for c in containers.map(|a| a.stats).unwrap_or_default() {
        let uid = c.attributes.as_ref().and_then(|a| a.labels.get(labels::POD_UID)).cloned();
        if let Some(uid) = uid {
            out.entry(uid).or_default().1.push(c);
        }
    }
    let sandboxes =
        kubelet.runtime.list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest { filter: None }).await;
    for s in sandboxes.map(|a| a.stats).unwrap_or_default() {
        let uid = s.attributes.as_ref().and_then(|a| a.metadata.as_ref()).map(|m| m.uid.clone());
        if let Some(uid) = uid {
            out.entry(uid).or_default().0 = Some(s);
        }
    }
    out
}

pub(super) async fn summary(kubelet: &Arc<Kubelet>) -> Response<Body> {
    let now = kubelet.now();
    let usage = node_use(now);
    let node_disk = facts::disk(&kubelet.config.data_dir);
    let image_disk = image_gc::usage(kubelet).await.unwrap_or_default();
    let mut stats = by_pod(kubelet).await;
    let mut pods = Vec::new();
    for p in kubelet.pods.list() {
        let Some((sandbox, containers)) = stats.remove(&p.uid) else { continue };
        let (pod, view) = (p.pod(), p.view());
        let linux = sandbox.and_then(|s| s.linux).unwrap_or_default();
        let started =
            |name: &str| view.observed.latest(name).and_then(|c| c.started_at).map(|t| t.to_string());
        let list: Vec<Value> = containers
            .iter()
            .map(|c| {
                let name =
                    c.attributes.as_ref().and_then(|a| a.metadata.as_ref()).map_or("", |m| m.name.as_str());
                container(c, started(name), now, &image_disk)
            })
            .collect();
        pods.push(json!({
            "podRef": {"name": pod.metadata.name, "namespace": pod.metadata.namespace, "uid": p.uid},
            "startTime": view.status.start_time.as_ref().map(|t| t.0.to_string()),
            "containers": list,
            "cpu": cpu(linux.cpu.as_ref()),
            "memory": memory(linux.memory.as_ref()),
            "network": linux.network.as_ref().map(network),
            "process_stats": {"process_count": linux.process.as_ref().map(|p| number(p.process_count.as_ref()))},
        }));
    }
    let node = json!({
        "nodeName": kubelet.config.node_name,
        "startTime": boot_time(now),
        "cpu": {
            "time": now.to_string(),
            "usageNanoCores": usage.cpu_rate,
            "usageCoreNanoSeconds": usage.cpu_nanos,
        },
        "memory": {
            "time": now.to_string(),
            "availableBytes": usage.memory_available,
            "usageBytes": usage.memory_usage,
            "workingSetBytes": usage.working_set,
        },
        "fs": disk(now, &node_disk),
        "runtime": {"imageFs": disk(now, &image_disk), "containerFs": disk(now, &image_disk)},
        "rlimit": {"time": now.to_string(), "maxpid": pid_max(), "curproc": processes()},
    });
    let pods: Vec<Value> = pods.into_iter().map(without_nulls).collect();
    super::json(&json!({"node": without_nulls(node), "pods": pods}))
}

fn boot_time(now: Timestamp) -> String {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: f64 = uptime.split_whitespace().next().and_then(|s| s.parse().ok()).unwrap_or(0.0);
    #[allow(clippy::cast_possible_truncation, reason = "uptimes are far below 2^63 seconds")]
    let span = jiff::SignedDuration::from_secs(seconds as i64);
    now.checked_sub(span).unwrap_or(now).to_string()
}

fn pid_max() -> Option<u64> {
    fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()
}

fn processes() -> Option<u64> {
    fs::read_to_string(Path::new("/proc/loadavg"))
        .ok()?
        .split_whitespace()
        .nth(3)?
        .split('/')
        .nth(1)?
        .parse()
        .ok()
}
