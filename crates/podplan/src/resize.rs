//! In-place resize (KEP-1287): what a pod's containers were given, what is asked for now, and whether the node has it.
//!
//! The kubelet works with the pod as it was given resources. A change of the spec is taken over as a whole when the
//! node has room for it, and until then it is pending.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Node, Pod, ResourceRequirements};

use crate::resources::{self, Amounts};
use crate::spec;

/// What can be changed in place.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// Resources by container name.
pub type Allocation = BTreeMap<String, ResourceRequirements>;

/// Whether a resize can be taken over; texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The node has room.
    Fits,
    /// The node has room when others leave.
    Deferred(String),
    /// The node never has room.
    Infeasible(String),
}

impl Verdict {
    /// Reason of the condition `PodResizePending`, and its message.
    #[must_use]
    pub fn pending(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Fits => None,
            Self::Deferred(message) => Some(("Deferred", message)),
            Self::Infeasible(message) => Some(("Infeasible", message)),
        }
    }
}

/// What the spec asks for.
#[must_use]
pub fn wanted(pod: &Pod) -> Allocation {
    let all = spec::init(pod).iter().chain(spec::main(pod));
    all.map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default())).collect()
}

/// The pod as if it asked for what it was given.
#[must_use]
pub fn with(pod: &Pod, given: &Allocation) -> Pod {
    let mut pod = pod.clone();
    if let Some(spec) = &mut pod.spec {
        for c in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            if let Some(resources) = given.get(&c.name) {
                c.resources = Some(resources.clone());
            }
        }
    }
    pod
}

fn amount(r: &ResourceRequirements, limits: bool, name: &str) -> i64 {
    let list = if limits { &r.limits } else { &r.requests };
    list.as_ref().and_then(|l| l.get(name)).map_or(0, |q| resources::amount(name, q))
}

/// Whether two requirements differ in what can be changed in place.
#[must_use]
pub fn differ(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    changed(a, b).next().is_some()
}

fn changed<'a>(
    a: &'a ResourceRequirements,
    b: &'a ResourceRequirements,
) -> impl Iterator<Item = &'static str> + 'a {
    RESIZABLE
        .into_iter()
        .filter(|name| [false, true].iter().any(|l| amount(a, *l, name) != amount(b, *l, name)))
}

/// Whether any container differs.
#[must_use]
pub fn differs(a: &Allocation, b: &Allocation) -> bool {
    let none = ResourceRequirements::default();
    a.iter().any(|(name, r)| differ(r, b.get(name).unwrap_or(&none)))
}

/// Whether the container wants to be restarted for the change (`resizePolicy`).
#[must_use]
pub fn restarts(c: &Container, from: &ResourceRequirements, to: &ResourceRequirements) -> bool {
    changed(from, to).any(|name| {
        let policy = c.resize_policy.iter().flatten().find(|p| p.resource_name == name);
        policy.is_some_and(|p| p.restart_policy == "RestartContainer")
    })
}

/// The limit of memory, in bytes, if it becomes smaller.
#[must_use]
pub fn shrinks_to(from: &ResourceRequirements, to: &ResourceRequirements) -> Option<i64> {
    let (old, new) = (amount(from, true, "memory"), amount(to, true, "memory"));
    (new > 0 && (old == 0 || new < old)).then_some(new)
}

/// Whether the node has room for what the pod asks for now, beside the other pods.
pub fn judge<'a>(pod: &Pod, node: &Node, others: impl Iterator<Item = &'a Pod>) -> Verdict {
    let list = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    let room: Amounts =
        list.into_iter().flatten().map(|(k, q)| (k.clone(), resources::amount(k, q))).collect();
    let mut used = Amounts::new();
    for p in others {
        for (k, v) in resources::pod_requests(p) {
            *used.entry(k).or_default() += v;
        }
    }
    let wanted = resources::pod_requests(pod);
    let mut verdict = Verdict::Fits;
    for name in RESIZABLE {
        let Some(capacity) = room.get(name).copied() else { continue };
        let want = wanted.get(name).copied().unwrap_or(0);
        let have = used.get(name).copied().unwrap_or(0);
        if want > capacity {
            return Verdict::Infeasible(format!(
                "Node didn't have enough capacity: {name}, requested: {want}, capacity: {capacity}"
            ));
        }
        if have + want > capacity && verdict == Verdict::Fits {
            verdict = Verdict::Deferred(format!(
                "Node didn't have enough resource: {name}, requested: {want}, used: {have}, capacity: {capacity}"
            ));
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(cpu: &str, memory: &str) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {}, "spec": {"containers": [
            {"name": "c", "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}],
             "resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory}}}]}}))
        .expect("it is a pod")
    }

    #[test]
    fn room_of_the_node() {
        let node: Node = serde_json::from_value(
            serde_json::json!({"metadata": {}, "status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}}),
        )
        .expect("it is a node");
        let other = pod("1", "100Mi");
        let check = |cpu: &str, memory: &str| judge(&pod(cpu, memory), &node, [&other].into_iter());
        assert_eq!(check("1", "900Mi"), Verdict::Fits);
        let text = "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000";
        assert_eq!(check("1500m", "1Mi").pending(), Some(("Deferred", text)));
        let text = "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000";
        assert_eq!(check("3", "1Mi").pending(), Some(("Infeasible", text)));
        assert!(matches!(check("1500m", "2Gi"), Verdict::Infeasible(_)));
    }

    #[test]
    fn changes() {
        let (a, b) = (pod("1", "100Mi"), pod("1000m", "200Mi"));
        let (from, to) = (wanted(&a), wanted(&b));
        assert!(differs(&from, &to) && !differs(&from, &wanted(&pod("1000m", "100Mi"))));
        let c = &spec::main(&a)[0];
        assert!(restarts(c, &from["c"], &to["c"]));
        assert!(!restarts(c, &from["c"], &wanted(&pod("2", "100Mi"))["c"]));
        assert_eq!(
            (shrinks_to(&to["c"], &from["c"]), shrinks_to(&from["c"], &to["c"])),
            (Some(100 << 20), None)
        );
        assert_eq!(wanted(&with(&b, &from)), from);
    }
}
