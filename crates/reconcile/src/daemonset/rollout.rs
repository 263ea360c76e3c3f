//! Rolling updates: replace in place within the limit of unavailable pods, or surge beside the old pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::Pass;
use crate::int_or_percent::scaled;
use crate::meta::Meta;

/// The new and the old pod of a node; `None` if there are more than one of either.
struct Pair {
    new: Option<Arc<Pod>>,
    old: Option<Arc<Pod>>,
}

impl Pass<'_> {
    pub(super) fn is_rolling(&self) -> bool {
        let strategy = self.spec.update_strategy.as_ref();
        strategy.and_then(|s| s.type_.as_deref()).is_none_or(|kind| kind == "RollingUpdate")
    }

    fn limits(&self, desired: i32) -> (i32, i32) {
        let rolling = self.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()), "0", desired, true);
        let mut unavailable = scaled(rolling.and_then(|r| r.max_unavailable.as_ref()), "1", desired, true);
        if desired > 0 && surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        (surge, unavailable)
    }

    /// Whether the strategy allows a new pod beside the old one.
    pub(super) fn max_surge_set(&self) -> bool {
        self.is_rolling() && self.limits(1).0 > 0
    }

    fn pair(&self, pods: &[Arc<Pod>]) -> Option<Pair> {
        let mut pair = Pair { new: None, old: None };
        for pod in pods.iter().filter(|pod| !pod.deleting()) {
            let place = if self.is_updated(pod) { &mut pair.new } else { &mut pair.old };
            if place.replace(pod.clone()).is_some() {
                return None;
            }
        }
        Some(pair)
    }

    /// Nodes to surge onto and old pods to delete.
    pub(super) fn roll(&self) -> (Vec<String>, Vec<Arc<Pod>>) {
        let mut by_node: BTreeMap<&str, &[Arc<Pod>]> = BTreeMap::new();
        for node in self.nodes.iter().filter(|node| self.wants(node).0) {
            let pods = self.by_node.get(node.name()).map(Vec::as_slice).unwrap_or_default();
            by_node.insert(node.name(), pods);
        }
        let desired = i32::try_from(by_node.len()).unwrap_or(i32::MAX);
        let (surge, unavailable) = self.limits(desired);
        if surge == 0 {
            (Vec::new(), self.replace(&by_node, unavailable))
        } else {
            self.surge(&by_node, surge)
        }
    }

    fn replace(&self, by_node: &BTreeMap<&str, &[Arc<Pod>]>, limit: i32) -> Vec<Arc<Pod>> {
        let (mut unavailable, mut at_once, mut candidates) = (0, Vec::new(), Vec::new());
        for pods in by_node.values() {
            match self.pair(pods) {
                Some(Pair { new: Some(new), old: None }) => {
                    unavailable += i32::from(!self.is_available(&new));
                }
                // An unavailable old pod costs nothing to replace.
                Some(Pair { new: None, old: Some(old) }) if !self.is_available(&old) => at_once.push(old),
                Some(Pair { new: None, old: Some(old) }) => candidates.push(old),
                _ => unavailable += 1,
            }
        }
        let room = usize::try_from(limit - unavailable).unwrap_or(0);
        at_once.extend(candidates.into_iter().take(room));
        at_once
    }

    fn surge(&self, by_node: &BTreeMap<&str, &[Arc<Pod>]>, limit: i32) -> (Vec<String>, Vec<Arc<Pod>>) {
        let (mut surging, mut create, mut candidates, mut delete) = (0, Vec::new(), Vec::new(), Vec::new());
        for (node, pods) in by_node {
            match self.pair(pods) {
                None => surging += 1,
                Some(Pair { old: None, .. }) => {}
                Some(Pair { new: None, old: Some(old) }) => {
                    let list = if self.is_available(&old) { &mut candidates } else { &mut create };
                    list.push((*node).to_owned());
                }
                Some(Pair { new: Some(new), old: Some(old) }) => {
                    if !self.is_available(&old) || self.is_available(&new) {
                        delete.push(old);
                    } else {
                        surging += 1;
                    }
                }
            }
        }
        let room = usize::try_from(limit - surging).unwrap_or(0);
        create.extend(candidates.into_iter().take(room));
        (create, delete)
    }
}
