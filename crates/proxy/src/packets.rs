//! Real packets through real rules: a node, its pods and a machine outside, as network namespaces. Needs root.

use crate::config::Config;
use crate::convert::NodeInfo;
use crate::health::Health;
use crate::proxier::Proxier;
use isopod_testkit::netns::{Answer, Netns, ask_tcp, ask_udp, isolated, run};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::future::Future;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The node's namespace with two pods, 10.42.0.2 and 10.42.0.3, and a machine outside, 192.0.2.9.
struct World {
    pods: Vec<Netns>,
    outside: Netns,
}

impl World {
    fn new() -> Self {
        run("sysctl -qw net.ipv4.ip_forward=1");
        let node = Netns::current();
        let outside = Netns::new();
        node.join("up0", "192.0.2.1/24", &outside, "eth0", "192.0.2.9/24");
        run("ip route add default via 192.0.2.9");
        outside.run("ip route add 10.43.0.0/16 via 192.0.2.1");
        outside.run("ip route add 198.51.100.0/24 via 192.0.2.1");
        let pods = (2..=3).map(|n| {
            let pod = Netns::new();
            node.join(&format!("pod{n}"), "10.42.0.1/32", &pod, "eth0", &format!("10.42.0.{n}/32"));
            run(&format!("ip route add 10.42.0.{n}/32 dev pod{n}"));
            pod.run("ip route add 10.42.0.1/32 dev eth0");
            pod.run("ip route add default via 10.42.0.1");
            pod.serve_tcp("0.0.0.0:8080".parse().unwrap(), &format!("pod{n}"));
            pod.serve_udp("0.0.0.0:5353".parse().unwrap(), &format!("pod{n}"));
            pod
        });
        Self { pods: pods.collect(), outside }
    }

    /// The servers that `count` questions from the calling thread's namespace get to.
    fn servers(ask: impl Fn() -> Answer, count: usize) -> BTreeSet<String> {
        (0..count).map(|_| ask().server().unwrap_or("nobody").to_owned()).collect()
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

/// Runs a test on a node with a proxy that has not synced yet.
fn check<F: Future<Output = ()>>(test: impl FnOnce(World, Proxier<'static>) -> F + Send) {
    isolated(|| {
        let config: &'static Config = Box::leak(Box::new(Config {
            cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
            service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
            ..Config::new("node-1")
        }));
        let world = World::new();
        let mut proxier = Proxier::new(config, Arc::new(Health::default()), CancellationToken::new());
        proxier.set_node(NodeInfo { addresses: vec![[192, 0, 2, 1].into()], zone: None, eligible: true });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(world, proxier));
    });
}

/// A Service `ns/web` with the given fields of its spec, and endpoints by the last byte of their address.
fn put(proxier: &mut Proxier<'_>, fields: Value, protocol: &str, port: u16, pods: &[u8]) {
    let mut spec = json!({
        "clusterIP": "10.43.0.80", "clusterIPs": ["10.43.0.80"],
        "ports": [{"port": 80, "protocol": protocol, "nodePort": 30080}],
    });
    for (key, value) in fields.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let service: Service =
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": spec}))
            .unwrap();
    let endpoints: Vec<_> = pods
        .iter()
        .map(|n| json!({"addresses": [format!("10.42.0.{n}")], "nodeName": if *n < 10 { "node-1" } else { "node-2" }}))
        .collect();
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": "web-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"port": port, "protocol": protocol}],
    }))
    .unwrap();
    proxier.set_service("ns/web", Some(&service), &[Arc::new(slice)]);
}

#[test]
fn cluster_ip() {
    check(|world, mut proxier| async move {
        put(&mut proxier, json!({}), "TCP", 8080, &[2, 3]);
        proxier.sync().await.unwrap();
        let both = set(&["pod2", "pod3"]);
        let [pod2, pod3] = &world.pods[..] else { panic!("two pods") };
        // From a pod (which also reaches itself), from the node, and from a machine that routes cluster IPs here.
        assert_eq!(World::servers(|| pod2.ask_tcp("10.43.0.80:80"), 32), both);
        assert_eq!(World::servers(|| ask_tcp("10.43.0.80:80"), 32), both);
        assert_eq!(World::servers(|| world.outside.ask_tcp("10.43.0.80:80"), 32), both);
        // A pod sees the client pod's own address; itself it sees as the gateway.
        for _ in 0..16 {
            match pod3.ask_tcp("10.43.0.80:80") {
                Answer::From(server, client) if server == "pod2" => {
                    assert_eq!(client.to_string(), "10.42.0.3")
                }
                Answer::From(_, client) => assert_eq!(client.to_string(), "10.42.0.1"),
                other => panic!("{other:?}"),
            }
        }
        // A port that the Service has not is refused, an address that nobody has stays silent.
        assert_eq!(ask_tcp("10.43.0.80:81"), Answer::Refused);
        assert_eq!(pod2.ask_tcp("10.43.0.80:81"), Answer::Refused);
        assert_eq!(ask_tcp("10.43.0.81:80").server(), None);

        put(&mut proxier, json!({}), "TCP", 8080, &[3]);
        proxier.sync().await.unwrap();
        assert_eq!(World::servers(|| pod2.ask_tcp("10.43.0.80:80"), 8), set(&["pod3"]));

        put(&mut proxier, json!({}), "TCP", 8080, &[]);
        proxier.sync().await.unwrap();
        assert_eq!(pod2.ask_tcp("10.43.0.80:80"), Answer::Refused);
        assert_eq!(ask_tcp("10.43.0.80:80"), Answer::Refused);
        assert_eq!(world.outside.ask_tcp("192.0.2.1:30080"), Answer::Refused);

        put(&mut proxier, json!({}), "TCP", 8080, &[2]);
        proxier.sync().await.unwrap();
        assert_eq!(World::servers(|| pod2.ask_tcp("10.43.0.80:80"), 8), set(&["pod2"]));

        proxier.set_service("ns/web", None, &[]);
        proxier.sync().await.unwrap();
        assert_eq!(ask_tcp("10.43.0.80:80").server(), None);
        crate::purge().await.unwrap();
        crate::purge().await.unwrap();
        assert_eq!(run("nft list tables"), "");
    });
}

#[test]
fn node_ports_and_external_addresses() {
    check(|world, mut proxier| async move {
        put(&mut proxier, json!({"externalIPs": ["198.51.100.7"]}), "TCP", 8080, &[2, 3]);
        proxier.sync().await.unwrap();
        let both = set(&["pod2", "pod3"]);
        let pod2 = &world.pods[0];
        for to in ["192.0.2.1:30080", "198.51.100.7:80"] {
            assert_eq!(World::servers(|| world.outside.ask_tcp(to), 32), both, "{to}");
            assert_eq!(World::servers(|| pod2.ask_tcp(to), 32), both, "{to}");
            assert_eq!(World::servers(|| ask_tcp(to), 32), both, "{to}");
            // Policy Cluster hides the source.
            let Answer::From(_, client) = world.outside.ask_tcp(to) else { panic!("no answer") };
            assert_eq!(client.to_string(), "10.42.0.1");
        }
        assert_eq!(ask_tcp("127.0.0.1:30080"), Answer::Refused);

        let local = json!({"externalIPs": ["198.51.100.7"], "externalTrafficPolicy": "Local"});
        put(&mut proxier, local.clone(), "TCP", 8080, &[2, 13]);
        proxier.sync().await.unwrap();
        for to in ["192.0.2.1:30080", "198.51.100.7:80"] {
            for _ in 0..8 {
                assert_eq!(
                    world.outside.ask_tcp(to),
                    Answer::From("pod2".into(), "192.0.2.9".parse().unwrap()),
                    "{to}"
                );
            }
        }
        // No endpoint here: dropped, so that a load balancer goes elsewhere.
        put(&mut proxier, local, "TCP", 8080, &[13]);
        proxier.sync().await.unwrap();
        assert_eq!(world.outside.ask_tcp("192.0.2.1:30080"), Answer::Nothing);
        assert_eq!(world.outside.ask_tcp("198.51.100.7:80"), Answer::Nothing);
    });
}

#[test]
fn load_balancer_source_ranges() {
    check(|world, mut proxier| async move {
        let service = |ranges: Value| -> Service {
            serde_json::from_value(json!({
                "metadata": {"name": "web", "namespace": "ns"},
                "spec": {"type": "LoadBalancer", "clusterIP": "10.43.0.80", "clusterIPs": ["10.43.0.80"],
                    "loadBalancerSourceRanges": ranges, "ports": [{"port": 80}]},
                "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.8"}]}},
            }))
            .unwrap()
        };
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "web-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.42.0.2"]}], "ports": [{"port": 8080}],
        }))
        .unwrap();
        let slices = [Arc::new(slice)];
        proxier.set_service("ns/web", Some(&service(json!(["192.0.2.0/24"]))), &slices);
        proxier.sync().await.unwrap();
        assert_eq!(world.outside.ask_tcp("198.51.100.8:80").server(), Some("pod2"));
        proxier.set_service("ns/web", Some(&service(json!(["203.0.113.0/24"]))), &slices);
        proxier.sync().await.unwrap();
        assert_eq!(world.outside.ask_tcp("198.51.100.8:80"), Answer::Nothing);
        assert_eq!(world.outside.ask_tcp("10.43.0.80:80").server(), Some("pod2"));
    });
}

#[test]
fn session_affinity() {
    check(|world, mut proxier| async move {
        let sticky = json!({"sessionAffinity": "ClientIP"});
        put(&mut proxier, sticky.clone(), "TCP", 8080, &[2, 3]);
        proxier.sync().await.unwrap();
        let pod2 = &world.pods[0];
        for to in ["10.43.0.80:80", "192.0.2.1:30080"] {
            assert_eq!(World::servers(|| pod2.ask_tcp(to), 16).len(), 1, "{to}");
            assert_eq!(World::servers(|| ask_tcp(to), 16).len(), 1, "{to}");
        }
        let first = pod2.ask_tcp("10.43.0.80:80");
        let (gone, other) = if first.server() == Some("pod2") { (2, 3) } else { (3, 2) };

        // More endpoints do not move a client; the loss of its own does, and it stays where it went.
        put(&mut proxier, sticky.clone(), "TCP", 8080, &[other]);
        proxier.sync().await.unwrap();
        assert_eq!(World::servers(|| pod2.ask_tcp("10.43.0.80:80"), 4), set(&[&format!("pod{other}")]));
        put(&mut proxier, sticky, "TCP", 8080, &[gone, other]);
        proxier.sync().await.unwrap();
        assert_eq!(World::servers(|| pod2.ask_tcp("10.43.0.80:80"), 16), set(&[&format!("pod{other}")]));

        put(&mut proxier, json!({}), "TCP", 8080, &[2, 3]);
        proxier.sync().await.unwrap();
        assert_eq!(World::servers(|| pod2.ask_tcp("10.43.0.80:80"), 32), set(&["pod2", "pod3"]));
    });
}

#[test]
fn udp_clients_move_when_their_endpoint_goes() {
    check(|world, mut proxier| async move {
        put(&mut proxier, json!({}), "UDP", 5353, &[2]);
        proxier.sync().await.unwrap();
        assert_eq!(ask_udp("10.43.0.80:80").server(), Some("pod2"));
        let ask_with = |socket: &UdpSocket| {
            socket.send(b"?").unwrap();
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).split(' ').next().unwrap().to_owned()
        };
        let sockets: Vec<UdpSocket> = ["10.43.0.80:80", "192.0.2.1:30080"]
            .iter()
            .map(|to| {
                let socket = world.outside.within(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
                socket.connect(to).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                assert_eq!(ask_with(&socket), "pod2");
                socket
            })
            .collect();
        put(&mut proxier, json!({}), "UDP", 5353, &[3]);
        proxier.sync().await.unwrap();
        for socket in &sockets {
            assert_eq!(ask_with(socket), "pod3");
        }
    });
}

#[test]
fn an_endpoint_on_the_node_itself() {
    check(|world, mut proxier| async move {
        // As cluster DNS has it: the gateway serves, and the node's own address towards Services is the gateway's.
        Netns::current().serve_udp("10.42.0.1:5300".parse().unwrap(), "node");
        Netns::current().serve_tcp("10.42.0.1:5300".parse().unwrap(), "node");
        run("ip route add 10.43.0.0/16 dev pod2 src 10.42.0.1");
        for (protocol, ask) in [("UDP", ask_udp as fn(&str) -> Answer), ("TCP", ask_tcp)] {
            put(&mut proxier, json!({}), protocol, 5300, &[1]);
            proxier.sync().await.unwrap();
            assert_eq!(ask("10.43.0.80:80").server(), Some("node"), "{protocol}");
            let from_pod = world.pods[0].within(|| ask("10.43.0.80:80"));
            assert_eq!(from_pod, Answer::From("node".into(), "10.42.0.2".parse().unwrap()), "{protocol}");
        }
    });
}

#[test]
fn rules_that_vanish_are_noticed_and_a_refused_change_heals() {
    check(|world, mut proxier| async move {
        put(&mut proxier, json!({}), "TCP", 8080, &[2]);
        proxier.sync().await.unwrap();
        assert!(proxier.table_is_there().await);
        run("nft flush ruleset");
        assert!(!proxier.table_is_there().await);
        put(&mut proxier, json!({}), "TCP", 8080, &[2, 3]);
        assert!(proxier.sync().await.is_err());
        proxier.sync().await.unwrap();
        assert_eq!(World::servers(|| world.pods[0].ask_tcp("10.43.0.80:80"), 32), set(&["pod2", "pod3"]));
    });
}
