//! NodeUnschedulable: a cordoned node takes only pods that tolerate it.

use super::taint_toleration::tolerates;
use crate::framework::{ClusterEvent, Plugin, Rejection};
use crate::{NodeInfo, PodInfo};
use k8s_openapi::api::core::v1::Taint;

/// The plugin.
pub struct NodeUnschedulable;

fn fits(pod: &PodInfo, node: &NodeInfo) -> bool {
    let taint = || Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    !node.unschedulable || tolerates(&pod.tolerations, &taint())
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }
    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if fits(pod, node) {
            return Ok(());
        }
        Err(Rejection::unresolvable(self.name(), "node(s) were unschedulable"))
    }
    fn hint(&self, event: ClusterEvent, pod: &PodInfo, node: Option<&NodeInfo>) -> bool {
        match event {
            ClusterEvent::NodeAdded | ClusterEvent::NodeChanged => node.is_none_or(|n| fits(pod, n)),
            ClusterEvent::PodUpdated => true,
            ClusterEvent::PodRemoved | ClusterEvent::PodAssigned => false,
        }
    }
}
