//! NodeResourcesBalancedAllocation: prefers nodes whose CPU and memory would be used in like parts.

use crate::framework::{ClusterEvent, Plugin, SCORE_MAX};
use crate::{Cache, NodeInfo, PodInfo};

/// The plugin.
pub struct BalancedAllocation;

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }
    fn skip_score(&self, pod: &PodInfo) -> bool {
        // A pod that asks for nothing moves no balance (upstream skips best-effort pods since 1.29).
        pod.requests.milli_cpu == 0 && pod.requests.memory == 0
    }
    fn score(&self, pod: &PodInfo, node: &NodeInfo, _nodes: &Cache) -> i64 {
        let part = |have: i64, used: i64| {
            if have == 0 { 0.0 } else { (used as f64 / have as f64).min(1.0) }
        };
        let (have, used, asked) = (&node.allocatable, &node.requested, &pod.requests);
        let cpu = part(have.milli_cpu, used.milli_cpu + asked.milli_cpu);
        let memory = part(have.memory, used.memory + asked.memory);
        // The standard deviation of two values is half their distance.
        let deviation = (cpu - memory).abs() / 2.0;
        ((1.0 - deviation) * SCORE_MAX as f64) as i64
    }
    fn hint(&self, _event: ClusterEvent, _pod: &PodInfo, _node: Option<&NodeInfo>) -> bool {
        false
    }
}
