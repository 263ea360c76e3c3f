//! TaintToleration: NoSchedule and NoExecute taints refuse, PreferNoSchedule taints cost score.

use crate::framework::{ClusterEvent, Plugin, Rejection, normalize_to_max};
use crate::{Cache, NodeInfo, PodInfo};
use k8s_openapi::api::core::v1::{Taint, Toleration};

/// The plugin.
pub struct TaintToleration;

/// Whether one of the tolerations covers the taint.
pub(super) fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|t| {
        let key = t.key.as_deref().unwrap_or_default();
        let effect = t.effect.as_deref().unwrap_or_default();
        let value = || taint.value.as_deref().unwrap_or_default();
        let wanted = || t.value.as_deref().unwrap_or_default();
        let number = |v: &str| v.parse::<i64>().ok();
        (effect.is_empty() || effect == taint.effect)
            && (key.is_empty() || key == taint.key)
            && match t.operator.as_deref().unwrap_or_default() {
                "" | "Equal" => wanted() == value() && !key.is_empty(),
                "Exists" => true,
                "Gt" => number(value()).zip(number(wanted())).is_some_and(|(have, than)| have > than),
                "Lt" => number(value()).zip(number(wanted())).is_some_and(|(have, than)| have < than),
                _ => false,
            }
    })
}

fn refusing<'a>(pod: &PodInfo, node: &'a NodeInfo) -> Option<&'a Taint> {
    node.taints
        .iter()
        .filter(|t| t.effect == "NoSchedule" || t.effect == "NoExecute")
        .find(|t| !tolerates(&pod.tolerations, t))
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }
    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        match refusing(pod, node) {
            None => Ok(()),
            Some(_) => Err(Rejection::unresolvable(self.name(), "node(s) had untolerated taint(s)")),
        }
    }
    fn skip_score(&self, _pod: &PodInfo) -> bool {
        false
    }
    fn score(&self, pod: &PodInfo, node: &NodeInfo, _nodes: &Cache) -> i64 {
        let counts = |t: &&Taint| t.effect == "PreferNoSchedule" && !tolerates(&pod.tolerations, t);
        i64::try_from(node.taints.iter().filter(counts).count()).unwrap_or(i64::MAX)
    }
    fn normalize(&self, scores: &mut [i64]) {
        normalize_to_max(scores, true);
    }
    fn hint(&self, event: ClusterEvent, pod: &PodInfo, node: Option<&NodeInfo>) -> bool {
        match event {
            ClusterEvent::NodeAdded | ClusterEvent::NodeChanged => {
                node.is_none_or(|n| refusing(pod, n).is_none())
            }
            ClusterEvent::PodUpdated => true,
            ClusterEvent::PodRemoved | ClusterEvent::PodAssigned => false,
        }
    }
}
