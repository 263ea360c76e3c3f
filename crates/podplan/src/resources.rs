//! What a pod asks for and may use, and its class of service.

use std::collections::BTreeMap;

use isopod_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use crate::spec;

/// Amounts by resource name, in milli-units for `cpu` and in units for all others.
pub type Amounts = BTreeMap<String, i64>;

/// Amount of one resource in the unit of [`Amounts`]; an unreadable quantity counts as none, since the API
/// server refuses such pods.
#[must_use]
pub fn amount(name: &str, q: &Text) -> i64 {
    let Ok(q) = q.0.parse::<Quantity>() else { return 0 };
    if name == "cpu" { q.milli_value() } else { q.value() }
}

fn amounts(list: Option<&BTreeMap<String, Text>>) -> Amounts {
    list.into_iter().flatten().map(|(name, q)| (name.clone(), amount(name, q))).collect()
}

/// Requests of one container.
#[must_use]
pub fn requests(c: &Container) -> Amounts {
    amounts(c.resources.as_ref().and_then(|r| r.requests.as_ref()))
}

/// Limits of one container.
#[must_use]
pub fn limits(c: &Container) -> Amounts {
    amounts(c.resources.as_ref().and_then(|r| r.limits.as_ref()))
}

fn add(to: &mut Amounts, from: &Amounts) {
    for (name, v) in from {
        *to.entry(name.clone()).or_default() += v;
    }
}

fn raise(to: &mut Amounts, from: &Amounts) {
    for (name, v) in from {
        let e = to.entry(name.clone()).or_default();
        *e = (*e).max(*v);
    }
}

/// The sum over main containers and sidecars, or what an init container needs beside the sidecars started
/// before it where that is more.
fn total(pod: &Pod, of: impl Fn(&Container) -> Amounts) -> Amounts {
    let mut sum = Amounts::new();
    for c in spec::main(pod) {
        add(&mut sum, &of(c));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for c in spec::init(pod) {
        let mut need = of(c);
        if spec::is_sidecar(c) {
            add(&mut sidecars, &need);
            need.clone_from(&sidecars);
        } else {
            add(&mut need, &sidecars);
        }
        raise(&mut peak, &need);
    }
    add(&mut sum, &sidecars);
    raise(&mut sum, &peak);
    sum
}

/// Requests of the whole pod, overhead included; requests at pod level replace the sum.
#[must_use]
pub fn pod_requests(pod: &Pod) -> Amounts {
    let mut sum = total(pod, requests);
    let level = spec::of(pod).resources.as_ref();
    sum.extend(amounts(level.and_then(|r| r.requests.as_ref())));
    add(&mut sum, &amounts(spec::of(pod).overhead.as_ref()));
    sum
}

/// Limits of the whole pod. A resource is absent where one container has no limit for it, since then the
/// pod has none.
#[must_use]
pub fn pod_limits(pod: &Pod) -> Amounts {
    let mut sum = total(pod, limits);
    let unlimited = |name: &str| {
        let sidecars = spec::init(pod).iter().filter(|c| spec::is_sidecar(c));
        spec::main(pod).iter().chain(sidecars).any(|c| limits(c).get(name).is_none_or(|v| *v == 0))
    };
    sum.retain(|name, _| !unlimited(name));
    if !sum.is_empty() {
        add(&mut sum, &amounts(spec::of(pod).overhead.as_ref()));
    }
    sum.extend(amounts(spec::of(pod).resources.as_ref().and_then(|r| r.limits.as_ref())));
    sum
}

/// Class of service: `Guaranteed`, `Burstable` or `BestEffort`.
#[must_use]
pub fn qos_class(pod: &Pod) -> &'static str {
    if let Some(r) = &spec::of(pod).resources
        && (r.requests.is_some() || r.limits.is_some())
    {
        return class([r].into_iter());
    }
    let all = spec::init(pod).iter().chain(spec::main(pod));
    static NONE: std::sync::LazyLock<ResourceRequirements> =
        std::sync::LazyLock::new(ResourceRequirements::default);
    class(all.map(|c| c.resources.as_ref().unwrap_or(&NONE)))
}

fn class<'a>(all: impl Iterator<Item = &'a ResourceRequirements>) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    for r in all {
        let (requests, limits) = (amounts(r.requests.as_ref()), amounts(r.limits.as_ref()));
        for name in ["cpu", "memory"] {
            let request = requests.get(name).copied().unwrap_or(0);
            let limit = limits.get(name).copied().unwrap_or(0);
            any |= request > 0 || limit > 0;
            guaranteed &= limit > 0 && (request == limit || !requests.contains_key(name));
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// The class that the API recorded, or the computed one.
#[must_use]
pub fn qos_of(pod: &Pod) -> &str {
    let recorded = pod.status.as_ref().and_then(|s| s.qos_class.as_deref());
    recorded.unwrap_or_else(|| qos_class(pod))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn container(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> Container {
        let map = |l: &[(&str, &str)]| {
            (!l.is_empty()).then(|| l.iter().map(|(k, v)| ((*k).to_owned(), Text((*v).to_owned()))).collect())
        };
        Container {
            name: "c".into(),
            resources: Some(ResourceRequirements {
                requests: map(requests),
                limits: map(limits),
                ..ResourceRequirements::default()
            }),
            ..Container::default()
        }
    }

    fn pod(init: Vec<Container>, main: Vec<Container>) -> Pod {
        let mut pod = Pod::default();
        let spec = pod.spec.get_or_insert_default();
        spec.containers = main;
        spec.init_containers = Some(init);
        pod
    }

    #[test]
    fn classes() {
        let c = container;
        let both = [("cpu", "1"), ("memory", "1Gi")];
        for (main, want) in [
            (vec![c(&[], &[])], "BestEffort"),
            (vec![c(&both, &both)], "Guaranteed"),
            (vec![c(&[], &both)], "Guaranteed"),
            (vec![c(&both, &both), c(&[], &[])], "Burstable"),
            (vec![c(&[("cpu", "100m")], &[])], "Burstable"),
            (vec![c(&[("example.com/x", "1")], &[("example.com/x", "1")])], "BestEffort"),
        ] {
            assert_eq!(qos_class(&pod(vec![], main.clone())), want, "{main:?}");
        }
    }

    #[test]
    fn init_containers_raise_and_sidecars_add() {
        let mut sidecar = container(&[("cpu", "100m")], &[]);
        sidecar.restart_policy = Some("Always".into());
        let p = pod(
            vec![sidecar, container(&[("cpu", "1")], &[])],
            vec![container(&[("cpu", "300m"), ("memory", "1Mi")], &[])],
        );
        let r = pod_requests(&p);
        assert_eq!((r["cpu"], r["memory"]), (1100, 1 << 20));
        assert!(pod_limits(&p).is_empty());
    }
}
