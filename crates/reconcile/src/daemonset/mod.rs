//! DaemonSets: one pod on each node that should have one; rolling updates with unavailability or surge.
//!
//! Pods are bound by the scheduler, which is told the node by an affinity on its name.
//! Matches upstream's pkg/controller/daemon.

mod revisions;
mod rollout;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    Toleration,
};

use crate::backoff::exponential;
use crate::claim::claim;
use crate::history::REVISION_HASH;
use crate::labels;
use crate::meta::{Meta, reference, set_label, until};
use crate::node_match::{affinity, untolerated};
use crate::plan::{Action, Event, Plan, Step};
use crate::pods;

/// Pods made or removed in one pass at most.
const BURST: usize = 250;
const FAILURE_PAUSE_MIN: Duration = Duration::from_secs(1);
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(15 * 60);
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// What is known about one DaemonSet.
#[derive(Debug, Default)]
pub struct View {
    /// All nodes.
    pub nodes: Vec<Arc<Node>>,
    /// Pods that the set controls, and those of its namespace without a controller.
    pub pods: Vec<Arc<Pod>>,
    /// Revisions that the set controls.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// The cache has caught up with this set's earlier creations and deletions.
    pub settled: bool,
}

/// How often pods failed on which node, so that a broken set does not churn.
#[derive(Debug, Default)]
pub struct Failures(HashMap<String, (u32, Timestamp)>);

impl Failures {
    /// The pause left before a failed pod may be replaced; starts the next one when there is none.
    fn pause(&mut self, key: String, now: Timestamp) -> Duration {
        let entry = self.0.get(&key).copied();
        if let Some((count, at)) = entry {
            let end = at.saturating_add(exponential(FAILURE_PAUSE_MIN, FAILURE_PAUSE_MAX, count));
            let left = until(end.unwrap_or(now), now);
            if !left.is_zero() {
                return left;
            }
        }
        let stale = |at: Timestamp| until(now, at) > 2 * FAILURE_PAUSE_MAX;
        let count = entry.filter(|(_, at)| !stale(*at)).map_or(0, |(count, _)| count + 1);
        self.0.retain(|_, (_, at)| !stale(*at));
        self.0.insert(key, (count, now));
        Duration::ZERO
    }
}

struct Pass<'a> {
    set: &'a DaemonSet,
    spec: &'a DaemonSetSpec,
    nodes: Vec<Arc<Node>>,
    /// Pods by the node they are on or meant for.
    by_node: BTreeMap<String, Vec<Arc<Pod>>>,
    hash: String,
    now: Timestamp,
}

/// Decides for one DaemonSet.
pub fn reconcile(set: &Arc<DaemonSet>, view: View, failures: &mut Failures, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let Some(spec) = &set.spec else { return plan };
    if labels::is_empty(&spec.selector) {
        let text = "This daemon set is selecting all pods. A non-empty selector is required.";
        plan.note(Event::warning(reference(set.as_ref()), "SelectingAll", text));
        return plan;
    }
    if set.deleting() {
        return plan;
    }
    let mut claimed =
        claim(set.as_ref(), &view.pods, |pod| labels::matches(&spec.selector, pod.labels()), None);
    plan.steps.extend(claimed.step());
    let current = match revisions::current(set, spec, &view.revisions) {
        Ok(current) => current,
        // The new revision comes back through the cache; pods need its hash.
        Err(create) if view.settled => {
            revisions::create(&mut plan, set, *create);
            return plan;
        }
        Err(_) => return plan,
    };
    plan.steps.extend(current.update.map(Step::One));
    let mut by_node: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in claimed.owned {
        by_node.entry(target_node(&pod)).or_default().push(pod);
    }
    let pass = Pass { set, spec, nodes: view.nodes, by_node, hash: current.hash, now };
    if view.settled {
        let (mut create, mut delete) = pass.manage(failures, &mut plan);
        if create.is_empty() && delete.is_empty() && pass.is_rolling() {
            (create, delete) = pass.roll();
        }
        plan.steps.extend(pass.steps(&create, &delete));
        let live = |revision: &ControllerRevision| {
            let hash = revision.labels().get(REVISION_HASH);
            hash == Some(&pass.hash)
                || pass.by_node.values().flatten().any(|pod| pod.labels().get(REVISION_HASH) == hash)
        };
        let limit = spec.revision_history_limit.unwrap_or(10);
        plan.steps.extend(crate::history::truncate(&view.revisions, live, limit).into_iter().map(Step::One));
    }
    plan.steps.extend(pass.report().map(Step::One));
    let all: Vec<_> = pass.by_node.values().flatten().cloned().collect();
    if let Some(after) = pods::next_availability(&all, pass.min_ready(), now) {
        plan.requeue(after);
    }
    plan
}

/// The node that a pod is on, or that its affinity names.
fn target_node(pod: &Pod) -> String {
    let node = pods::node(pod);
    if !node.is_empty() {
        return node.to_owned();
    }
    let terms = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref())
        .map(|selector| selector.node_selector_terms.as_slice())
        .unwrap_or_default();
    terms
        .iter()
        .flat_map(|term| term.match_fields.iter().flatten())
        .filter(|field| field.key == "metadata.name" && field.operator == "In")
        .find_map(|field| field.values.as_ref()?.first().cloned())
        .unwrap_or_default()
}

fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let mut add = |key: &str, effect: &str| {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !all.contains(&toleration) {
            all.push(toleration);
        }
    };
    add("node.kubernetes.io/not-ready", "NoExecute");
    add("node.kubernetes.io/unreachable", "NoExecute");
    add("node.kubernetes.io/disk-pressure", "NoSchedule");
    add("node.kubernetes.io/memory-pressure", "NoSchedule");
    add("node.kubernetes.io/pid-pressure", "NoSchedule");
    add("node.kubernetes.io/unschedulable", "NoSchedule");
    if spec.host_network == Some(true) {
        add("node.kubernetes.io/network-unavailable", "NoSchedule");
    }
    all
}

impl Pass<'_> {
    fn min_ready(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    /// Whether a node should get a pod, and whether one that is there may stay.
    fn wants(&self, node: &Node) -> (bool, bool) {
        let Some(template) = &self.spec.template.spec else { return (false, false) };
        let named = template.node_name.as_deref().unwrap_or_default();
        if (!named.is_empty() && named != node.name()) || !affinity(template, node) {
            return (false, false);
        }
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        let tolerations = tolerations(template);
        if untolerated(taints, &tolerations, &["NoSchedule", "NoExecute"]) {
            return (false, !untolerated(taints, &tolerations, &["NoExecute"]));
        }
        (true, true)
    }

    fn is_updated(&self, pod: &Pod) -> bool {
        pod.labels().get(REVISION_HASH) == Some(&self.hash)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, self.min_ready(), self.now)
    }

    /// Nodes that need a pod and pods that must go.
    fn manage(&self, failures: &mut Failures, plan: &mut Plan) -> (Vec<String>, Vec<Arc<Pod>>) {
        let (mut create, mut delete) = (Vec::new(), Vec::new());
        for node in &self.nodes {
            let (should_run, may_stay) = self.wants(node);
            let present = self.by_node.get(node.name()).map(Vec::as_slice).unwrap_or_default();
            if should_run && present.is_empty() {
                create.push(node.name().to_owned());
            } else if may_stay {
                self.tidy(node, should_run, present, failures, plan, &mut create, &mut delete);
            } else {
                delete.extend(present.iter().filter(|pod| !pod.deleting()).cloned());
            }
        }
        let known = |name: &String| self.nodes.iter().any(|node| node.name() == name);
        for (node, pods) in &self.by_node {
            // Pods meant for nodes that are gone would wait for ever.
            if !known(node) {
                let waiting = pods.iter().filter(|pod| pods::node(pod).is_empty() && !pod.deleting());
                delete.extend(waiting.cloned());
            }
        }
        (create, delete)
    }

    #[allow(clippy::too_many_arguments, reason = "one step of manage, split off for length")]
    fn tidy(
        &self,
        node: &Node,
        should_run: bool,
        present: &[Arc<Pod>],
        failures: &mut Failures,
        plan: &mut Plan,
        create: &mut Vec<String>,
        delete: &mut Vec<Arc<Pod>>,
    ) {
        let about = || reference(self.set);
        let mut running = Vec::new();
        for pod in present.iter().filter(|pod| !pod.deleting()) {
            let place = format!("{}/{} on node {}", pod.namespace(), pod.name(), node.name());
            match pods::phase(pod) {
                "Failed" => {
                    let key = format!("{}/{}/{}", self.set.uid(), self.set.generation(), node.name());
                    let pause = failures.pause(key, self.now);
                    if !pause.is_zero() {
                        plan.requeue(pause);
                        continue;
                    }
                    let text = format!("Found failed daemon pod {place}, will try to kill it");
                    plan.note(Event::warning(about(), "FailedDaemonPod", text));
                    delete.push(pod.clone());
                }
                "Succeeded" => {
                    let text = format!("Found succeeded daemon pod {place}, will try to delete it");
                    plan.note(Event::normal(about(), "SucceededDaemonPod", text));
                    delete.push(pod.clone());
                }
                _ => running.push(pod.clone()),
            }
        }
        running.sort_by(|a, b| {
            let unbound = |pod: &Pod| pods::node(pod).is_empty();
            unbound(a)
                .cmp(&unbound(b))
                .then_with(|| a.created().cmp(&b.created()))
                .then_with(|| a.uid().cmp(b.uid()))
        });
        if self.max_surge_set() {
            if running.is_empty() && should_run && present.iter().all(|pod| pod.deleting()) {
                create.push(node.name().to_owned());
            }
            // The oldest of the new pods and the oldest of the old ones stay, until the new one is available.
            let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| self.is_updated(pod));
            delete.extend(new.iter().skip(1).cloned());
            let replaced = new.first().is_some_and(|pod| self.is_available(pod));
            delete.extend(old.into_iter().skip(usize::from(!replaced)));
        } else {
            delete.extend(running.into_iter().skip(1));
        }
    }

    fn steps(&self, create: &[String], delete: &[Arc<Pod>]) -> Vec<Step> {
        let mut steps = Vec::new();
        if !create.is_empty() {
            let each = create.iter().take(BURST).map(|node| pods::create(self.set, &self.pod(node)));
            steps.push(Step::SlowStart(each.collect()));
        }
        if !delete.is_empty() {
            let each = delete.iter().take(BURST).map(|pod| pods::delete(self.set, pod.as_ref()));
            steps.push(Step::All(each.collect()));
        }
        steps
    }

    fn pod(&self, node: &str) -> Pod {
        let mut pod = pods::from_template(&self.spec.template, self.set);
        set_label(&mut pod.metadata, REVISION_HASH, self.hash.clone());
        if let Some(generation) = self.set.annotations().get(TEMPLATE_GENERATION) {
            set_label(&mut pod.metadata, "pod-template-generation", generation.clone());
        }
        if let Some(spec) = &mut pod.spec {
            spec.tolerations = Some(tolerations(spec));
            let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
            let on_node: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
            on_node.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
                node_selector_terms: vec![NodeSelectorTerm {
                    match_expressions: None,
                    match_fields: Some(vec![NodeSelectorRequirement {
                        key: "metadata.name".to_owned(),
                        operator: "In".to_owned(),
                        values: Some(vec![node.to_owned()]),
                    }]),
                }],
            });
        }
        pod
    }

    fn report(&self) -> Option<Action> {
        let mut status = self.set.status.clone().unwrap_or_default();
        let (mut desired, mut current, mut misscheduled) = (0, 0, 0);
        let (mut ready, mut available, mut updated) = (0, 0, 0);
        for node in &self.nodes {
            let (should_run, _) = self.wants(node);
            let mut present: Vec<&Arc<Pod>> = self
                .by_node
                .get(node.name())
                .into_iter()
                .flatten()
                .filter(|pod| !(pod.deleting() && pods::is_terminal(pod)))
                .collect();
            if !should_run {
                misscheduled += i32::from(!present.is_empty());
                continue;
            }
            desired += 1;
            present.sort_by_key(|pod| pod.created());
            let Some(pod) = present.first() else { continue };
            current += 1;
            ready += i32::from(pods::is_ready(pod));
            available += i32::from(self.is_available(pod));
            updated += i32::from(self.is_updated(pod));
        }
        status.desired_number_scheduled = desired;
        status.current_number_scheduled = current;
        status.number_misscheduled = misscheduled;
        status.number_ready = ready;
        let some = |count: i32| (count != 0).then_some(count);
        status.updated_number_scheduled = some(updated);
        status.number_available = some(available);
        status.number_unavailable = some(desired - available);
        status.observed_generation = Some(self.set.generation());
        let old = self.set.status.clone().unwrap_or_default();
        (status != old).then(|| {
            let mut copy = self.set.clone();
            copy.status = Some(status);
            Action::update_status(&copy)
        })
    }
}
