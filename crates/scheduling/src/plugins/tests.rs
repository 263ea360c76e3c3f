//! The default profile against small clusters.

use super::*;
use crate::{Cache, Outcome, PodInfo, schedule};
use serde_json::{Value, json};
use std::sync::Arc;

fn pod(spec: Value) -> PodInfo {
    let uid = spec.get("uid").and_then(Value::as_str).unwrap_or("new").to_owned();
    let pod = json!({"metadata": {"name": uid, "namespace": "d", "uid": uid}, "spec": spec});
    PodInfo::new(Arc::new(serde_json::from_value(pod).expect("a pod")))
}

fn asks(cpu: &str, memory: &str) -> Value {
    json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
}

fn node(name: &str, extra: Value) -> Value {
    let mut node = json!({"metadata": {"name": name, "labels": {"name": name}}, "spec": {},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "3"}}});
    isopod_api::patch::merge_patch(&mut node, &extra);
    node
}

fn cluster(nodes: &[Value]) -> Cache {
    let mut cache = Cache::new();
    for node in nodes {
        cache.set_node(&serde_json::from_value(node.clone()).expect("a node"));
    }
    cache
}

fn decide(cache: &Cache, pod: &PodInfo) -> Result<String, String> {
    match schedule(&profile(&ProfileOptions::default()), cache, pod, &mut 0, &mut |_| 0) {
        Outcome::Bind { node } => Ok(node),
        Outcome::Unschedulable(unfit) => Err(unfit.message),
    }
}

#[test]
fn an_emptier_node_wins() {
    let mut cache = cluster(&[node("a", json!({})), node("b", json!({}))]);
    let mut busy = asks("1", "1Gi");
    busy["uid"] = "busy".into();
    cache.set_pod("a", Arc::new(pod(busy)));
    assert_eq!(decide(&cache, &pod(asks("500m", "512Mi"))), Ok("b".into()));
}

#[test]
fn refusals_are_counted_and_sorted() {
    let cache = cluster(&[
        node("a", json!({"status": {"allocatable": {"cpu": "100m"}}})),
        node("b", json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})),
        node("c", json!({"spec": {"unschedulable": true}})),
    ]);
    assert_eq!(
        decide(&cache, &pod(asks("1", "1Gi"))),
        Err("0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable.".into())
    );
    assert_eq!(
        decide(&Cache::new(), &pod(asks("1", "1Gi"))),
        Err("no nodes available to schedule pods".into())
    );
}

#[test]
fn tolerations_lift_taints() {
    let cache = cluster(&[node(
        "b",
        json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}),
    )]);
    for (toleration, fits) in [
        (json!({"key": "k", "operator": "Exists"}), true),
        (json!({"operator": "Exists"}), true),
        (json!({"key": "k", "value": "v"}), true),
        (json!({"key": "k", "value": "w"}), false),
        (json!({"key": "k", "value": "v", "effect": "NoExecute"}), false),
    ] {
        let mut spec = asks("1", "1Gi");
        spec["tolerations"] = json!([toleration]);
        assert_eq!(decide(&cache, &pod(spec)).is_ok(), fits, "{toleration}");
    }
}

#[test]
fn too_many_pods_and_taken_ports() {
    let mut cache = cluster(&[node("a", json!({}))]);
    let web = |uid: &str, ip: Option<&str>| json!({"uid": uid, "containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": ip}]}]});
    cache.set_pod("a", Arc::new(pod(web("1", Some("10.0.0.1")))));
    assert!(decide(&cache, &pod(web("2", Some("10.0.0.2")))).is_ok());
    assert_eq!(
        decide(&cache, &pod(web("2", None))),
        Err("0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.".into())
    );
    for uid in ["2", "3"] {
        cache.set_pod("a", Arc::new(pod(json!({"uid": uid, "containers": [{"name": "c"}]}))));
    }
    assert_eq!(
        decide(&cache, &pod(json!({"containers": [{"name": "c"}]}))),
        Err("0/1 nodes are available: 1 Too many pods.".into())
    );
}

#[test]
fn preferred_affinity_outweighs_spreading() {
    let cache = cluster(&[node("a", json!({})), node("b", json!({}))]);
    let mut spec = asks("1", "1Gi");
    spec["affinity"] = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 10, "preference": {"matchExpressions": [{"key": "name", "operator": "In", "values": ["b"]}]}}]}});
    assert_eq!(decide(&cache, &pod(spec)), Ok("b".into()));
}

#[test]
fn packing_by_strategy() {
    let mut cache = cluster(&[node("a", json!({})), node("b", json!({}))]);
    let mut busy = asks("1", "2Gi");
    busy["uid"] = "busy".into();
    cache.set_pod("b", Arc::new(pod(busy)));
    let options = ProfileOptions { strategy: Strategy::MostAllocated, ..ProfileOptions::default() };
    let outcome = schedule(&profile(&options), &cache, &pod(asks("100m", "200Mi")), &mut 0, &mut |_| 0);
    assert_eq!(outcome, Outcome::Bind { node: "b".into() });
}
