//! NodeResourcesFit: a node must have what a pod asks for; scores by how full nodes would be.

use crate::framework::{ClusterEvent, Plugin, Rejection, SCORE_MAX};
use crate::{Cache, NodeInfo, PodInfo};

/// How fullness scores (`NodeResourcesFitArgs.scoringStrategy`), over CPU and memory of equal weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Emptier nodes first: spreads.
    #[default]
    LeastAllocated,
    /// Fuller nodes first: packs.
    MostAllocated,
}

/// The plugin.
pub struct NodeResourcesFit {
    /// How fullness scores.
    pub strategy: Strategy,
}

/// What the node lacks, as words of the event.
fn lacking(pod: &PodInfo, node: &NodeInfo) -> Vec<String> {
    let mut out = Vec::new();
    if node.pods.len() as i64 + 1 > node.pods_max {
        out.push("Too many pods".to_owned());
    }
    let mut check = |name: &str, asked: i64, have: i64, used: i64| {
        if asked > 0 && asked > have - used {
            out.push(format!("Insufficient {name}"));
        }
    };
    let (asked, have, used) = (&pod.requests, &node.allocatable, &node.requested);
    check("cpu", asked.milli_cpu, have.milli_cpu, used.milli_cpu);
    check("memory", asked.memory, have.memory, used.memory);
    check("ephemeral-storage", asked.ephemeral_storage, have.ephemeral_storage, used.ephemeral_storage);
    for (name, amount) in &asked.scalar {
        check(name, *amount, have.get(name), used.get(name));
    }
    out
}

/// Whether the pod asks for more than the whole node has, so that no eviction could help.
fn hopeless(pod: &PodInfo, node: &NodeInfo) -> bool {
    let (asked, have) = (&pod.requests, &node.allocatable);
    asked.milli_cpu > have.milli_cpu
        || asked.memory > have.memory
        || asked.ephemeral_storage > have.ephemeral_storage
        || asked.scalar.iter().any(|(name, amount)| *amount > have.get(name))
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }
    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let reasons = lacking(pod, node);
        if reasons.is_empty() {
            return Ok(());
        }
        Err(Rejection { plugin: self.name(), reasons, unresolvable: hopeless(pod, node) })
    }
    fn skip_score(&self, _pod: &PodInfo) -> bool {
        false
    }
    fn score(&self, pod: &PodInfo, node: &NodeInfo, _nodes: &Cache) -> i64 {
        let part = |have: i64, used: i64| {
            if have == 0 {
                return None;
            }
            Some(match self.strategy {
                Strategy::LeastAllocated if used > have => 0,
                Strategy::LeastAllocated => (have - used) * SCORE_MAX / have,
                Strategy::MostAllocated => used.min(have) * SCORE_MAX / have,
            })
        };
        let (have, used, asked) = (&node.allocatable, &node.nonzero_requested, &pod.nonzero_requests);
        let parts = [
            part(have.milli_cpu, used.milli_cpu + asked.milli_cpu),
            part(have.memory, used.memory + asked.memory),
        ];
        let known: Vec<i64> = parts.into_iter().flatten().collect();
        if known.is_empty() { 0 } else { known.iter().sum::<i64>() / known.len() as i64 }
    }
    fn hint(&self, event: ClusterEvent, pod: &PodInfo, node: Option<&NodeInfo>) -> bool {
        match event {
            ClusterEvent::NodeAdded | ClusterEvent::NodeChanged => {
                node.is_none_or(|n| lacking(pod, n).is_empty())
            }
            ClusterEvent::PodRemoved | ClusterEvent::PodUpdated => true,
            ClusterEvent::PodAssigned => false,
        }
    }
}
