//! Statistics, as the kubelet asks for them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use isopod_cri::v1::*;
use parking_lot::Mutex;

use crate::cgroup::Stats;
use crate::client::blocking;
use crate::error::Error;
use crate::images::Usage;
use crate::runtime::{Container, Inner, Sandbox, now};
use crate::snapshot::Snapshot;

/// Rates over a shorter time are noise; the last one is answered again.
const RATE_NANOS_MIN: i64 = 500_000_000;
/// A walk over what a container wrote is repeated after this time.
const DISK_NANOS_MAX: i64 = 60_000_000_000;

/// CPU time used up to a moment, and the rate before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuSample {
    at: i64,
    nanos: u64,
    rate: Option<u64>,
}

/// What a container's own directory took at a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DiskSample {
    at: i64,
    pub(crate) usage: Usage,
}

fn value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

fn cpu(sample: &Mutex<Option<CpuSample>>, stats: &Stats, at: i64) -> CpuUsage {
    let mut sample = sample.lock();
    let rate = match *sample {
        Some(last) if at - last.at < RATE_NANOS_MIN => last.rate,
        Some(last) => {
            let used = u128::from(stats.cpu_nanos.saturating_sub(last.nanos));
            u64::try_from(used * 1_000_000_000 / u128::from(at.abs_diff(last.at))).ok()
        }
        None => None,
    };
    if sample.is_none_or(|last| at - last.at >= RATE_NANOS_MIN) {
        *sample = Some(CpuSample { at, nanos: stats.cpu_nanos, rate });
    }
    CpuUsage {
        timestamp: at,
        usage_core_nano_seconds: value(stats.cpu_nanos),
        usage_nano_cores: rate.and_then(value),
        psi: None,
    }
}

fn memory(stats: &Stats, at: i64) -> MemoryUsage {
    MemoryUsage {
        timestamp: at,
        working_set_bytes: value(stats.working_set_bytes),
        available_bytes: stats
            .memory_limit_bytes
            .and_then(|limit| value(limit.saturating_sub(stats.working_set_bytes))),
        usage_bytes: value(stats.memory_usage_bytes),
        rss_bytes: value(stats.rss_bytes),
        page_faults: value(stats.page_faults),
        major_page_faults: value(stats.major_page_faults),
        psi: None,
    }
}

/// Space below a directory.
fn walk(dir: &Path) -> Usage {
    let mut usage = Usage::default();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        usage.bytes += metadata.blocks() * 512;
        usage.inodes += 1;
        if metadata.is_dir() {
            let below = walk(&entry.path());
            usage.bytes += below.bytes;
            usage.inodes += below.inodes;
        }
    }
    usage
}

impl Inner {
    pub(crate) fn fs_usage(path: &Path, usage: Usage, at: i64) -> FilesystemUsage {
        FilesystemUsage {
            timestamp: at,
            fs_id: Some(FilesystemIdentifier { mountpoint: path.display().to_string() }),
            used_bytes: value(usage.bytes),
            inodes_used: value(usage.inodes),
        }
    }

    async fn disk(&self, container: &Arc<Container>) -> Usage {
        let at = now();
        if let Some(sample) = *container.disk.lock()
            && at - sample.at < DISK_NANOS_MAX
        {
            return sample.usage;
        }
        let upper = Snapshot::new(&container.dir).upper();
        let usage = blocking(move || Ok(walk(&upper))).await.unwrap_or_default();
        *container.disk.lock() = Some(DiskSample { at, usage });
        usage
    }

    /// Statistics of a container; those of one that does not run have no CPU and no memory.
    pub(crate) async fn container_stats(&self, container: &Arc<Container>) -> ContainerStats {
        let at = now();
        let disk = self.disk(container).await;
        let group = container.record.lock().cgroup.clone();
        let stats = match container.is_running() {
            true => self.cgroups.stats(&group).ok(),
            false => None,
        };
        let config = container.config.read();
        ContainerStats {
            attributes: Some(ContainerAttributes {
                id: container.id.clone(),
                metadata: config.metadata.clone(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
            }),
            cpu: stats.as_ref().map(|stats| cpu(&container.cpu, stats, at)),
            memory: stats.as_ref().map(|stats| memory(stats, at)),
            writable_layer: Some(Self::fs_usage(&self.config.root.join("containers"), disk, at)),
            swap: stats.as_ref().map(|stats| SwapUsage {
                timestamp: at,
                swap_available_bytes: None,
                swap_usage_bytes: value(stats.swap_bytes),
            }),
            io: None,
        }
    }

    /// Statistics of a sandbox with its containers.
    pub(crate) async fn sandbox_stats(&self, sandbox: &Arc<Sandbox>) -> Result<PodSandboxStats, Error> {
        let at = now();
        let mut containers = Vec::new();
        for container in self.containers_of(&sandbox.id) {
            if container.is_running() {
                containers.push(self.container_stats(&container).await);
            }
        }
        let stats = self.cgroups.stats(&sandbox.cgroup_parent()).ok();
        let (shim, own_network) = {
            let record = sandbox.record.lock();
            (record.shim_pid, record.netns.is_some())
        };
        let linux = LinuxPodSandboxStats {
            cpu: stats.as_ref().map(|stats| cpu(&sandbox.cpu, stats, at)),
            memory: stats.as_ref().map(|stats| memory(stats, at)),
            network: (own_network && sandbox.is_ready()).then(|| network(shim, at)),
            process: stats
                .as_ref()
                .map(|stats| ProcessUsage { timestamp: at, process_count: value(stats.pids) }),
            containers,
            io: None,
        };
        Ok(PodSandboxStats {
            attributes: Some(PodSandboxAttributes {
                id: sandbox.id.clone(),
                metadata: sandbox.config.metadata.clone(),
                labels: sandbox.config.labels.clone(),
                annotations: sandbox.config.annotations.clone(),
            }),
            linux: Some(linux),
            windows: None,
        })
    }
}

/// Counters of the pod's interfaces, seen through its shim.
fn network(shim: i32, at: i64) -> NetworkUsage {
    let text = std::fs::read_to_string(format!("/proc/{shim}/net/dev")).unwrap_or_default();
    let mut interfaces: Vec<NetworkInterfaceUsage> = text.lines().filter_map(interface).collect();
    let main = interfaces.iter().position(|interface| interface.name == "eth0");
    let default_interface = main.map(|i| interfaces.remove(i));
    NetworkUsage { timestamp: at, default_interface, interfaces }
}

/// `name: rx_bytes rx_packets rx_errors … (8 columns) tx_bytes tx_packets tx_errors …`
fn interface(line: &str) -> Option<NetworkInterfaceUsage> {
    let (name, counters) = line.split_once(':')?;
    let name = name.trim();
    let counters: Vec<u64> = counters.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    if name == "lo" || counters.len() < 16 {
        return None;
    }
    Some(NetworkInterfaceUsage {
        name: name.to_owned(),
        rx_bytes: value(counters[0]),
        rx_errors: value(counters[2]),
        tx_bytes: value(counters[8]),
        tx_errors: value(counters[10]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_interfaces() {
        let line = "  eth0: 1500      10    1    0    0     0          0         0     2500      20    2    0    0     0       0          0";
        let usage = interface(line).unwrap();
        assert_eq!((usage.name.as_str(), usage.rx_bytes, usage.tx_errors), ("eth0", value(1500), value(2)));
        assert!(interface("    lo: 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1").is_none());
        assert!(interface("Inter-|   Receive").is_none());
    }

    #[test]
    fn a_rate_needs_two_samples_apart() {
        let sample = Mutex::new(None);
        let stats = |cpu_nanos| Stats { cpu_nanos, ..Stats::default() };
        assert_eq!(cpu(&sample, &stats(1_000_000_000), 1_000_000_000).usage_nano_cores, None);
        assert_eq!(cpu(&sample, &stats(1_200_000_000), 1_100_000_000).usage_nano_cores, None);
        assert_eq!(cpu(&sample, &stats(2_000_000_000), 3_000_000_000).usage_nano_cores, value(500_000_000));
        assert_eq!(cpu(&sample, &stats(2_000_000_001), 3_000_000_001).usage_nano_cores, value(500_000_000));
    }
}
