//! What the machine is and has, read from the kernel.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::{DaemonEndpoint, NodeDaemonEndpoints, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::config::Config;

/// Version that the node reports: the API level, and whose kubelet it is.
pub const KUBELET_VERSION: &str = "v1.36.3+isopod";

fn text(path: &str) -> String {
    fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default()
}

/// A value of /proc/meminfo, in bytes.
pub(crate) fn meminfo(key: &str) -> Option<u64> {
    let table = fs::read_to_string("/proc/meminfo").ok()?;
    let line = table.lines().find(|l| l.split(':').next() == Some(key))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Size, free bytes, inodes and free inodes of the file system that holds a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) capacity: u64,
    pub(crate) available: u64,
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
}

/// Asks the file system; the nearest directory that exists stands for one that does not yet.
pub(crate) fn disk(path: &Path) -> Disk {
    let existing = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    match nix::sys::statvfs::statvfs(existing) {
        Ok(s) => Disk {
            capacity: s.blocks() * s.fragment_size(),
            available: s.blocks_available() * s.fragment_size(),
            inodes: s.files(),
            inodes_free: s.files_available(),
        },
        Err(_) => Disk::default(),
    }
}

fn cpus() -> u64 {
    let online = text("/sys/devices/system/cpu/online");
    let count: u64 = online
        .split(',')
        .filter_map(|r| {
            let (a, b) = r.split_once('-').unwrap_or((r, r));
            let (a, b): (u64, u64) = (a.parse().ok()?, b.parse().ok()?);
            Some(b + 1 - a)
        })
        .sum();
    if count > 0 { count } else { std::thread::available_parallelism().map_or(1, |n| n.get() as u64) }
}

/// Huge page sizes in KiB, with how many there are.
fn huge_pages() -> Vec<(u64, u64)> {
    let dir = "/sys/kernel/mm/hugepages";
    let mut out = Vec::new();
    for e in fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
        let name = e.file_name().to_string_lossy().into_owned();
        let size =
            name.strip_prefix("hugepages-").and_then(|s| s.strip_suffix("kB")).and_then(|s| s.parse().ok());
        let count = text(&format!("{dir}/{name}/nr_hugepages")).parse().unwrap_or(0);
        out.extend(size.map(|s| (s, count)));
    }
    out
}

fn huge_page_name(kib: u64) -> String {
    match kib {
        k if k % (1 << 20) == 0 => format!("hugepages-{}Gi", k >> 20),
        k if k % (1 << 10) == 0 => format!("hugepages-{}Mi", k >> 10),
        k => format!("hugepages-{k}Ki"),
    }
}

type Resources = BTreeMap<String, Quantity>;

/// Capacity, and what of it pods may use.
pub(crate) fn resources(config: &Config) -> (Resources, Resources) {
    let memory = meminfo("MemTotal").unwrap_or(0);
    let storage = disk(&config.data_dir).capacity;
    let pages = huge_pages();
    let mut capacity = Resources::new();
    let mut put = |name: &str, value: String| {
        capacity.insert(name.to_owned(), Quantity(value));
    };
    put("cpu", cpus().to_string());
    put("memory", format!("{}Ki", memory / 1024));
    put("pods", config.max_pods.to_string());
    put("ephemeral-storage", format!("{}Ki", storage / 1024));
    for (kib, count) in &pages {
        let value = kib * count;
        put(&huge_page_name(*kib), if value == 0 { "0".into() } else { format!("{value}Ki") });
    }
    let mut allocatable = capacity.clone();
    let huge: u64 = pages.iter().map(|(kib, n)| kib * 1024 * n).sum();
    let reserve = config.eviction.memory_available_bytes + huge;
    let usable = memory.saturating_sub(reserve) / 1024;
    allocatable.insert("memory".into(), Quantity(format!("{usable}Ki")));
    let percent = u64::from(config.eviction.nodefs_available_percent.min(100));
    let usable = storage / 100 * (100 - percent);
    allocatable.insert("ephemeral-storage".into(), Quantity(usable.to_string()));
    (capacity, allocatable)
}

/// Architecture in Go's words.
pub(crate) fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Identity and software of the machine; `runtime` is the container runtime's name and version.
pub(crate) fn system(runtime: &(String, String)) -> NodeSystemInfo {
    let kernel =
        nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let os_image = os
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="))
        .map_or("Linux", |v| v.trim_matches('"'))
        .to_owned();
    let machine_id = text("/etc/machine-id");
    let uuid = text("/sys/class/dmi/id/product_uuid");
    NodeSystemInfo {
        architecture: arch().to_owned(),
        boot_id: text("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: format!("{}://{}", runtime.0, runtime.1),
        kernel_version: kernel,
        kube_proxy_version: String::new(),
        kubelet_version: KUBELET_VERSION.to_owned(),
        machine_id: machine_id.clone(),
        operating_system: "linux".to_owned(),
        os_image,
        system_uuid: if uuid.is_empty() { machine_id } else { uuid },
        swap: None,
    }
}

/// Where the kubelet's server listens.
pub(crate) fn endpoints(port: u16) -> NodeDaemonEndpoints {
    NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(port) }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine() {
        assert!(cpus() > 0 && meminfo("MemTotal").unwrap() > 0);
        assert!(disk(Path::new("/nonexistent/x")).capacity > 0);
        assert_eq!(
            (huge_page_name(2048).as_str(), huge_page_name(1 << 20).as_str()),
            ("hugepages-2Mi", "hugepages-1Gi")
        );
    }
}
