//! Deployments, garbage collection and namespace deletion against the real API server.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use support::{Cluster, eventually, list};

fn deployment(name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": image}]}}},
    })
}

async fn shop(cluster: &Cluster) {
    cluster
        .create("namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}))
        .await;
}

/// Plays the kubelet: every pod is running and ready, every deleted pod is gone.
async fn play_kubelet(cluster: &Cluster) {
    let pods = cluster.api("v1", "Pod", "pods", Some("shop"));
    for pod in list(&pods).await {
        let name = pod["metadata"]["name"].as_str().unwrap();
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
            let _ = pods.delete(name, &now).await;
        } else if pod["status"]["phase"] != "Running" {
            let status = json!({"status": {"phase": "Running", "podIP": "10.42.0.9", "podIPs": [{"ip": "10.42.0.9"}],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
            let _ = pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await;
        }
    }
}

async fn rolled_out(cluster: &Cluster, replicas: i64, image: &str) {
    let deployments = cluster.api("apps/v1", "Deployment", "deployments", Some("shop"));
    let pods = cluster.api("v1", "Pod", "pods", Some("shop"));
    eventually("rollout", || async {
        play_kubelet(cluster).await;
        let status = list(&deployments).await[0]["status"].clone();
        let images: Vec<Value> =
            list(&pods).await.iter().map(|pod| pod["spec"]["containers"][0]["image"].clone()).collect();
        let progressed = status["conditions"]
            .as_array()
            .is_some_and(|all| all.iter().any(|c| c["reason"] == "NewReplicaSetAvailable"));
        let done = status["availableReplicas"] == replicas
            && status["updatedReplicas"] == replicas
            && status["replicas"] == replicas
            && images.len() == usize::try_from(replicas).unwrap()
            && images.iter().all(|have| have == image)
            && progressed;
        if done { Ok(()) } else { Err(format!("{status} {images:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_rolls_out_updates_and_goes_with_all_it_owns() {
    let cluster = Cluster::start(|_| {}).await;
    shop(&cluster).await;
    cluster.create("deployments", deployment("web", 3, "v1")).await;
    rolled_out(&cluster, 3, "v1").await;

    let deployments = cluster.api("apps/v1", "Deployment", "deployments", Some("shop"));
    let update = json!({"spec": {"replicas": 4, "template": {"spec": {"containers": [{"name": "c", "image": "v2"}]}}}});
    deployments.patch("web", &PatchParams::default(), &Patch::Strategic(update)).await.unwrap();
    rolled_out(&cluster, 4, "v2").await;
    let found = list(&deployments).await;
    assert_eq!(found[0]["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "2");
    let sets = cluster.api("apps/v1", "ReplicaSet", "replicasets", Some("shop"));
    assert_eq!(list(&sets).await.len(), 2);
    let events = cluster.api("v1", "Event", "events", Some("shop"));
    eventually("events", || async {
        let seen: Vec<Value> = list(&events).await.iter().map(|event| event["message"].clone()).collect();
        let scaled =
            seen.iter().any(|m| m.as_str().is_some_and(|m| m.starts_with("Scaled up replica set web-")));
        let made = seen.iter().any(|m| m.as_str().is_some_and(|m| m.starts_with("Created pod: web-")));
        if scaled && made { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;

    deployments.delete("web", &DeleteParams::background()).await.unwrap();
    let pods = cluster.api("v1", "Pod", "pods", Some("shop"));
    eventually("garbage", || async {
        play_kubelet(&cluster).await;
        let (sets, pods) = (list(&sets).await.len(), list(&pods).await.len());
        if (sets, pods) == (0, 0) { Ok(()) } else { Err(format!("{sets} sets, {pods} pods")) }
    })
    .await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreground_waits_and_orphan_leaves() {
    let cluster = Cluster::start(|_| {}).await;
    shop(&cluster).await;
    let deployments = cluster.api("apps/v1", "Deployment", "deployments", Some("shop"));
    let sets = cluster.api("apps/v1", "ReplicaSet", "replicasets", Some("shop"));
    cluster.create("deployments", deployment("a", 1, "v1")).await;
    rolled_out(&cluster, 1, "v1").await;
    deployments.delete("a", &DeleteParams::orphan()).await.unwrap();
    eventually("orphaning", || async {
        let (left, sets) = (list(&deployments).await.len(), list(&sets).await);
        let cut = sets.len() == 1 && sets[0]["metadata"]["ownerReferences"].is_null();
        if left == 0 && cut { Ok(()) } else { Err(format!("{left} {sets:?}")) }
    })
    .await;
    // The same template again: the orphan is adopted, and no second set is made.
    cluster.create("deployments", deployment("a", 1, "v1")).await;
    eventually("adoption", || async {
        let sets = list(&sets).await;
        let owned = sets.len() == 1 && !sets[0]["metadata"]["ownerReferences"].is_null();
        if owned { Ok(()) } else { Err(format!("{sets:?}")) }
    })
    .await;
    deployments.delete("a", &DeleteParams::foreground()).await.unwrap();
    eventually("foreground deletion", || async {
        play_kubelet(&cluster).await;
        let (left, sets) = (list(&deployments).await.len(), list(&sets).await.len());
        if (left, sets) == (0, 0) { Ok(()) } else { Err(format!("{left} deployments, {sets} sets")) }
    })
    .await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_gets_its_defaults_and_goes_with_its_content() {
    let cluster = Cluster::start(|_| {}).await;
    shop(&cluster).await;
    let accounts = cluster.api("v1", "ServiceAccount", "serviceaccounts", Some("shop"));
    let maps = cluster.api("v1", "ConfigMap", "configmaps", Some("shop"));
    eventually("defaults", || async {
        let (accounts, maps) = (list(&accounts).await, list(&maps).await);
        let good = accounts.len() == 1
            && accounts[0]["metadata"]["name"] == "default"
            && maps.len() == 1
            && maps[0]["data"]["ca.crt"] == "PEM";
        if good { Ok(()) } else { Err(format!("{accounts:?} {maps:?}")) }
    })
    .await;
    cluster.create("deployments", deployment("web", 2, "v1")).await;
    cluster
        .create(
            "services",
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
                "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}),
        )
        .await;
    rolled_out(&cluster, 2, "v1").await;
    let slices = cluster.api("discovery.k8s.io/v1", "EndpointSlice", "endpointslices", Some("shop"));
    let endpoints = cluster.api("v1", "Endpoints", "endpoints", Some("shop"));
    eventually("endpoints", || async {
        let (slices, endpoints) = (list(&slices).await, list(&endpoints).await);
        let ready = slices.len() == 1
            && slices[0]["endpoints"].as_array().is_some_and(|all| all.len() == 2)
            && !endpoints.is_empty();
        if ready { Ok(()) } else { Err(format!("{slices:?} {endpoints:?}")) }
    })
    .await;

    let namespaces = cluster.api("v1", "Namespace", "namespaces", None);
    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    eventually("namespace deletion", || async {
        play_kubelet(&cluster).await;
        match namespaces.get_opt("shop").await.unwrap() {
            None => Ok(()),
            Some(left) => Err(serde_json::to_string(&left).unwrap()),
        }
    })
    .await;
    assert!(list(&slices).await.is_empty() && list(&maps).await.is_empty());
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_completes_and_its_pods_are_counted() {
    let cluster = Cluster::start(|_| {}).await;
    shop(&cluster).await;
    cluster
        .create(
            "jobs",
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "shop"},
                "spec": {"completions": 2, "parallelism": 2, "ttlSecondsAfterFinished": 1, "template": {"spec":
                    {"restartPolicy": "Never", "containers": [{"name": "c", "image": "v1"}]}}}}),
        )
        .await;
    let jobs = cluster.api("batch/v1", "Job", "jobs", Some("shop"));
    let pods = cluster.api("v1", "Pod", "pods", Some("shop"));
    let completed = AtomicBool::new(false);
    eventually("completion and clean-up", || async {
        for pod in list(&pods).await {
            let name = pod["metadata"]["name"].as_str().unwrap();
            if pod["status"]["phase"] != "Succeeded" {
                let status = json!({"status": {"phase": "Succeeded"}});
                let _ = pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await;
            }
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                play_kubelet(&cluster).await;
            }
        }
        let left = list(&jobs).await;
        if left.first().is_some_and(|job| job["status"]["succeeded"] == 2) {
            completed.store(true, Ordering::Relaxed);
        }
        let pods = list(&pods).await.len();
        if left.is_empty() && pods == 0 { Ok(()) } else { Err(format!("{left:?} {pods} pods")) }
    })
    .await;
    assert!(completed.load(Ordering::Relaxed));
    cluster.end().await;
}
