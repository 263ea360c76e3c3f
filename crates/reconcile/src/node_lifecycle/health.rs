//! The monitor: which nodes fell silent, and what follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, PodCondition};
use serde_json::json;

use super::taints::{self, NOT_READY, UNREACHABLE, condition_status};
use super::zones::{Limiter, ZoneState, state};
use crate::meta::{Meta, reference, time};
use crate::plan::{Action, Event, Outcome, PatchKind, Plan, Step, Target, Tolerate};
use crate::pods;

const WATCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const ZONE: &str = "topology.kubernetes.io/zone";
const REGION: &str = "topology.kubernetes.io/region";

/// How patient the monitor is, and how fast it taints.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Silence after which a node is unknown.
    pub grace: SignedDuration,
    /// The same for a node that never reported.
    pub startup_grace: SignedDuration,
    /// Taints a second in a healthy zone.
    pub eviction_rate: f64,
    /// Taints a second in a large, unhealthy zone.
    pub secondary_eviction_rate: f64,
    /// Nodes above which a zone is large.
    pub large_zone: usize,
    /// Share of unready nodes from which a zone is unhealthy.
    pub unhealthy_threshold: f64,
}

/// What is remembered of one node.
#[derive(Debug)]
struct Health {
    uid: String,
    /// Heartbeat last seen.
    heartbeat: Option<Timestamp>,
    /// Lease renewal last seen.
    renewed: Option<Timestamp>,
    /// When one of the two last changed, by our clock.
    seen: Timestamp,
    /// Ready as of the last pass.
    ready: Option<String>,
    /// The taint still to be set, waiting for its turn.
    pending: Option<&'static str>,
    /// Its turn has come; a write that fails is tried again without waiting for another.
    granted: bool,
}

/// What the monitor reads beside the nodes.
pub struct Sources<'a> {
    /// The Lease of a node.
    pub lease: &'a dyn Fn(&str) -> Option<Arc<Lease>>,
    /// The pods on a node.
    pub pods: &'a dyn Fn(&str) -> Vec<Arc<Pod>>,
}

/// Watches all nodes over time.
#[derive(Debug)]
pub struct Monitor {
    settings: Settings,
    nodes: BTreeMap<String, Health>,
    zones: BTreeMap<String, Limiter>,
    all_down: bool,
}

fn heartbeat(node: &Node) -> Option<Timestamp> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    ready.last_heartbeat_time.as_ref().map(|time| time.0)
}

fn renewed(lease: &Lease) -> Option<Timestamp> {
    lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0)
}

fn zone(node: &Node) -> String {
    let label = |key| node.labels().get(key).map_or("", String::as_str);
    format!("{}:\0:{}", label(REGION), label(ZONE))
}

impl Monitor {
    /// Knows no node yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings, nodes: BTreeMap::new(), zones: BTreeMap::new(), all_down: false }
    }

    /// One look at all nodes: the plans, each with the name of its node.
    pub fn pass(
        &mut self,
        nodes: &[Arc<Node>],
        sources: &Sources<'_>,
        now: Timestamp,
    ) -> Vec<(String, Plan)> {
        let mut plans = self.arrivals_and_departures(nodes, now);
        let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for node in nodes {
            let (plan, ready) = self.look(node, sources, now);
            let count = counts.entry(zone(node)).or_default();
            if ready == "True" {
                count.0 += 1
            } else {
                count.1 += 1
            }
            if !plan.is_idle() {
                plans.push((node.name().to_owned(), plan));
            }
        }
        self.set_rates(&counts, nodes, &mut plans, now);
        if !self.all_down {
            self.taint(nodes, &mut plans, now);
        }
        plans
    }

    fn arrivals_and_departures(&mut self, nodes: &[Arc<Node>], now: Timestamp) -> Vec<(String, Plan)> {
        let mut plans = Vec::new();
        let present: BTreeSet<&str> = nodes.iter().map(|node| node.name()).collect();
        let gone: Vec<String> =
            self.nodes.keys().filter(|name| !present.contains(name.as_str())).cloned().collect();
        for name in gone {
            self.nodes.remove(&name);
            let about = k8s_openapi::api::core::v1::ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(name.clone()),
                api_version: Some("v1".to_owned()),
                ..Default::default()
            };
            let text = format!("Node {name} event: Removing Node {name} from Controller");
            let mut plan = Plan::nothing();
            plan.note(Event::normal(about, "RemovingNode", text));
            plans.push((name, plan));
        }
        for node in nodes {
            let known = self.nodes.get(node.name()).is_some_and(|health| health.uid == node.uid());
            if known {
                continue;
            }
            // A node that never reported is as old as its object; one that did counts from now.
            let seen = if heartbeat(node).is_some() { now } else { node.created().unwrap_or(now) };
            self.nodes.insert(
                node.name().to_owned(),
                Health {
                    uid: node.uid().to_owned(),
                    heartbeat: heartbeat(node),
                    renewed: None,
                    seen,
                    ready: None,
                    pending: None,
                    granted: false,
                },
            );
            let text = format!("Node {0} event: Registered Node {0} in Controller", node.name());
            let mut plan = Plan::nothing();
            plan.note(Event::normal(reference(node.as_ref()), "RegisteredNode", text));
            plans.push((node.name().to_owned(), plan));
        }
        plans
    }

    /// One node: is it heard of, and did its readiness change? The plan and what Ready now counts as.
    fn look(&mut self, node: &Arc<Node>, sources: &Sources<'_>, now: Timestamp) -> (Plan, String) {
        let settings = self.settings;
        let health = self.nodes.get_mut(node.name()).expect("added before");
        let beat = heartbeat(node);
        if beat != health.heartbeat {
            health.heartbeat = beat;
            health.seen = now;
        }
        let renewal = (sources.lease)(node.name()).and_then(|lease| renewed(&lease));
        if renewal.is_some() && renewal > health.renewed {
            health.renewed = renewal;
            health.seen = now;
        }
        let never = condition_status(node, "Ready").is_none();
        let grace = if never { settings.startup_grace } else { settings.grace };
        let mut plan = Plan::nothing();
        let mut ready = condition_status(node, "Ready").unwrap_or("Unknown").to_owned();
        if now.duration_since(health.seen) > grace {
            if let Some(action) = unknown(node, now) {
                plan.push(action);
            }
            ready = "Unknown".to_owned();
        }
        let before = health.ready.replace(ready.clone());
        if ready != "True" && before.as_deref() == Some("True") {
            let text = format!("Node {} status is now: NodeNotReady", node.name());
            plan.note(Event::normal(reference(node.as_ref()), "NodeNotReady", text));
        }
        // Also at the first look: this process may have been started after the node went down.
        if ready != "True" && before.as_deref() != Some(ready.as_str()) && !never {
            for pod in (sources.pods)(node.name()) {
                plan.steps.extend(mark_unready(&pod, now).map(Step::One));
            }
        }
        let wanted = match ready.as_str() {
            "True" => None,
            _ if never => None,
            "False" => Some(NOT_READY),
            _ => Some(UNREACHABLE),
        };
        health.pending = wanted.filter(|key| !taints::has(node, key, "NoExecute"));
        health.granted &= ready != "True";
        if ready == "True"
            && let Some(action) = taints::clear_no_execute(node)
        {
            plan.push(action);
        }
        (plan, ready)
    }

    /// Rates by the state of the zones. When no zone has a ready node, the fault is likely ours: nothing is evicted.
    fn set_rates(
        &mut self,
        counts: &BTreeMap<String, (usize, usize)>,
        nodes: &[Arc<Node>],
        plans: &mut Vec<(String, Plan)>,
        now: Timestamp,
    ) {
        let settings = self.settings;
        let mut all_down = !counts.is_empty();
        for (zone, (ready, unready)) in counts {
            let state = state(*ready, *unready, settings.unhealthy_threshold);
            all_down &= state == ZoneState::Full;
            let rate = match state {
                ZoneState::Normal | ZoneState::Full => settings.eviction_rate,
                ZoneState::Partial if ready + unready > settings.large_zone => {
                    settings.secondary_eviction_rate
                }
                ZoneState::Partial => 0.0,
            };
            self.zones.entry(zone.clone()).or_insert_with(|| Limiter::new(rate, now)).set_rate(rate, now);
        }
        self.zones.retain(|zone, _| counts.contains_key(zone));
        let entered = all_down && !self.all_down;
        if self.all_down && !all_down {
            // Back from a total outage: silence counts from now, as nothing could be heard before.
            for health in self.nodes.values_mut() {
                health.seen = now;
            }
        }
        self.all_down = all_down;
        if entered {
            for node in nodes {
                if let Some(action) = taints::clear_no_execute(node) {
                    let mut plan = Plan::nothing();
                    plan.push(action);
                    plans.push((node.name().to_owned(), plan));
                }
            }
        }
    }

    fn taint(&mut self, nodes: &[Arc<Node>], plans: &mut Vec<(String, Plan)>, now: Timestamp) {
        for node in nodes {
            let Some(health) = self.nodes.get_mut(node.name()) else { continue };
            let Some(key) = health.pending else { continue };
            let other = if key == NOT_READY { UNREACHABLE } else { NOT_READY };
            // Changing one taint into the other evicts nobody new, so it need not wait.
            let swap = taints::has(node, other, "NoExecute");
            let allowed = swap
                || health.granted
                || self.zones.get_mut(&zone(node)).is_some_and(|limiter| limiter.take(now));
            if !allowed {
                continue;
            }
            health.pending = None;
            health.granted = true;
            let writes_node = |(name, plan): &&mut (String, Plan)| {
                name == node.name() && plan.actions().any(|a| a.write.target().resource.plural == "nodes")
            };
            if let Some((_, plan)) = plans.iter_mut().find(writes_node) {
                // The taint builds on the node as that write leaves it.
                plan.then = Some(Box::new(move |outcome| then_taint(outcome, key, now)));
            } else if let Some(action) = taints::set_no_execute(node, key, now) {
                let mut plan = Plan::nothing();
                plan.push(action);
                plans.push((node.name().to_owned(), plan));
            }
        }
    }
}

fn then_taint(outcome: &Outcome, key: &'static str, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let node = outcome.results.first().and_then(|result| result.as_ref().ok());
    let node = node.and_then(|value| serde_json::from_value::<Node>(value.clone()).ok());
    plan.steps.extend(node.and_then(|node| taints::set_no_execute(&node, key, now)).map(Step::One));
    plan
}

/// Conditions of a silent node.
fn unknown(node: &Node, now: Timestamp) -> Option<Action> {
    let mut copy = node.clone();
    let conditions = copy.status.get_or_insert_default().conditions.get_or_insert_default();
    for kind in WATCHED {
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            None => conditions.push(NodeCondition {
                type_: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(time(now)),
            }),
            Some(condition) if condition.status != "Unknown" => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(time(now));
            }
            Some(_) => {}
        }
    }
    (copy != *node).then(|| {
        let tolerate = Tolerate { not_found: true, conflict: true, ..Tolerate::default() };
        Action::update_status(&copy).tolerating(tolerate)
    })
}

/// A pod on a node that is not ready is not ready either, so that no traffic goes there.
fn mark_unready(pod: &Pod, now: Timestamp) -> Option<Action> {
    let condition = pods::condition(pod, "Ready")?;
    if condition.status != "True" {
        return None;
    }
    let next = PodCondition {
        status: "False".to_owned(),
        last_transition_time: Some(time(now)),
        ..condition.clone()
    };
    let body = json!({ "metadata": { "uid": pod.uid() }, "status": { "conditions": [next] } });
    let warning = Event::warning(reference(pod), "NodeNotReady", "Node is not ready");
    Some(
        Action::patch_status(Target::of(pod), PatchKind::Strategic, body)
            .ok_event(warning)
            .tolerating(Tolerate { not_found: true, conflict: true, ..Tolerate::default() }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::plus_seconds;
    use crate::plan::{Write, describe};
    use expect_test::{Expect, expect};

    const START: Timestamp = Timestamp::UNIX_EPOCH;

    fn settings() -> Settings {
        Settings {
            grace: SignedDuration::from_secs(50),
            startup_grace: SignedDuration::from_secs(60),
            eviction_rate: 0.1,
            secondary_eviction_rate: 0.01,
            large_zone: 50,
            unhealthy_threshold: 0.55,
        }
    }

    fn node(name: &str, ready: &str) -> Arc<Node> {
        let conditions: Vec<_> = WATCHED
            .iter()
            .map(|kind| {
                let status = if *kind == "Ready" { ready } else { "False" };
                json!({"type": kind, "status": status, "lastHeartbeatTime": "1970-01-01T00:00:00Z"})
            })
            .collect();
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "uid": name, "resourceVersion": "1"},
                "status": {"conditions": conditions},
            }))
            .unwrap(),
        )
    }

    fn pod() -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": "p", "namespace": "d", "uid": "p"},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            }))
            .unwrap(),
        )
    }

    /// Applies what the plans say to the nodes.
    fn apply(nodes: &mut [Arc<Node>], plans: Vec<(String, Plan)>) -> String {
        let mut text = String::new();
        for (_, mut plan) in plans {
            loop {
                text += &describe(&plan);
                let mut outcome = Outcome::default();
                for action in plan.actions() {
                    outcome.results.push(Ok(write(nodes, &action.write)));
                }
                match plan.then.take() {
                    Some(then) => plan = then(&outcome),
                    None => break,
                }
            }
        }
        text
    }

    fn write(nodes: &mut [Arc<Node>], write: &Write) -> serde_json::Value {
        let Some(node) = nodes.iter_mut().find(|node| node.name() == write.target().name) else {
            return json!(null);
        };
        match write {
            Write::Update { body, .. } => *node = Arc::new(serde_json::from_value(body.clone()).unwrap()),
            Write::Patch { body, .. } => {
                let mut copy = node.as_ref().clone();
                copy.spec.get_or_insert_default().taints =
                    serde_json::from_value(body["spec"]["taints"].clone()).unwrap();
                *node = Arc::new(copy);
            }
            other => panic!("{other:?}"),
        }
        crate::plan::to_value(node.as_ref())
    }

    fn check(silent: &[&str], seconds: &[i64], want: Expect) {
        let mut monitor = Monitor::new(settings());
        let mut nodes = vec![node("a", "True"), node("b", "True"), node("c", "True"), node("d", "True")];
        let mut text = String::new();
        for second in seconds {
            let now = plus_seconds(START, *second);
            let lease = |name: &str| {
                let at = if silent.contains(&name) { START } else { now };
                let lease: Lease =
                    serde_json::from_value(json!({"spec": {"renewTime": format!("{at:.6}")}})).unwrap();
                Some(Arc::new(lease))
            };
            let pods = |name: &str| if name == "a" { vec![pod()] } else { vec![] };
            let plans = monitor.pass(&nodes, &Sources { lease: &lease, pods: &pods }, now);
            text += &format!("at {second}s\n{}", apply(&mut nodes, plans));
        }
        want.assert_eq(&text);
    }

    #[test]
    fn a_silent_node_is_unknown_and_tainted() {
        check(
            &["a"],
            &[0, 50, 55, 60],
            expect![[r#"
            at 0s
            event RegisteredNode Node a event: Registered Node a in Controller
            event RegisteredNode Node b event: Registered Node b in Controller
            event RegisteredNode Node c event: Registered Node c in Controller
            event RegisteredNode Node d event: Registered Node d in Controller
            at 50s
            at 55s
            update nodes/a/status
            event NodeNotReady Node a status is now: NodeNotReady
            patch pods/p/status {"metadata":{"uid":"p"},"status":{"conditions":[{"lastTransitionTime":"1970-01-01T00:00:55Z","status":"False","type":"Ready"}]}}
              ok: NodeNotReady Node is not ready
            patch nodes/a {"metadata":{"resourceVersion":"1"},"spec":{"taints":[{"effect":"NoExecute","key":"node.kubernetes.io/unreachable","timeAdded":"1970-01-01T00:00:55Z"}]}}
            at 60s
        "#]],
        );
    }

    #[test]
    fn total_silence_evicts_nobody() {
        check(
            &["a", "b", "c", "d"],
            &[0, 55, 60],
            expect![[r#"
            at 0s
            event RegisteredNode Node a event: Registered Node a in Controller
            event RegisteredNode Node b event: Registered Node b in Controller
            event RegisteredNode Node c event: Registered Node c in Controller
            event RegisteredNode Node d event: Registered Node d in Controller
            at 55s
            update nodes/a/status
            event NodeNotReady Node a status is now: NodeNotReady
            patch pods/p/status {"metadata":{"uid":"p"},"status":{"conditions":[{"lastTransitionTime":"1970-01-01T00:00:55Z","status":"False","type":"Ready"}]}}
              ok: NodeNotReady Node is not ready
            update nodes/b/status
            event NodeNotReady Node b status is now: NodeNotReady
            update nodes/c/status
            event NodeNotReady Node c status is now: NodeNotReady
            update nodes/d/status
            event NodeNotReady Node d status is now: NodeNotReady
            at 60s
        "#]],
        );
    }

    #[test]
    fn taints_are_rate_limited() {
        check(
            &["a", "b"],
            &[0, 55, 60, 65],
            expect![[r#"
                at 0s
                event RegisteredNode Node a event: Registered Node a in Controller
                event RegisteredNode Node b event: Registered Node b in Controller
                event RegisteredNode Node c event: Registered Node c in Controller
                event RegisteredNode Node d event: Registered Node d in Controller
                at 55s
                update nodes/a/status
                event NodeNotReady Node a status is now: NodeNotReady
                patch pods/p/status {"metadata":{"uid":"p"},"status":{"conditions":[{"lastTransitionTime":"1970-01-01T00:00:55Z","status":"False","type":"Ready"}]}}
                  ok: NodeNotReady Node is not ready
                patch nodes/a {"metadata":{"resourceVersion":"1"},"spec":{"taints":[{"effect":"NoExecute","key":"node.kubernetes.io/unreachable","timeAdded":"1970-01-01T00:00:55Z"}]}}
                update nodes/b/status
                event NodeNotReady Node b status is now: NodeNotReady
                at 60s
                at 65s
                patch nodes/b {"metadata":{"resourceVersion":"1"},"spec":{"taints":[{"effect":"NoExecute","key":"node.kubernetes.io/unreachable","timeAdded":"1970-01-01T00:01:05Z"}]}}
            "#]],
        );
    }
}
