//! kube-proxy as a whole: from API objects to connections, against a fake API. Needs root.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use isopod_proxy::Config;
use isopod_testkit::fake_api::FakeApi;
use isopod_testkit::netns::{Answer, Netns, ask_tcp, isolated, run};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const SERVICES: &str = "api/v1/services";
const SLICES: &str = "apis/discovery.k8s.io/v1/endpointslices";

fn put_service(api: &FakeApi, policy: &str) {
    api.put(
        SERVICES,
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "ns"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.43.0.80", "clusterIPs": ["10.43.0.80"],
            "externalTrafficPolicy": policy, "healthCheckNodePort": 31000,
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}]}}),
    );
}

fn put_slice(api: &FakeApi, addresses: &[&str]) {
    let endpoints: Vec<_> =
        addresses.iter().map(|a| json!({"addresses": [a], "nodeName": "node-1"})).collect();
    api.put(
        SLICES,
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints}),
    );
}

fn put_node(api: &FakeApi, address: &str) {
    api.put(
        "api/v1/nodes",
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]}}),
    );
}

/// Waits until `ask` answers as wanted; nothing else tells from outside that a change has come through.
async fn becomes(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come true");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn get(at: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn follows_the_api() {
    isolated(|| {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let api = FakeApi::default();
            // Two "pods" on an address of the node each: what matters here is the way from API to kernel.
            run("ip address add 10.42.0.2/32 dev lo");
            run("ip address add 10.42.0.3/32 dev lo");
            let (node, outside) = (Netns::current(), Netns::new());
            node.join("up0", "192.0.2.1/24", &outside, "eth0", "192.0.2.9/24");
            run("ip route add default via 192.0.2.9");
            node.serve_tcp("10.42.0.2:8080".parse().unwrap(), "one");
            node.serve_tcp("10.42.0.3:8080".parse().unwrap(), "two");
            let config =
                Config { cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()], ..Config::new("node-1") };
            let shutdown = CancellationToken::new();
            let proxy = tokio::spawn(isopod_proxy::run(config, api.client(), shutdown.clone()));

            put_service(&api, "Local");
            put_slice(&api, &["10.42.0.2"]);
            becomes("the first endpoint", || ask_tcp("10.43.0.80:80").server() == Some("one")).await;
            assert_eq!(ask_tcp("192.0.2.1:30080"), Answer::Refused, "the node's address is not known yet");
            put_node(&api, "192.0.2.1");
            becomes("the node port", || ask_tcp("192.0.2.1:30080").server() == Some("one")).await;
            put_slice(&api, &["10.42.0.3"]);
            becomes("the second endpoint", || ask_tcp("10.43.0.80:80").server() == Some("two")).await;

            let health = get("127.0.0.1:10256", "/healthz");
            assert!(
                health.starts_with("HTTP/1.1 200") && health.contains("\"nodeEligible\":true"),
                "{health}"
            );
            assert!(
                get("127.0.0.1:10249", "/metrics")
                    .contains("kubeproxy_sync_proxy_rules_duration_seconds_count")
            );
            let check = get("127.0.0.1:31000", "/");
            assert!(check.starts_with("HTTP/1.1 200") && check.contains("\"localEndpoints\":1"), "{check}");

            put_slice(&api, &[]);
            becomes("the refusal", || ask_tcp("10.43.0.80:80") == Answer::Refused).await;
            assert!(get("127.0.0.1:31000", "/").starts_with("HTTP/1.1 503"));
            put_slice(&api, &["10.42.0.2", "10.42.0.3"]);
            becomes("both endpoints", || ask_tcp("10.43.0.80:80").server().is_some()).await;
            put_service(&api, "Cluster");
            becomes("the end of the health check", || TcpStream::connect("127.0.0.1:31000").is_err()).await;
            api.delete(SERVICES, "ns", "web");
            becomes("the end", || ask_tcp("10.43.0.80:80").server().is_none()).await;

            shutdown.cancel();
            proxy.await.unwrap().unwrap();
            assert!(run("nft list tables").contains("isopod-proxy"), "rules outlive the proxy");
            isopod_proxy::purge().await.unwrap();
        });
    });
}
