//! Whether a node takes a pod that was given to it: the last check, after the scheduler's, since the
//! scheduler may have been bypassed or may have seen older facts.

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration};

use crate::resources::{self, Amounts};
use crate::spec;

/// Why a pod is refused; both go to its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Status reason.
    pub reason: String,
    /// Status message.
    pub message: String,
}

fn refuse(reason: impl Into<String>, message: impl std::fmt::Display) -> Refusal {
    Refusal { reason: reason.into(), message: format!("Pod was rejected: {message}") }
}

/// What of the node is under pressure.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pressure {
    /// Memory is low: only pods that asked for some, or tolerate it, are taken.
    pub memory: bool,
    /// Disk is low.
    pub disk: bool,
    /// Process ids are low.
    pub pids: bool,
}

/// Checks one pod against the node and the pods that it has already.
///
/// # Errors
/// The refusal, with upstream's reasons.
pub fn admit<'a>(
    pod: &Pod,
    node: &Node,
    others: impl Iterator<Item = &'a Pod> + Clone,
    pressure: Pressure,
) -> Result<(), Refusal> {
    let critical = spec::of(pod).priority.is_some_and(|p| p >= crate::cgroup::SYSTEM_CRITICAL);
    under_pressure(pod, pressure, critical)?;
    os(pod)?;
    affinity(pod, node)?;
    taints(pod, node)?;
    ports(pod, others.clone())?;
    fits(pod, node, others)
}

fn under_pressure(pod: &Pod, p: Pressure, critical: bool) -> Result<(), Refusal> {
    let mut list = vec![];
    let spared = resources::qos_of(pod) != "BestEffort"
        || tolerates(pod, &taint("node.kubernetes.io/memory-pressure", "", "NoSchedule"));
    if p.memory && !spared {
        list.push("MemoryPressure");
    }
    if p.disk {
        list.push("DiskPressure");
    }
    if p.pids {
        list.push("PIDPressure");
    }
    if list.is_empty() || critical {
        return Ok(());
    }
    let message = format!("The node had condition: [{}]. ", list.join(" "));
    Err(refuse("Evicted", message))
}

fn os(pod: &Pod) -> Result<(), Refusal> {
    match spec::of(pod).os.as_ref() {
        Some(os) if os.name != "linux" => {
            Err(refuse("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"))
        }
        _ => Ok(()),
    }
}

fn affinity(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    let s = spec::of(pod);
    let labels = node.metadata.labels.as_ref();
    let label = |key: &str| labels.and_then(|l| l.get(key)).map(String::as_str);
    let by_selector = s.node_selector.iter().flatten().all(|(k, v)| label(k) == Some(v));
    let required = s
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let by_affinity = required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term(t, &label, name)));
    if by_selector && by_affinity {
        return Ok(());
    }
    Err(refuse(
        "NodeAffinity",
        "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
    ))
}

fn term<'a>(t: &NodeSelectorTerm, label: &impl Fn(&str) -> Option<&'a str>, name: &str) -> bool {
    let expressions = t.match_expressions.as_deref().unwrap_or_default();
    let fields = t.match_fields.as_deref().unwrap_or_default();
    // An empty term matches nothing.
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|r| requirement(r, label(&r.key)))
        && fields.iter().all(|r| requirement(r, (r.key == "metadata.name").then_some(name)))
}

fn requirement(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = r.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|x| x == v));
    let order = || {
        let left = value?.parse::<i64>().ok()?;
        let right = values.first()?.parse::<i64>().ok()?;
        Some(left.cmp(&right))
    };
    match r.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => order() == Some(std::cmp::Ordering::Greater),
        "Lt" => order() == Some(std::cmp::Ordering::Less),
        _ => false,
    }
}

fn taints(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    // A static pod is the node's own: it runs whatever the taints say.
    let own = pod
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|a| a.get("kubernetes.io/config.source").is_some_and(|s| s != "api"));
    let list = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    match list.iter().find(|t| t.effect == "NoExecute" && !tolerates(pod, t)) {
        Some(t) if !own => Err(refuse(
            "TaintToleration",
            format_args!(
                "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate: {{{}: {}}}",
                t.key,
                t.value.as_deref().unwrap_or_default()
            ),
        )),
        _ => Ok(()),
    }
}

fn taint(key: &str, value: &str, effect: &str) -> Taint {
    Taint { key: key.into(), value: Some(value.into()), effect: effect.into(), time_added: None }
}

/// Whether a pod tolerates a taint.
#[must_use]
pub fn tolerates(pod: &Pod, t: &Taint) -> bool {
    spec::of(pod).tolerations.iter().flatten().any(|x| toleration(x, t))
}

fn toleration(x: &Toleration, t: &Taint) -> bool {
    let set = |o: &Option<String>| o.as_deref().filter(|s| !s.is_empty()).map(str::to_owned);
    let effect = set(&x.effect).is_none_or(|e| e == t.effect);
    let key = set(&x.key).is_none_or(|k| k == t.key);
    let value = match x.operator.as_deref() {
        Some("Exists") => true,
        _ => {
            set(&x.key).is_some()
                && x.value.as_deref().unwrap_or_default() == t.value.as_deref().unwrap_or_default()
        }
    };
    effect && key && value
}

/// Host ports of a pod: address, protocol, port.
fn host_ports(pod: &Pod) -> Vec<(String, String, i32)> {
    let sidecars = spec::init(pod).iter().filter(|c| spec::is_sidecar(c));
    spec::main(pod)
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            let port = p.host_port.or(spec::host_network(pod).then_some(p.container_port))?;
            let ip = p.host_ip.clone().filter(|i| !i.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
            Some((ip, p.protocol.clone().unwrap_or_else(|| "TCP".into()), port))
        })
        .collect()
}

fn ports<'a>(pod: &Pod, others: impl Iterator<Item = &'a Pod>) -> Result<(), Refusal> {
    let wanted = host_ports(pod);
    if wanted.is_empty() {
        return Ok(());
    }
    let any = |ip: &str| ip == "0.0.0.0" || ip == "::";
    let clash = others.flat_map(host_ports).any(|(ip, protocol, port)| {
        wanted.iter().any(|w| w.1 == protocol && w.2 == port && (w.0 == ip || any(&w.0) || any(&ip)))
    });
    if clash {
        let text = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return Err(refuse("NodePorts", text));
    }
    Ok(())
}

fn fits<'a>(pod: &Pod, node: &Node, others: impl Iterator<Item = &'a Pod>) -> Result<(), Refusal> {
    let list = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    let Some(list) = list.filter(|l| !l.is_empty()) else { return Ok(()) };
    let room: Amounts = list.iter().map(|(k, q)| (k.clone(), resources::amount(k, q))).collect();
    let mut used = Amounts::new();
    let mut count = 0;
    for p in others {
        count += 1;
        for (k, v) in resources::pod_requests(p) {
            *used.entry(k).or_default() += v;
        }
    }
    let mut wanted: Vec<(String, i64)> = resources::pod_requests(pod).into_iter().collect();
    wanted.insert(0, ("pods".to_owned(), 1));
    used.insert("pods".to_owned(), count);
    for (name, want) in wanted.into_iter().filter(|(_, v)| *v > 0) {
        let have = used.get(&name).copied().unwrap_or(0);
        let Some(capacity) = room.get(&name).copied() else {
            // Resources of devices that were never reported are the device plugins' to refuse.
            if name.contains('/') {
                return Err(too_much(&name, want, have, 0));
            }
            continue;
        };
        if have + want > capacity {
            return Err(too_much(&name, want, have, capacity));
        }
    }
    Ok(())
}

fn too_much(name: &str, want: i64, used: i64, capacity: i64) -> Refusal {
    refuse(
        format!("OutOf{name}"),
        format_args!(
            "Node didn't have enough resource: {name}, requested: {want}, used: {used}, capacity: {capacity}"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Container, ContainerPort, ResourceRequirements};
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    fn pod(cpu: &str, host_port: Option<i32>) -> Pod {
        let mut p = Pod::default();
        p.spec.get_or_insert_default().containers = vec![Container {
            name: "c".into(),
            resources: Some(ResourceRequirements {
                requests: Some([("cpu".to_owned(), Quantity(cpu.into()))].into()),
                ..ResourceRequirements::default()
            }),
            ports: host_port.map(|p| vec![ContainerPort { host_port: Some(p), ..ContainerPort::default() }]),
            ..Container::default()
        }];
        p
    }

    fn node() -> Node {
        let mut n = Node::default();
        n.metadata.name = Some("n".into());
        n.metadata.labels = Some([("disk".to_owned(), "ssd".to_owned())].into());
        n.status.get_or_insert_default().allocatable =
            Some([("cpu", "1"), ("pods", "2")].map(|(k, v)| (k.to_owned(), Quantity(v.to_owned()))).into());
        n
    }

    fn check(pod: &Pod, node: &Node, others: &[Pod]) -> String {
        match admit(pod, node, others.iter(), Pressure::default()) {
            Ok(()) => "ok".into(),
            Err(r) => r.reason,
        }
    }

    #[test]
    fn reasons() {
        let n = node();
        assert_eq!(check(&pod("1", None), &n, &[]), "ok");
        assert_eq!(check(&pod("1", None), &n, &[pod("100m", None)]), "OutOfcpu");
        assert_eq!(check(&pod("0", None), &n, &[pod("0", None), pod("0", None)]), "OutOfpods");
        assert_eq!(check(&pod("0", Some(80)), &n, &[pod("0", Some(80))]), "NodePorts");
        let mut p = pod("0", None);
        p.spec.get_or_insert_default().node_selector = Some([("disk".into(), "hdd".into())].into());
        assert_eq!(check(&p, &n, &[]), "NodeAffinity");
        let mut tainted = node();
        tainted.spec.get_or_insert_default().taints = Some(vec![taint("k", "v", "NoExecute")]);
        assert_eq!(check(&pod("0", None), &tainted, &[]), "TaintToleration");
    }
}
