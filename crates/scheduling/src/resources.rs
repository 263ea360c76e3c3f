//! Amounts of resources: what a pod asks for and what a node has.

use isopod_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use std::collections::BTreeMap;

/// Assumed CPU request, in thousandths of a core, of a container that states none; for scores only.
pub const DEFAULT_MILLI_CPU: i64 = 100;
/// Assumed memory request, in bytes, of a container that states none; for scores only.
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts by resource; the common ones in fields of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// All others: huge pages in bytes, extended resources in units.
    pub scalar: BTreeMap<String, i64>,
}

/// The number in a quantity, rounded up; zero when it cannot be read (the API server validated it).
pub fn value(quantity: &ApiQuantity) -> i64 {
    quantity.0.parse::<Quantity>().map_or(0, |q| q.value())
}

/// The number in a quantity in thousandths, rounded up.
pub fn milli(quantity: &ApiQuantity) -> i64 {
    quantity.0.parse::<Quantity>().map_or(0, |q| q.milli_value())
}

type List = BTreeMap<String, ApiQuantity>;

impl Resources {
    /// From a resource list such as `requests` or `allocatable`; `pods` is left out.
    pub fn from_list(list: Option<&List>) -> Self {
        let mut out = Resources::default();
        for (name, quantity) in list.into_iter().flatten() {
            match name.as_str() {
                "cpu" => out.milli_cpu = milli(quantity),
                "memory" => out.memory = value(quantity),
                "ephemeral-storage" => out.ephemeral_storage = value(quantity),
                "pods" => {}
                _ => {
                    out.scalar.insert(name.clone(), value(quantity));
                }
            }
        }
        out
    }
    /// Adds another amount.
    pub fn add(&mut self, other: &Resources) {
        self.milli_cpu += other.milli_cpu;
        self.memory += other.memory;
        self.ephemeral_storage += other.ephemeral_storage;
        for (name, amount) in &other.scalar {
            *self.scalar.entry(name.clone()).or_default() += amount;
        }
    }
    /// Takes another amount away.
    pub fn sub(&mut self, other: &Resources) {
        self.milli_cpu -= other.milli_cpu;
        self.memory -= other.memory;
        self.ephemeral_storage -= other.ephemeral_storage;
        for (name, amount) in &other.scalar {
            *self.scalar.entry(name.clone()).or_default() -= amount;
        }
    }
    /// Raises each amount to at least the other's.
    pub fn max(&mut self, other: &Resources) {
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.max(other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let entry = self.scalar.entry(name.clone()).or_default();
            *entry = (*entry).max(*amount);
        }
    }
    /// The amount of a resource by name, zero when absent.
    pub fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.milli_cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral_storage,
            _ => self.scalar.get(name).copied().unwrap_or(0),
        }
    }
}

fn requests(container: &Container) -> Option<&List> {
    container.resources.as_ref()?.requests.as_ref()
}

fn container_request(container: &Container, assume_defaults: bool) -> Resources {
    let mut out = Resources::from_list(requests(container));
    if assume_defaults {
        let stated = |name| requests(container).is_some_and(|r| r.contains_key(name));
        if !stated("cpu") {
            out.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !stated("memory") {
            out.memory = DEFAULT_MEMORY;
        }
    }
    out
}

/// What a pod asks for: the larger of its running containers' sum (sidecars included) and of any init
/// container together with the sidecars started before it, plus overhead (KEP-753); pod-level requests,
/// where stated, replace the sum (KEP-2837).
pub fn pod_requests(spec: &PodSpec, assume_defaults: bool) -> Resources {
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&container_request(container, assume_defaults));
    }
    let mut sidecars = Resources::default();
    let mut init_peak = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let request = container_request(container, assume_defaults);
        if container.restart_policy.as_deref() == Some("Always") {
            running.add(&request);
            sidecars.add(&request);
            init_peak.max(&sidecars);
        } else {
            let mut now = sidecars.clone();
            now.add(&request);
            init_peak.max(&now);
        }
    }
    running.max(&init_peak);
    if let Some(list) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        let pod_level = Resources::from_list(Some(list));
        for name in list.keys() {
            match name.as_str() {
                "cpu" => running.milli_cpu = pod_level.milli_cpu,
                "memory" => running.memory = pod_level.memory,
                other => {
                    running.scalar.insert(other.to_owned(), pod_level.get(other));
                }
            }
        }
    }
    running.add(&Resources::from_list(spec.overhead.as_ref()));
    running
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: serde_json::Value) -> PodSpec {
        serde_json::from_value(json).expect("a pod spec")
    }
    fn c(cpu: &str) -> serde_json::Value {
        serde_json::json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn init_containers_and_sidecars() {
        let mut sidecar = c("100m");
        sidecar["restartPolicy"] = "Always".into();
        let s = spec(
            serde_json::json!({"containers": [c("200m"), c("300m")], "initContainers": [sidecar, c("1")]}),
        );
        assert_eq!(pod_requests(&s, false).milli_cpu, 1100);
        let s = spec(
            serde_json::json!({"containers": [c("200m")], "initContainers": [c("100m")], "overhead": {"cpu": "5m"}}),
        );
        assert_eq!(pod_requests(&s, false).milli_cpu, 205);
        let s = spec(serde_json::json!({"containers": [{"name": "c"}]}));
        assert_eq!(pod_requests(&s, false), Resources::default());
        assert_eq!(pod_requests(&s, true).memory, DEFAULT_MEMORY);
    }
}
