//! Measures kube-proxy's rules at 10,000 Services with three endpoints each, in a network namespace of its own:
//! rendering and loading the whole, and one endpoint that comes or goes. Needs root. Prints figures, checks nothing.

use isopod_servicerules::input::{Endpoint, NodeView, Protocol, Service, ServicePort};
use isopod_servicerules::{Ruleset, plan};
use isopod_testkit::netns::isolated;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SERVICES: u16 = 10_000;
const CHANGES: u16 = 50;

fn elements(n: u16, endpoints: u8, view: &NodeView) -> plan::Elements {
    let [hi, lo] = n.to_be_bytes();
    let service = Service {
        cluster_ips: vec![[10, 43, hi, lo].into()],
        ports: vec![ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        ..Service::default()
    };
    let endpoint = |i: u8| Endpoint {
        port_name: String::new(),
        protocol: Protocol::Tcp,
        address: [10, 100 + i, hi, lo].into(),
        port: 8080,
        ready: true,
        serving: true,
        terminating: false,
        local: false,
        node_hint: None,
        zone_hint: None,
    };
    plan::service_elements(&service, &(0..endpoints).map(endpoint).collect::<Vec<_>>(), view)
}

fn load(text: &str) -> Duration {
    let start = Instant::now();
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("start nft");
    nft.stdin.take().expect("stdin is piped").write_all(text.as_bytes()).expect("write to nft");
    assert!(nft.wait().expect("wait for nft").success(), "nft refused");
    start.elapsed()
}

fn main() {
    isolated(|| {
        let view =
            NodeView { cluster_cidrs: vec!["10.42.0.0/16".parse().expect("a range")], ..NodeView::default() };
        let start = Instant::now();
        let mut rules = Ruleset::new(view.clone());
        for n in 0..SERVICES {
            rules.set_service(&format!("ns/svc-{n}"), elements(n, 3, &view));
        }
        let full = rules.render_full();
        let rendered = start.elapsed();
        let loaded = load(&full.text);
        println!(
            "kube-proxy full sync, {SERVICES} Services: render {rendered:.1?} + nft {loaded:.1?} ({} elements)",
            full.operations
        );
        println!("kube-proxy full sync again, over the old rules: nft {:.1?}", load(&full.text));
        let (mut render, mut apply) = (Vec::new(), Vec::new());
        for i in 0..CHANGES {
            let n = i * 97;
            let start = Instant::now();
            rules.set_service(&format!("ns/svc-{n}"), elements(n, if i % 2 == 0 { 4 } else { 2 }, &view));
            let change = rules.take_changes();
            render.push(start.elapsed());
            apply.push(load(&change.text));
        }
        render.sort();
        apply.sort();
        let (middle, last) = (usize::from(CHANGES / 2), usize::from(CHANGES - 1));
        println!(
            "kube-proxy one endpoint: render p50 {:.1?} max {:.1?}; nft p50 {:.1?} max {:.1?}",
            render[middle], render[last], apply[middle], apply[last]
        );
    });
}
