//! Control group limits.

use isopod_cri::v1::{ContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext};
use serde_json::{Map, Value, json};

use super::devices::{Node, rules};
use crate::Error;
use crate::cgroup::Limits;

pub(super) fn resources(
    container: &ContainerConfig,
    security: &LinuxContainerSecurityContext,
    node: &Node,
) -> Result<Value, Error> {
    let mut out = Map::new();
    out.insert("devices".to_owned(), json!(rules(container, security, node)?));
    let Some(resources) = container.linux.as_ref().and_then(|linux| linux.resources.as_ref()) else {
        return Ok(Value::Object(out));
    };
    let mut cpu = Map::new();
    if resources.cpu_shares > 0 {
        cpu.insert("shares".to_owned(), json!(resources.cpu_shares));
    }
    if resources.cpu_quota != 0 {
        cpu.insert("quota".to_owned(), json!(resources.cpu_quota));
    }
    if resources.cpu_period > 0 {
        cpu.insert("period".to_owned(), json!(resources.cpu_period));
    }
    for (name, list) in [("cpus", &resources.cpuset_cpus), ("mems", &resources.cpuset_mems)] {
        if !list.is_empty() {
            cpu.insert(name.to_owned(), json!(list));
        }
    }
    if !cpu.is_empty() {
        out.insert("cpu".to_owned(), Value::Object(cpu));
    }
    let mut memory = Map::new();
    if resources.memory_limit_in_bytes != 0 {
        memory.insert("limit".to_owned(), json!(resources.memory_limit_in_bytes));
    }
    if resources.memory_swap_limit_in_bytes != 0 && node.swap_accounting {
        memory.insert("swap".to_owned(), json!(resources.memory_swap_limit_in_bytes));
    }
    if !memory.is_empty() {
        out.insert("memory".to_owned(), Value::Object(memory));
    }
    let huge: Vec<Value> = resources
        .hugepage_limits
        .iter()
        .filter(|_| node.hugetlb)
        .map(|limit| json!({"pageSize": limit.page_size, "limit": limit.limit}))
        .collect();
    if !huge.is_empty() {
        out.insert("hugepageLimits".to_owned(), json!(huge));
    }
    let mut unified = resources.unified.clone();
    let (memory, both) = (resources.memory_limit_in_bytes, resources.memory_swap_limit_in_bytes);
    if node.cgroup_v2 && node.swap_accounting && memory > 0 && both == memory {
        // No swap at all: the OCI runtime takes the difference, zero, for "leave it".
        unified.entry("memory.swap.max".to_owned()).or_insert_with(|| "0".to_owned());
    }
    if !unified.is_empty() {
        out.insert("unified".to_owned(), json!(unified));
    }
    Ok(Value::Object(out))
}

/// The limits of an update.
pub(crate) fn limits(resources: &LinuxContainerResources, swap_accounting: bool) -> Limits {
    Limits {
        cpu_shares: u64::try_from(resources.cpu_shares).unwrap_or(0),
        cpu_quota: resources.cpu_quota,
        cpu_period: u64::try_from(resources.cpu_period).unwrap_or(0),
        cpus: resources.cpuset_cpus.clone(),
        mems: resources.cpuset_mems.clone(),
        memory: resources.memory_limit_in_bytes,
        memory_swap: if swap_accounting { resources.memory_swap_limit_in_bytes } else { 0 },
        unified: resources.unified.clone(),
    }
}
