//! Nodes: ranges, taints, silence and eviction; the sets that depend on nodes and on order.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use support::{Cluster, eventually, list};

async fn node(cluster: &Cluster, name: &str) {
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    cluster.create("nodes", object).await;
    beat(cluster, name).await;
}

/// Plays the kubelet's heartbeat.
async fn beat(cluster: &Cluster, name: &str) {
    let nodes = cluster.api("v1", "Node", "nodes", None);
    let now = jiff::Timestamp::now().to_string();
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
        "message": "ok", "lastHeartbeatTime": now, "lastTransitionTime": now}]}});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
}

fn pod(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "v1"}], "tolerations": [
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_loses_its_pods_and_a_returning_one_its_taints() {
    let cluster = Cluster::start(|config| {
        config.allocate_node_cidrs = true;
        config.cluster_cidrs = vec!["10.42.0.0/16".parse().unwrap()];
        config.node_monitor_period = Duration::from_millis(100);
        config.node_monitor_grace_period = Duration::from_secs(2);
    })
    .await;
    for name in ["good", "bad"] {
        node(&cluster, name).await;
    }
    let nodes = cluster.api("v1", "Node", "nodes", None);
    eventually("ranges", || async {
        let found = list(&nodes).await;
        let mut ranges: Vec<&str> = found.iter().filter_map(|n| n["spec"]["podCIDR"].as_str()).collect();
        ranges.sort_unstable();
        let clean = found.iter().all(|n| n["spec"]["taints"].is_null());
        if ranges == ["10.42.0.0/24", "10.42.1.0/24"] && clean { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    cluster.account("default").await;
    cluster.create("pods", pod("stays", "good")).await;
    cluster.create("pods", pod("goes", "bad")).await;
    let pods = cluster.api("v1", "Pod", "pods", Some("default"));
    eventually("eviction", || async {
        beat(&cluster, "good").await;
        let found = list(&pods).await;
        let deleted = |name: &str| {
            found
                .iter()
                .find(|pod| pod["metadata"]["name"] == name)
                .is_none_or(|pod| !pod["metadata"]["deletionTimestamp"].is_null())
        };
        if deleted("goes") && !deleted("stays") { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    let bad = nodes.get("bad").await.unwrap();
    let bad = serde_json::to_value(bad).unwrap();
    let ready = &bad["status"]["conditions"][0];
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("Unknown"), &json!("NodeStatusUnknown")));
    let effects: Vec<&Value> =
        bad["spec"]["taints"].as_array().unwrap().iter().map(|t| &t["effect"]).collect();
    assert!(effects.contains(&&json!("NoExecute")) && effects.contains(&&json!("NoSchedule")), "{bad}");
    eventually("recovery", || async {
        beat(&cluster, "good").await;
        beat(&cluster, "bad").await;
        let bad = serde_json::to_value(nodes.get("bad").await.unwrap()).unwrap();
        if bad["spec"]["taints"].is_null() { Ok(()) } else { Err(bad["spec"].to_string()) }
    })
    .await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_run_everywhere_and_stateful_pods_in_order() {
    let cluster = Cluster::start(|_| {}).await;
    for name in ["one", "two"] {
        node(&cluster, name).await;
    }
    let template = |app: &str| json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}});
    let set = |kind: &str, app: &str, extra: Value| {
        let mut value = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": app, "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": app}}, "template": template(app)}});
        for (key, inner) in extra.as_object().unwrap() {
            value["spec"][key] = inner.clone();
        }
        value
    };
    cluster.create("daemonsets", set("DaemonSet", "agent", json!({}))).await;
    cluster
        .create("statefulsets", set("StatefulSet", "db", json!({"replicas": 2, "serviceName": "db"})))
        .await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "db", "namespace": "default"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "db"}}}});
    cluster.create("poddisruptionbudgets", budget).await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "default"},
        "spec": {"hard": {"pods": "10"}}});
    cluster.create("resourcequotas", quota).await;
    let pods = cluster.api("v1", "Pod", "pods", Some("default"));
    let budgets = cluster.api("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", Some("default"));
    let quotas = cluster.api("v1", "ResourceQuota", "resourcequotas", Some("default"));
    eventually("sets", || async {
        let found = list(&pods).await;
        let mut names = Vec::new();
        for pod in &found {
            let name = pod["metadata"]["name"].as_str().unwrap();
            names.push(
                name.rsplit_once('-').filter(|(parent, _)| *parent == "agent").map_or(name, |(p, _)| p),
            );
            let status = json!({"status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
            let _ = pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await;
        }
        names.sort_unstable();
        let allowed = list(&budgets).await[0]["status"]["disruptionsAllowed"].clone();
        let used = list(&quotas).await[0]["status"]["used"]["pods"].clone();
        let done = names == ["agent", "agent", "db-0", "db-1"] && allowed == 1 && used == "4";
        if done { Ok(()) } else { Err(format!("{names:?} allowed {allowed} used {used}")) }
    })
    .await;
    cluster.end().await;
}
