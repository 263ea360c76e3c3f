//! Names and values of cgroups, as upstream's cgroupfs driver has them.

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::resources;
use crate::spec;

/// The root of all pods' cgroups.
pub const ROOT: &str = "/kubepods";
/// Length of a CPU quota period, in microseconds.
pub const QUOTA_PERIOD_US: i64 = 100_000;
/// Priority from which a pod counts as critical to its node.
pub const SYSTEM_CRITICAL: i32 = 2_000_000_000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const MIN_QUOTA_US: i64 = 1000;

/// The cgroup of a class of service.
#[must_use]
pub fn qos_parent(class: &str) -> String {
    match class {
        "Guaranteed" => ROOT.to_owned(),
        other => format!("{ROOT}/{}", other.to_ascii_lowercase()),
    }
}

/// The cgroup of a pod.
#[must_use]
pub fn of_pod(pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    format!("{}/pod{uid}", qos_parent(resources::qos_of(pod)))
}

/// `cpu.shares` for a request in milli-CPUs.
#[must_use]
pub fn shares(milli: i64) -> i64 {
    (milli.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// `cpu.weight` (v2) for `cpu.shares` (v1).
#[must_use]
pub fn weight(shares: i64) -> i64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "between 1 and 10,000")]
    let weight = {
        let l = (shares as f64).log2();
        // A parabola of the exponent through the least, the default (1024 to 100) and the greatest values.
        10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil() as i64
    };
    weight
}

/// CPU quota in microseconds a period for a limit in milli-CPUs; -1 for no limit.
#[must_use]
pub fn quota_us(milli: i64) -> i64 {
    if milli <= 0 { -1 } else { (milli.saturating_mul(QUOTA_PERIOD_US) / 1000).max(MIN_QUOTA_US) }
}

/// Limits of one cgroup; zero or negative means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Relative share of the CPU, in v1's measure.
    pub shares: i64,
    /// Microseconds of CPU a period, -1 for no limit.
    pub quota_us: i64,
    /// Bytes of memory, zero for no limit.
    pub memory_bytes: i64,
}

/// Limits of a pod's cgroup.
#[must_use]
pub fn pod_limits(pod: &Pod) -> Limits {
    let (requests, limits) = (resources::pod_requests(pod), resources::pod_limits(pod));
    let cpu_limit = limits.get("cpu").copied().unwrap_or(0);
    let request = requests.get("cpu").copied().unwrap_or(0);
    Limits {
        shares: shares(if request == 0 { cpu_limit } else { request }),
        quota_us: quota_us(cpu_limit),
        memory_bytes: limits.get("memory").copied().unwrap_or(0),
    }
}

/// Limits of a container's cgroup.
#[must_use]
pub fn container_limits(c: &Container) -> Limits {
    let (requests, limits) = (resources::requests(c), resources::limits(c));
    let cpu_limit = limits.get("cpu").copied().unwrap_or(0);
    let request = match requests.get("cpu") {
        Some(r) => *r,
        None => cpu_limit,
    };
    Limits {
        shares: shares(request),
        quota_us: quota_us(cpu_limit),
        memory_bytes: limits.get("memory").copied().unwrap_or(0),
    }
}

/// How ready the kernel is to kill a container when memory runs out: -997 (never before others) to 1000.
///
/// Burstable containers get less the more of the node's memory they request, so that those who use more
/// than they asked for go first.
#[must_use]
pub fn oom_score_adj(pod: &Pod, c: &Container, memory_capacity_bytes: i64) -> i64 {
    let critical = spec::of(pod).priority.is_some_and(|p| p >= SYSTEM_CRITICAL);
    match resources::qos_of(pod) {
        _ if critical => -997,
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let score = |c: &Container| burstable(c, memory_capacity_bytes);
            let own = score(c);
            // A sidecar must not go before the container that it serves.
            let sidecar = spec::init(pod).iter().any(|s| s.name == c.name && spec::is_sidecar(s));
            let mains = spec::main(pod).iter().map(score).min();
            if sidecar { mains.map_or(own, |m| own.min(m)) } else { own }
        }
    }
}

fn burstable(c: &Container, capacity: i64) -> i64 {
    let request = resources::requests(c).get("memory").copied().unwrap_or(0);
    let score = 1000 - (1000 * request.max(0)).checked_div(capacity).unwrap_or(0);
    score.clamp(3, 999)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        assert_eq!((shares(0), shares(100), shares(1000)), (2, 102, 1024));
        assert_eq!((quota_us(0), quota_us(5), quota_us(500)), (-1, 1000, 50_000));
        assert_eq!((weight(0), weight(2), weight(262_144)), (1, 1, 10_000));
        assert_eq!((weight(102), weight(256), weight(1024), weight(2048)), (17, 35, 100, 174));
        assert_eq!(qos_parent("Guaranteed"), "/kubepods");
        assert_eq!(qos_parent("BestEffort"), "/kubepods/besteffort");
    }
}
