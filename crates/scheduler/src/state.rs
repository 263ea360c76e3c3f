//! What the watches told, as the decisions need it.

use isopod_client::Change;
use isopod_scheduling::framework::{ClusterEvent, Profile};
use isopod_scheduling::{Cache, PodInfo, Queue};
use k8s_openapi::api::core::v1::{Node, Pod};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

pub(crate) struct State {
    pub(crate) cache: Cache,
    pub(crate) queue: Queue,
    pub(crate) profiles: Vec<Profile>,
    /// The node to begin the next decision with.
    pub(crate) next_start: usize,
    /// Pods on a node by our decision alone, their binding not yet seen.
    assumed: HashSet<String>,
}

fn finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether more than the status differs, so that a refused pod is worth another try.
fn spec_changed(old: &Pod, new: &Pod) -> bool {
    old.spec != new.spec || old.metadata.labels != new.metadata.labels
}

fn node_facts_changed(old: &Node, new: &Node) -> bool {
    let allocatable = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
    let spec = |n: &Node| n.spec.as_ref().map(|s| (s.taints.clone(), s.unschedulable));
    spec(old) != spec(new)
        || old.metadata.labels != new.metadata.labels
        || allocatable(old) != allocatable(new)
}

impl State {
    pub(crate) fn new(profiles: Vec<Profile>) -> Self {
        State { cache: Cache::new(), queue: Queue::new(), profiles, next_start: 0, assumed: HashSet::new() }
    }

    fn wake(&mut self, event: ClusterEvent, node: Option<&str>, now: Duration) {
        let node = node.and_then(|n| self.cache.node(n));
        self.queue.event(event, node, &self.profiles, now);
    }

    pub(crate) fn node_changed(&mut self, change: &Change<Node>, now: Duration) {
        let name = change.object().metadata.name.clone().unwrap_or_default();
        match change {
            Change::Added(node) => {
                self.cache.set_node(node);
                self.wake(ClusterEvent::NodeAdded, Some(&name), now);
            }
            Change::Updated { old, new } => {
                self.cache.set_node(new);
                if node_facts_changed(old, new) {
                    self.wake(ClusterEvent::NodeChanged, Some(&name), now);
                }
            }
            Change::Deleted(_) => self.cache.remove_node(&name),
        }
    }

    pub(crate) fn pod_changed(&mut self, change: &Change<Pod>, now: Duration) {
        let pod = change.object();
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let gone = matches!(change, Change::Deleted(_)) || finished(pod);
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        if gone {
            self.queue.remove(&uid);
            self.assumed.remove(&uid);
            if self.cache.remove_pod(&uid) {
                self.wake(ClusterEvent::PodRemoved, Some(&node), now);
            }
        } else if !node.is_empty() {
            self.queue.remove(&uid);
            let was_assumed = self.assumed.remove(&uid);
            let known = self.cache.node_of(&uid) == Some(node.as_str());
            self.cache.set_pod(&node, Arc::new(PodInfo::new(pod.clone())));
            if !known && !was_assumed {
                self.wake(ClusterEvent::PodAssigned, Some(&node), now);
            }
        } else if !self.assumed.contains(&uid) {
            self.waiting(change, &uid);
        }
    }

    fn waiting(&mut self, change: &Change<Pod>, uid: &str) {
        let pod = change.object();
        if pod.metadata.deletion_timestamp.is_some() {
            self.queue.remove(uid);
            return;
        }
        let info = PodInfo::new(pod.clone());
        if !self.profiles.iter().any(|p| p.scheduler_name == info.scheduler_name()) {
            return;
        }
        let meaningful = match change {
            Change::Updated { old, new } => spec_changed(old, new),
            _ => true,
        };
        self.queue.set(Arc::new(info), meaningful);
    }

    pub(crate) fn assume(&mut self, node: &str, pod: Arc<PodInfo>) {
        self.assumed.insert(pod.uid.clone());
        self.cache.set_pod(node, pod);
    }

    /// The binding was accepted.
    pub(crate) fn bound(&mut self, uid: &str) {
        self.queue.remove(uid);
    }

    /// The binding failed: the pod is taken off the node and tried again later, if it still exists.
    pub(crate) fn unassume(&mut self, uid: &str, now: Duration) {
        if self.assumed.remove(uid) {
            self.cache.remove_pod(uid);
            self.queue.refused(uid, Vec::new(), now);
            self.wake(ClusterEvent::PodRemoved, None, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isopod_scheduling::plugins::{ProfileOptions, profile};
    use serde_json::json;

    fn pod(node: &str, phase: &str) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"containers": [], "nodeName": node}, "status": {"phase": phase}});
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }
    fn state() -> State {
        State::new(vec![profile(&ProfileOptions::default())])
    }

    #[test]
    fn an_assumed_pod_stays_until_its_binding_fails() {
        let mut state = state();
        state.pod_changed(&Change::Added(pod("", "Pending")), Duration::ZERO);
        let info = state.queue.pop().expect("waiting");
        state.assume("n", info);
        let update = Change::Updated { old: pod("", "Pending"), new: pod("", "Pending") };
        state.pod_changed(&update, Duration::ZERO);
        assert_eq!(state.cache.node_of("u"), Some("n"), "a status update does not unassume");
        state.unassume("u", Duration::ZERO);
        assert_eq!(state.cache.node_of("u"), None);
        assert_eq!(state.queue.tick(Duration::from_secs(1)), None);
        assert!(state.queue.pop().is_some(), "tried again after its back-off");
    }

    #[test]
    fn a_late_failure_after_the_binding_was_seen_changes_nothing() {
        let mut state = state();
        state.pod_changed(&Change::Added(pod("", "Pending")), Duration::ZERO);
        let info = state.queue.pop().expect("waiting");
        state.assume("n", info);
        state.pod_changed(&Change::Updated { old: pod("", ""), new: pod("n", "") }, Duration::ZERO);
        state.unassume("u", Duration::ZERO);
        assert_eq!(state.cache.node_of("u"), Some("n"));
        assert!(state.queue.is_empty());
        state.pod_changed(&Change::Updated { old: pod("n", ""), new: pod("n", "Succeeded") }, Duration::ZERO);
        assert_eq!(state.cache.node_of("u"), None, "a finished pod holds nothing");
    }
}
