//! The pod network with real links and packets, each test in namespaces of its own. Needs root.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use isopod_cri::v1::Protocol;
use isopod_cri::{HostPort, PodNetwork, PodNetworkRequest};
use isopod_network::{Config, Network, purge};
use isopod_testkit::netns::{Answer, Netns, ask_tcp, isolated, run};
use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::path::Path;

/// Runs an async test inside a namespace of its own.
fn on_a_node<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    isolated(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    });
}

fn config(dir: &Path) -> Config {
    Config {
        state_dir: dir.to_owned(),
        cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap(), "fd42::/48".parse().unwrap()],
        service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
        mtu: None,
    }
}

fn request(netns: &Netns, id: &str) -> PodNetworkRequest {
    PodNetworkRequest {
        netns_path: netns.path(),
        namespace: "default".into(),
        name: id.into(),
        uid: format!("uid-{id}"),
        sandbox_id: id.into(),
        host_ports: vec![],
        annotations: Default::default(),
    }
}

fn host_port(port: u16, host_ip: Option<&str>) -> HostPort {
    HostPort {
        protocol: Protocol::Tcp,
        container_port: 80,
        host_port: port,
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
    }
}

async fn started(dir: &Path) -> std::sync::Arc<Network> {
    let network = Network::start(config(dir)).await.unwrap();
    network.set_pod_cidr("10.42.0.0/24,fd42:0:0:0::/64").await.unwrap();
    network
}

#[test]
fn pods_reach_pods_node_and_outside() {
    on_a_node(|| async {
        let dir = tempfile::tempdir().unwrap();
        let outside = Netns::new();
        let node = Netns::current();
        node.join("up0", "192.0.2.1/24", &outside, "eth0", "192.0.2.9/24");
        run("ip route add default via 192.0.2.9");
        run("ip link set up0 mtu 1400");
        outside.serve_tcp("192.0.2.9:80".parse().unwrap(), "outside");
        node.serve_tcp("0.0.0.0:7000".parse().unwrap(), "node");

        let network = started(dir.path()).await;
        let (a, b) = (Netns::new(), Netns::new());
        let a_ips = network.attach(request(&a, "a")).await.unwrap();
        let b_ips = network.attach(request(&b, "b")).await.unwrap();
        assert_eq!(a_ips, ["10.42.0.2".parse::<IpAddr>().unwrap(), "fd42::2".parse().unwrap()]);
        b.serve_tcp("10.42.0.3:80".parse().unwrap(), "b");
        b.serve_tcp("[fd42::3]:80".parse().unwrap(), "b6");

        let from = |name: &str, ip: IpAddr| Answer::From(name.into(), ip);
        assert_eq!(a.ask_tcp("10.42.0.3:80"), from("b", a_ips[0]));
        assert_eq!(a.ask_tcp("[fd42::3]:80"), from("b6", a_ips[1]));
        assert_eq!(ask_tcp("10.42.0.3:80"), from("b", "10.42.0.1".parse().unwrap()));
        assert_eq!(a.ask_tcp("10.42.0.1:7000"), from("node", a_ips[0]));
        assert_eq!(a.ask_tcp("192.0.2.1:7000"), from("node", a_ips[0]));
        // What leaves the cluster shows the node's address.
        assert_eq!(a.ask_tcp("192.0.2.9:80"), from("outside", "192.0.2.1".parse().unwrap()));
        assert!(a.run("ip link show eth0").contains("mtu 1400"));
        assert!(a.run("ip -4 route").contains("default via 10.42.0.1"));

        network.detach(request(&b, "b")).await.unwrap();
        network.detach(request(&b, "b")).await.unwrap();
        assert_eq!(ask_tcp("10.42.0.3:80").server(), None);
        assert_eq!(b_ips.len(), 2);
    });
}

#[test]
fn host_ports_lead_to_the_pod() {
    on_a_node(|| async {
        let dir = tempfile::tempdir().unwrap();
        let outside = Netns::new();
        let node = Netns::current();
        node.join("up0", "192.0.2.1/24", &outside, "eth0", "192.0.2.9/24");
        run("ip address add 192.0.2.2/24 dev up0");
        let network = started(dir.path()).await;
        let (a, b, c) = (Netns::new(), Netns::new(), Netns::new());
        let mut wanted = request(&a, "a");
        wanted.host_ports = vec![host_port(8080, None), host_port(8081, Some("192.0.2.2"))];
        network.attach(wanted.clone()).await.unwrap();
        a.serve_tcp("10.42.0.2:80".parse().unwrap(), "a");
        network.attach(request(&b, "b")).await.unwrap();

        for client in [&outside, &node, &b, &a] {
            assert_eq!(client.ask_tcp("192.0.2.1:8080").server(), Some("a"));
            assert_eq!(client.ask_tcp("192.0.2.2:8081").server(), Some("a"));
            assert_eq!(client.ask_tcp("192.0.2.1:8081"), Answer::Refused);
        }
        assert_eq!(outside.ask_tcp("192.0.2.1:8080"), Answer::From("a".into(), "192.0.2.9".parse().unwrap()));
        assert_eq!(ask_tcp("127.0.0.1:8080"), Answer::Refused);

        let mut clashing = request(&c, "c");
        clashing.host_ports = vec![host_port(8081, None)];
        let error = network.attach(clashing.clone()).await.unwrap_err();
        assert!(error.message.contains("TCP/8081 is already used by pod default/a"), "{error:?}");

        network.detach(wanted).await.unwrap();
        assert_eq!(outside.ask_tcp("192.0.2.1:8080"), Answer::Refused);
        network.attach(clashing).await.unwrap();
    });
}

#[test]
fn a_restart_takes_over_and_purge_leaves_nothing() {
    on_a_node(|| async {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("network");
        let (a, b, c) = (Netns::new(), Netns::new(), Netns::new());
        {
            let network = Network::start(config(&state)).await.unwrap();
            assert!(network.ready().await.is_err());
            let error = network.attach(request(&a, "a")).await.unwrap_err();
            assert!(error.message.contains("no pod CIDR yet"), "{error:?}");
            network.set_pod_cidr("10.42.7.0/24").await.unwrap();
            let mut wanted = request(&a, "a");
            wanted.host_ports = vec![host_port(8080, None)];
            network.attach(wanted).await.unwrap();
            network.attach(request(&b, "b")).await.unwrap();
        }
        a.serve_tcp("10.42.7.2:80".parse().unwrap(), "a");

        let network = Network::start(config(&state)).await.unwrap();
        network.ready().await.unwrap();
        assert_eq!(network.wait_ready().await, ["10.42.7.1".parse::<IpAddr>().unwrap()]);
        network.reconcile(&BTreeSet::from(["a".to_owned()])).await.unwrap();
        assert_eq!(ask_tcp("10.42.7.2:80").server(), Some("a"));
        assert_eq!(ask_tcp("10.42.7.1:8080").server(), Some("a"));
        assert!(!b.run("ip link").contains("eth0"));
        // Attaching the same sandbox again is a retry, not an error.
        network.attach(request(&c, "c")).await.unwrap();
        network.detach(request(&c, "c")).await.unwrap();
        let again = network.attach(request(&c, "c")).await.unwrap();
        assert_eq!(network.attach(request(&c, "c")).await.unwrap().len(), again.len());

        purge(&state).await.unwrap();
        purge(&state).await.unwrap();
        assert!(!state.exists());
        assert!(!run("ip link").contains("isopod"));
        assert!(!run("ip route").contains("118"));
        assert!(!run("nft list tables").contains("isopod"));
    });
}

#[test]
fn loopback_is_not_reachable_from_outside() {
    on_a_node(|| async {
        let dir = tempfile::tempdir().unwrap();
        let outside = Netns::new();
        let node = Netns::current();
        node.join("up0", "192.0.2.1/24", &outside, "eth0", "192.0.2.9/24");
        node.serve_tcp("127.0.0.1:7000".parse().unwrap(), "secret");
        let _network = started(dir.path()).await;
        // An administrator's mistake that would open loopback to the link.
        run("sysctl -qw net.ipv4.conf.all.route_localnet=1");
        outside.run("sysctl -qw net.ipv4.conf.all.route_localnet=1");
        outside.run("ip route del table local 127.0.0.0/8 dev lo");
        outside.run("ip route del table local 127.0.0.1 dev lo");
        outside.run("ip route add 127.0.0.1/32 via 192.0.2.1 src 192.0.2.9");
        assert_eq!(outside.ask_tcp("127.0.0.1:7000").server(), None);
        assert_eq!(ask_tcp("127.0.0.1:7000").server(), Some("secret"));
    });
}
