//! The extension points, as upstream's scheduling framework (KEP-624) names them.

use crate::{Cache, NodeInfo, PodInfo};

/// Most that a node can score in one plugin.
pub const SCORE_MAX: i64 = 100;

/// Why a node, or every node, is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The plugin that refused.
    pub plugin: &'static str,
    /// Texts as they appear in the event, such as `Insufficient cpu`.
    pub reasons: Vec<String>,
    /// Whether taking other pods off the node could not help (upstream's `UnschedulableAndUnresolvable`).
    pub unresolvable: bool,
}

impl Rejection {
    /// A refusal that preemption could lift.
    pub fn new(plugin: &'static str, reason: impl Into<String>) -> Self {
        Rejection { plugin, reasons: vec![reason.into()], unresolvable: false }
    }
    /// A refusal that preemption cannot lift.
    pub fn unresolvable(plugin: &'static str, reason: impl Into<String>) -> Self {
        Rejection { plugin, reasons: vec![reason.into()], unresolvable: true }
    }
}

/// What happened in the cluster that may make a refused pod fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterEvent {
    /// A node came.
    NodeAdded,
    /// Allocatable, labels, taints or `unschedulable` of a node changed.
    NodeChanged,
    /// A pod that held resources went, or was scaled down.
    PodRemoved,
    /// A pod was put on a node.
    PodAssigned,
    /// The waiting pod itself changed.
    PodUpdated,
}

/// One scheduling plugin. All points are optional.
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;
    /// Refuses the pod for all nodes, or limits the nodes looked at.
    fn pre_filter(&self, _pod: &PodInfo, _cache: &Cache) -> Result<Option<Vec<String>>, Rejection> {
        Ok(None)
    }
    /// Refuses a node.
    fn filter(&self, _pod: &PodInfo, _node: &NodeInfo) -> Result<(), Rejection> {
        Ok(())
    }
    /// Whether the plugin has nothing to say about the scores for this pod.
    fn skip_score(&self, _pod: &PodInfo) -> bool {
        true
    }
    /// A node's raw score.
    fn score(&self, _pod: &PodInfo, _node: &NodeInfo, _nodes: &Cache) -> i64 {
        0
    }
    /// Brings raw scores to 0..=[`SCORE_MAX`].
    fn normalize(&self, _scores: &mut [i64]) {}
    /// Whether an event may make a pod that this plugin refused fit.
    fn hint(&self, event: ClusterEvent, pod: &PodInfo, node: Option<&NodeInfo>) -> bool;
}

/// Scales scores so that the largest is [`SCORE_MAX`]; reversed, the largest becomes zero.
pub fn normalize_to_max(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        *score = if max == 0 { 0 } else { *score * SCORE_MAX / max };
        if reverse {
            *score = SCORE_MAX - *score;
        }
    }
}

/// A named set of plugins with their weights: one `profiles[]` entry of `KubeSchedulerConfiguration`.
pub struct Profile {
    /// `schedulerName`.
    pub scheduler_name: String,
    /// Plugins in order, with the weight of their score (zero: not scored).
    pub plugins: Vec<(Box<dyn Plugin>, i64)>,
    /// `percentageOfNodesToScore`; zero chooses by the number of nodes.
    pub percentage_of_nodes_to_score: u32,
}

/// Nodes below which all are looked at.
const FEASIBLE_NODES_MIN: usize = 100;

impl Profile {
    /// How many nodes that fit are enough, out of all nodes.
    pub fn nodes_to_find(&self, all: usize) -> usize {
        if all < FEASIBLE_NODES_MIN {
            return all;
        }
        let percentage = match self.percentage_of_nodes_to_score as usize {
            0 => 50usize.saturating_sub(all / 125).max(5),
            stated => stated,
        };
        if percentage >= 100 {
            return all;
        }
        (all * percentage / 100).max(FEASIBLE_NODES_MIN)
    }
}
