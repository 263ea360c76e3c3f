//! NodeAffinity: node selector and required affinity refuse, preferred affinity scores.

use crate::framework::{ClusterEvent, Plugin, Rejection, normalize_to_max};
use crate::{Cache, NodeInfo, PodInfo};

/// The plugin.
pub struct NodeAffinity;

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }
    fn pre_filter(&self, pod: &PodInfo, _cache: &Cache) -> Result<Option<Vec<String>>, Rejection> {
        Ok(pod.affinity.names().map(|names| names.into_iter().map(str::to_owned).collect()))
    }
    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if pod.affinity.matches(&node.name, &node.labels) {
            return Ok(());
        }
        Err(Rejection::unresolvable(self.name(), "node(s) didn't match Pod's node affinity/selector"))
    }
    fn skip_score(&self, pod: &PodInfo) -> bool {
        pod.affinity.preferred.is_empty()
    }
    fn score(&self, pod: &PodInfo, node: &NodeInfo, _nodes: &Cache) -> i64 {
        let preferred = pod.affinity.preferred.iter();
        preferred.filter(|(_, t)| t.matches(&node.name, &node.labels)).map(|(weight, _)| weight).sum()
    }
    fn normalize(&self, scores: &mut [i64]) {
        normalize_to_max(scores, false);
    }
    fn hint(&self, event: ClusterEvent, pod: &PodInfo, node: Option<&NodeInfo>) -> bool {
        match event {
            ClusterEvent::NodeAdded | ClusterEvent::NodeChanged => {
                node.is_none_or(|n| pod.affinity.matches(&n.name, &n.labels))
            }
            ClusterEvent::PodUpdated => true,
            ClusterEvent::PodRemoved | ClusterEvent::PodAssigned => false,
        }
    }
}
