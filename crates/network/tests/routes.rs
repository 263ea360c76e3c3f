//! Routes between nodes, against a fake API, in a namespace of its own. Needs root.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use isopod_network::routes;
use isopod_testkit::fake_api::FakeApi;
use isopod_testkit::netns::{Netns, isolated, run};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

fn put_node(api: &FakeApi, name: &str, cidr: &str, address: &str) {
    api.put(
        "api/v1/nodes",
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]}}),
    );
}

async fn routes_become(wanted: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let table = run("ip route");
        let ours: Vec<&str> = table.lines().filter(|l| l.contains("proto 118")).map(str::trim).collect();
        if ours == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{ours:?} did not become {wanted:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn nodes_come_move_and_go() {
    isolated(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let other = Netns::new();
            Netns::current().join("eth0", "192.0.2.1/24", &other, "eth0", "192.0.2.2/24");
            let api = FakeApi::default();
            put_node(&api, "me", "10.42.0.0/24", "192.0.2.1");
            put_node(&api, "two", "10.42.1.0/24", "192.0.2.2");
            // Not on the link: no route, and no harm to the others.
            put_node(&api, "far", "10.42.9.0/24", "198.51.100.9");
            let shutdown = CancellationToken::new();
            let task = tokio::spawn(routes::run(api.client(), "me".into(), shutdown.clone()));
            routes_become(&["10.42.1.0/24 via 192.0.2.2 dev eth0 proto 118"]).await;
            put_node(&api, "two", "10.42.1.0/24", "192.0.2.3");
            put_node(&api, "three", "10.42.2.0/24", "192.0.2.4");
            routes_become(&[
                "10.42.1.0/24 via 192.0.2.3 dev eth0 proto 118",
                "10.42.2.0/24 via 192.0.2.4 dev eth0 proto 118",
            ])
            .await;
            api.delete("api/v1/nodes", "", "three");
            routes_become(&["10.42.1.0/24 via 192.0.2.3 dev eth0 proto 118"]).await;
            shutdown.cancel();
            task.await.unwrap().unwrap();
        });
    });
}
