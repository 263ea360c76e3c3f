//! The scheduling queue: ready pods by priority, pods backing off, pods that wait for an event.
//!
//! As upstream's: a refused pod waits until an event that one of the refusing plugins hints at, then for its
//! back-off (1 s doubling to 10 s), and at the latest after five minutes. Time comes in as a value.

use crate::framework::{ClusterEvent, Profile};
use crate::{NodeInfo, PodInfo};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// First back-off.
pub const BACKOFF_INITIAL: Duration = Duration::from_secs(1);
/// Longest back-off.
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Longest wait for an event before a pod is tried all the same.
pub const UNSCHEDULABLE_MAX: Duration = Duration::from_secs(5 * 60);

/// Time since a start that the caller chose.
pub type Instant = Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Active,
    Backoff(Instant),
    Waiting(Instant),
    Gated,
    InFlight,
}

#[derive(Debug)]
struct Entry {
    info: Arc<PodInfo>,
    place: Place,
    /// Orders pods of equal priority: when the pod was first seen.
    order: u64,
    attempts: u32,
    refused_by: Vec<&'static str>,
    /// Whether something that may help happened while the pod was being tried.
    woken: bool,
}

/// All pods that await a node. Invariant: every uid is in exactly one place.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<String, Entry>,
    /// Priority (negated), order, uid.
    active: BTreeSet<(i64, u64, String)>,
    timers: BTreeMap<(Instant, String), ()>,
    counter: u64,
}

impl Queue {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }
    /// Pods in it, in whatever place.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    /// Whether no pod is in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    /// Pods ready to be tried now.
    pub fn active_len(&self) -> usize {
        self.active.len()
    }
    /// Pods held by scheduling gates.
    pub fn gated_len(&self) -> usize {
        self.entries.values().filter(|e| e.place == Place::Gated).count()
    }

    fn take_out(&mut self, uid: &str) -> Option<Entry> {
        let entry = self.entries.remove(uid)?;
        match entry.place {
            Place::Active => {
                self.active.remove(&(-i64::from(entry.info.priority), entry.order, uid.to_owned()));
            }
            Place::Backoff(at) | Place::Waiting(at) => {
                self.timers.remove(&(at, uid.to_owned()));
            }
            Place::Gated | Place::InFlight => {}
        }
        Some(entry)
    }
    fn put(&mut self, entry: Entry) {
        let uid = entry.info.uid.clone();
        match entry.place {
            Place::Active => {
                self.active.insert((-i64::from(entry.info.priority), entry.order, uid.clone()));
            }
            Place::Backoff(at) | Place::Waiting(at) => {
                self.timers.insert((at, uid.clone()), ());
            }
            Place::Gated | Place::InFlight => {}
        }
        self.entries.insert(uid, entry);
    }

    /// A pod without a node was seen, new or changed. `meaningful` says whether more than its status changed.
    pub fn set(&mut self, info: Arc<PodInfo>, meaningful: bool) {
        let gated = !info.gates.is_empty();
        let entry = match self.take_out(&info.uid) {
            None => {
                self.counter += 1;
                let place = if gated { Place::Gated } else { Place::Active };
                Entry { info, place, order: self.counter, attempts: 0, refused_by: Vec::new(), woken: false }
            }
            Some(mut entry) => {
                entry.info = info;
                match entry.place {
                    Place::InFlight => entry.woken |= meaningful,
                    _ if gated => entry.place = Place::Gated,
                    Place::Gated => entry.place = Place::Active,
                    Place::Waiting(_) if meaningful => entry.place = Place::Active,
                    _ => {}
                }
                entry
            }
        };
        self.put(entry);
    }
    /// A pod has a node, or is gone.
    pub fn remove(&mut self, uid: &str) {
        self.take_out(uid);
    }
    /// The next pod to try: highest priority, then longest here.
    pub fn pop(&mut self) -> Option<Arc<PodInfo>> {
        let (_, _, uid) = self.active.first()?.clone();
        let mut entry = self.take_out(&uid)?;
        entry.place = Place::InFlight;
        entry.attempts += 1;
        entry.woken = false;
        let info = entry.info.clone();
        self.put(entry);
        Some(info)
    }
    fn backoff(attempts: u32) -> Duration {
        let factor = 1u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        BACKOFF_INITIAL.saturating_mul(factor).min(BACKOFF_MAX)
    }
    /// The pod was tried and refused by these plugins; none named means an error, which only time heals.
    pub fn refused(&mut self, uid: &str, plugins: Vec<&'static str>, now: Instant) {
        let Some(mut entry) = self.take_out(uid) else { return };
        let error = plugins.is_empty();
        entry.refused_by = plugins;
        entry.place = if entry.woken || error {
            Place::Backoff(now + Self::backoff(entry.attempts))
        } else {
            Place::Waiting(now + UNSCHEDULABLE_MAX)
        };
        self.put(entry);
    }
    /// Moves pods whose time has come; gives when the next one's will.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        while let Some(((at, uid), ())) = self.timers.first_key_value() {
            if *at > now {
                return Some(*at);
            }
            let uid = uid.clone();
            if let Some(mut entry) = self.take_out(&uid) {
                entry.place = Place::Active;
                self.put(entry);
            }
        }
        None
    }
    /// Something happened: wakes the waiting pods that a refusing plugin of their profile has hope for.
    pub fn event(
        &mut self,
        event: ClusterEvent,
        node: Option<&NodeInfo>,
        profiles: &[Profile],
        now: Instant,
    ) {
        let hopeful = |entry: &Entry| {
            entry.refused_by.is_empty()
                || profiles
                    .iter()
                    .filter(|p| p.scheduler_name == entry.info.scheduler_name())
                    .flat_map(|p| &p.plugins)
                    .any(|(p, _)| entry.refused_by.contains(&p.name()) && p.hint(event, &entry.info, node))
        };
        let mut woken = Vec::new();
        for (uid, entry) in &mut self.entries {
            match entry.place {
                Place::Waiting(_) if hopeful(entry) => woken.push(uid.clone()),
                Place::InFlight => entry.woken = true,
                _ => {}
            }
        }
        for uid in woken {
            let Some(mut entry) = self.take_out(&uid) else { continue };
            let Place::Waiting(until) = entry.place else { continue };
            let refused_at = until.saturating_sub(UNSCHEDULABLE_MAX);
            let ready = refused_at + Self::backoff(entry.attempts);
            entry.place = if ready <= now { Place::Active } else { Place::Backoff(ready) };
            self.put(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::{ProfileOptions, profile};
    use serde_json::json;

    fn pod(uid: &str, priority: i32, gates: &[&str]) -> Arc<PodInfo> {
        let gates: Vec<_> = gates.iter().map(|g| json!({"name": g})).collect();
        let pod = json!({"metadata": {"name": uid, "uid": uid}, "spec": {"containers": [], "priority": priority, "schedulingGates": gates}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).expect("a pod"))))
    }
    fn at(seconds: u64) -> Instant {
        Duration::from_secs(seconds)
    }
    fn popped(queue: &mut Queue) -> Option<String> {
        queue.pop().map(|p| p.uid.clone())
    }

    #[test]
    fn priority_then_age() {
        let mut queue = Queue::new();
        for (uid, priority) in [("a", 0), ("b", 10), ("c", 0)] {
            queue.set(pod(uid, priority, &[]), true);
        }
        assert_eq!(popped(&mut queue).as_deref(), Some("b"));
        assert_eq!(popped(&mut queue).as_deref(), Some("a"));
        assert_eq!(popped(&mut queue).as_deref(), Some("c"));
        assert_eq!(popped(&mut queue), None);
    }

    #[test]
    fn a_refused_pod_waits_for_a_hopeful_event_and_its_back_off() {
        let profiles = [profile(&ProfileOptions::default())];
        let mut queue = Queue::new();
        queue.set(pod("a", 0, &[]), true);
        queue.pop();
        queue.refused("a", vec!["NodeResourcesFit"], at(10));
        queue.event(ClusterEvent::PodAssigned, None, &profiles, at(20));
        assert_eq!(popped(&mut queue), None, "an assigned pod frees nothing");
        queue.event(ClusterEvent::PodRemoved, None, &profiles, at(20));
        assert_eq!(popped(&mut queue).as_deref(), Some("a"));
        queue.refused("a", vec!["NodeResourcesFit"], at(20));
        queue.event(ClusterEvent::PodRemoved, None, &profiles, at(21));
        assert_eq!(popped(&mut queue), None, "the second back-off is two seconds");
        assert_eq!(queue.tick(at(21)), Some(at(22)));
        assert_eq!(queue.tick(at(22)), None);
        assert_eq!(popped(&mut queue).as_deref(), Some("a"));
    }

    #[test]
    fn an_event_during_the_attempt_is_not_lost() {
        let profiles = [profile(&ProfileOptions::default())];
        let mut queue = Queue::new();
        queue.set(pod("a", 0, &[]), true);
        queue.pop();
        queue.event(ClusterEvent::NodeAdded, None, &profiles, at(1));
        queue.refused("a", vec!["NodeResourcesFit"], at(1));
        assert_eq!(queue.tick(at(2)), None);
        assert_eq!(popped(&mut queue).as_deref(), Some("a"));
    }

    #[test]
    fn gates_hold_and_time_heals() {
        let mut queue = Queue::new();
        queue.set(pod("g", 0, &["x"]), true);
        assert_eq!((popped(&mut queue), queue.gated_len()), (None, 1));
        queue.set(pod("g", 0, &[]), true);
        assert_eq!(popped(&mut queue).as_deref(), Some("g"));
        queue.refused("g", vec!["NodeName"], at(0));
        queue.tick(at(299));
        assert_eq!(popped(&mut queue), None);
        queue.tick(at(300));
        assert_eq!(popped(&mut queue).as_deref(), Some("g"));
        queue.remove("g");
        assert!(queue.is_empty());
    }
}
