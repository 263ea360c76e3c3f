//! NodePorts: two pods cannot have the same port of a node.

use crate::framework::{ClusterEvent, Plugin, Rejection};
use crate::{NodeInfo, PodInfo};

/// The plugin.
pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }
    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let taken = |p: &crate::pod::HostPort| node.host_ports.iter().any(|q| p.conflicts(q));
        if !pod.host_ports.iter().any(taken) {
            return Ok(());
        }
        Err(Rejection::new(self.name(), "node(s) didn't have free ports for the requested pod ports"))
    }
    fn hint(&self, event: ClusterEvent, _pod: &PodInfo, _node: Option<&NodeInfo>) -> bool {
        matches!(event, ClusterEvent::NodeAdded | ClusterEvent::PodRemoved | ClusterEvent::PodUpdated)
    }
}
