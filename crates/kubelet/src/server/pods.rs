//! `/pods`, `/runningpods` and `/configz`.

use std::sync::Arc;

use http::Response;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{Body, json as answer};
use crate::kubelet::Kubelet;
use crate::pods::runs;

/// Every pod of the node, with the status as the kubelet sees it.
pub(super) fn all(kubelet: &Arc<Kubelet>) -> Response<Body> {
    let items: Vec<Pod> = kubelet
        .pods
        .list()
        .iter()
        .map(|p| {
            let mut pod = (*p.pod()).clone();
            pod.status = Some(p.view().status);
            pod
        })
        .collect();
    list(&items)
}

/// Pods that have a running sandbox.
pub(super) fn running(kubelet: &Arc<Kubelet>) -> Response<Body> {
    let items: Vec<Pod> =
        kubelet.pods.list().iter().filter(|p| runs(p)).map(|p| (*p.pod()).clone()).collect();
    list(&items)
}

fn list(items: &[Pod]) -> Response<Body> {
    answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// The configuration in force, under upstream's names.
pub(super) fn configz(kubelet: &Arc<Kubelet>) -> Response<Body> {
    let c = &kubelet.config;
    let dns: Vec<String> = c.cluster_dns.iter().map(ToString::to_string).collect();
    let value: Value = json!({"kubeletconfig": {
        "address": c.bind_address.to_string(),
        "port": c.port,
        "readOnlyPort": 0,
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}},
        "authorization": {"mode": "Webhook"},
        "staticPodPath": c.static_pod_dir.as_ref().map(|p| p.to_string_lossy().into_owned()),
        "clusterDomain": c.cluster_domain,
        "clusterDNS": dns,
        "maxPods": c.max_pods,
        "podPidsLimit": c.pod_pids_limit,
        "resolvConf": c.resolv_conf.to_string_lossy(),
        "cgroupDriver": "cgroupfs",
        "seccompDefault": c.seccomp_default,
        "containerLogMaxSize": c.container_log_max_bytes.to_string(),
        "containerLogMaxFiles": c.container_log_max_files,
        "imageGCHighThresholdPercent": c.image_gc.high_percent,
        "imageGCLowThresholdPercent": c.image_gc.low_percent,
        "maxParallelImagePulls": c.parallel_image_pulls,
        "evictionHard": {
            "memory.available": c.eviction.memory_available_bytes.to_string(),
            "nodefs.available": format!("{}%", c.eviction.nodefs_available_percent),
            "imagefs.available": format!("{}%", c.eviction.imagefs_available_percent),
        },
    }});
    answer(&value)
}
