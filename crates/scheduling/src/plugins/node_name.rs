//! NodeName: a pod that names a node goes there or nowhere.

use crate::framework::{ClusterEvent, Plugin, Rejection};
use crate::{NodeInfo, PodInfo};

/// The plugin.
pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }
    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if pod.node_name().is_empty() || pod.node_name() == node.name {
            return Ok(());
        }
        Err(Rejection::unresolvable(self.name(), "node(s) didn't match the requested node name"))
    }
    fn hint(&self, event: ClusterEvent, _pod: &PodInfo, _node: Option<&NodeInfo>) -> bool {
        event == ClusterEvent::NodeAdded
    }
}
