//! The DNS server as a whole, against a fake API.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use isopod_dns::Config;
use isopod_testkit::fake_api::FakeApi;
use serde_json::{Value, json};
use std::future::Future;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const SERVICES: &str = "api/v1/services";
const SLICES: &str = "apis/discovery.k8s.io/v1/endpointslices";

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "ns"}, "spec": spec})
}

async fn becomes<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < deadline, "{what} did not come true");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn dig(port: u64, name: &str) -> Vec<String> {
    let output = tokio::process::Command::new("dig")
        .args(["@127.0.0.1", "-p", &port.to_string(), "+short", "+time=2", "+tries=1", name])
        .output()
        .await
        .expect("dig (Debian package bind9-dnsutils)");
    let mut lines: Vec<String> =
        String::from_utf8_lossy(&output.stdout).lines().map(ToOwned::to_owned).collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn follows_the_api_and_publishes_itself() {
    let api = FakeApi::default();
    api.put(
        "api/v1/nodes",
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "uid": "u1"}}),
    );
    let mut config = Config::new("node-1", vec![[127, 0, 0, 1].into()]);
    config.port = 0;
    config.metrics_port = None;
    config.service_ip = Some([10, 43, 0, 10].into());
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(isopod_dns::run(config, api.client(), shutdown.clone()));

    let slice = || api.get(SLICES, "kube-system", "kube-dns-node-1");
    becomes("the slice", || std::future::ready(slice().is_some())).await;
    let published = slice().unwrap();
    assert_eq!(published["endpoints"][0]["addresses"][0], "127.0.0.1");
    assert_eq!(published["endpoints"][0]["hints"]["forNodes"][0]["name"], "node-1");
    assert_eq!(published["metadata"]["ownerReferences"][0]["uid"], "u1");
    let own = api.get(SERVICES, "kube-system", "kube-dns").unwrap();
    assert_eq!(own["spec"]["clusterIP"], "10.43.0.10");
    assert_eq!(own["metadata"]["labels"]["k8s-app"], "kube-dns");
    let port = published["ports"][0]["port"].as_u64().unwrap();
    becomes("its own name", || async {
        dig(port, "kube-dns.kube-system.svc.cluster.local").await == ["10.43.0.10"]
    })
    .await;

    let headless = service("db", json!({"clusterIP": "None", "clusterIPs": ["None"]}));
    api.put(SERVICES, headless);
    let put_slice = |ready: bool| {
        api.put(
            SLICES,
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "db-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4", "ports": [], "endpoints": [
                {"addresses": ["10.42.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.42.0.6"], "hostname": "db-1", "conditions": {"ready": ready}}]}),
        );
    };
    put_slice(false);
    becomes("one endpoint", || async { dig(port, "db.ns.svc.cluster.local").await == ["10.42.0.5"] }).await;
    put_slice(true);
    becomes("two endpoints", || async {
        dig(port, "db.ns.svc.cluster.local").await == ["10.42.0.5", "10.42.0.6"]
    })
    .await;
    assert_eq!(dig(port, "db-1.db.ns.svc.cluster.local").await, ["10.42.0.6"]);
    api.delete(SERVICES, "ns", "db");
    becomes("its end", || async { dig(port, "db.ns.svc.cluster.local").await.is_empty() }).await;

    // A slice that somebody deletes comes back; a Service with a selector is somebody else's server.
    api.delete(SLICES, "kube-system", "kube-dns-node-1");
    becomes("the slice again", || std::future::ready(slice().is_some())).await;
    let mut taken = own.clone();
    taken["spec"]["selector"] = json!({"k8s-app": "kube-dns"});
    api.put(SERVICES, taken);
    becomes("the withdrawal", || std::future::ready(slice().is_none())).await;

    shutdown.cancel();
    server.await.unwrap().unwrap();
}
