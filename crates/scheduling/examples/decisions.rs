//! Measures decisions: 5,000 nodes, 30 pods on each already, 20,000 pods more, each counted on its node before the
//! next is decided for. One thread, no API server. Prints figures, checks nothing but that every pod found a node.

use isopod_scheduling::plugins::{ProfileOptions, profile};
use isopod_scheduling::{Cache, Outcome, PodInfo, schedule};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

const NODES: usize = 5_000;
const PODS_BEFORE: usize = 150_000;
const PODS: usize = 20_000;
const ZONES: usize = 10;

fn node(n: usize) -> Node {
    let value = json!({
        "metadata": {"name": format!("node-{n}"), "labels": {
            "kubernetes.io/hostname": format!("node-{n}"),
            "topology.kubernetes.io/zone": format!("zone-{}", n % ZONES),
        }},
        "status": {"allocatable": {"cpu": "32", "memory": "64Gi", "pods": "110"}},
    });
    serde_json::from_value(value).expect("a node")
}

fn pod(n: usize, more: &Value) -> Arc<PodInfo> {
    let mut value = json!({
        "metadata": {"uid": format!("uid-{n}"), "name": format!("pod-{n}"), "namespace": "default",
            "labels": {"app": format!("app-{}", n % 100)}},
        "spec": {"containers": [{"name": "c", "image": "image",
            "resources": {"requests": {"cpu": "100m", "memory": "200Mi"}}}]},
    });
    for (key, field) in more.as_object().into_iter().flatten() {
        value["spec"][key] = field.clone();
    }
    let pod: Pod = serde_json::from_value(value).expect("a pod");
    Arc::new(PodInfo::new(Arc::new(pod)))
}

fn measure(what: &str, more: &Value) {
    let mut cache = Cache::new();
    (0..NODES).for_each(|n| cache.set_node(&node(n)));
    (0..PODS_BEFORE).for_each(|n| cache.set_pod(&format!("node-{}", n % NODES), pod(n, &Value::Null)));
    let pods: Vec<_> = (PODS_BEFORE..PODS_BEFORE + PODS).map(|n| pod(n, more)).collect();
    let profile = profile(&ProfileOptions::default());
    // Ties are broken by a fixed sequence, so that every run does the same.
    let (mut start, mut seed) = (0, 1usize);
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let begun = Instant::now();
    let mut placed = 0;
    for pod in pods {
        match schedule(&profile, &cache, &pod, &mut start, &mut random) {
            Outcome::Bind { node } => {
                placed += 1;
                cache.set_pod(&node, pod);
            }
            Outcome::Unschedulable(unfit) => println!("{}", unfit.message),
        }
    }
    let took = begun.elapsed();
    assert_eq!(placed, PODS, "every pod fits");
    println!("scheduler, {NODES} nodes, {what}: {:.0} pods/s", PODS as f64 / took.as_secs_f64());
}

fn main() {
    measure("basic", &Value::Null);
    let zone = json!({"nodeSelector": {"topology.kubernetes.io/zone": "zone-3"}});
    measure("nodeSelector that a tenth of the nodes match", &zone);
}
