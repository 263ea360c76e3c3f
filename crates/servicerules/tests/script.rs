//! Runs the scripts of `testdata/`: commands that describe Services and endpoints, and the nft text they lead to.
//!
//! Commands, one a line; the answer stands between `----` and an empty line:
//! - `node [pods=CIDR,…] [services=CIDR,…] [nodeports=IP,…] [families=4,6] [masquerade-all]` starts afresh
//! - `service NAME [ip=IP,…] [external=IP,…] [lb=IP,…] [ranges=CIDR,…] [internal=local] [policy=local]
//!   [affinity=SECONDS] PORT…` where PORT is `[name:]tcp/80[/nodeport]`; `delete NAME`
//! - `endpoints NAME [name:]tcp/IP:PORT[,flags] …` with flags as letters: r(eady, the default), s(erving),
//!   t(erminating), l(ocal), - (neither), z/Z zone hint elsewhere/here, n/N node hint elsewhere/here
//! - `full` and `changes` print the text; `start` takes the full text as applied without printing it
//!
//! `UPDATE_EXPECT=1` rewrites the answers.

#![allow(clippy::unwrap_used, reason = "a test script that cannot be read is a failed test")]

use expect_test::expect_file;
use isopod_servicerules::input::{
    Endpoint, Family, NodePortAddresses, NodeView, Protocol, Service, ServicePort,
};
use isopod_servicerules::{Ruleset, plan};
use std::collections::BTreeMap;
use std::net::SocketAddr;

struct World {
    rules: Ruleset,
    services: BTreeMap<String, Service>,
    endpoints: BTreeMap<String, Vec<Endpoint>>,
}

fn protocol(word: &str) -> Protocol {
    Protocol::parse(Some(&word.to_uppercase())).expect("a protocol")
}

/// Splits `[name:]proto/rest`.
fn head(word: &str) -> (String, Protocol, &str) {
    let (head, rest) = word.split_once('/').expect("a slash after the protocol");
    let (name, proto) = head.split_once(':').unwrap_or(("", head));
    (name.to_owned(), protocol(proto), rest)
}

fn list<T: std::str::FromStr>(text: &str) -> Vec<T>
where
    T::Err: std::fmt::Debug,
{
    text.split(',').map(|part| part.parse().unwrap()).collect()
}

impl World {
    fn new() -> Self {
        Self {
            rules: Ruleset::new(NodeView::default()),
            services: BTreeMap::new(),
            endpoints: BTreeMap::new(),
        }
    }

    fn run(&mut self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let command = words.next().expect("a command");
        let words: Vec<&str> = words.collect();
        match command {
            "node" => self.node(&words),
            "service" => self.service(&words),
            "endpoints" => self.set_endpoints(&words),
            "delete" => {
                self.services.remove(words[0]);
                self.rules.remove_service(words[0]);
            }
            "start" => {
                self.rules.render_full();
            }
            "full" => return self.rules.render_full().text,
            "changes" => return self.rules.take_changes().text,
            other => panic!("unknown command {other}"),
        }
        String::new()
    }

    fn node(&mut self, words: &[&str]) {
        let mut view = NodeView::default();
        for word in words {
            match word.split_once('=') {
                Some(("pods", v)) => view.cluster_cidrs = list(v),
                Some(("services", v)) => view.service_cidrs = list(v),
                Some(("nodeports", v)) => view.node_port_addresses = NodePortAddresses::Only(list(v)),
                Some(("families", v)) => {
                    view.families =
                        v.split(',').map(|f| if f == "4" { Family::V4 } else { Family::V6 }).collect();
                }
                None if *word == "masquerade-all" => view.masquerade_all = true,
                _ => panic!("unknown word {word}"),
            }
        }
        *self = Self { rules: Ruleset::new(view), ..Self::new() };
    }

    fn service(&mut self, words: &[&str]) {
        let mut service = Service::default();
        for word in &words[1..] {
            match word.split_once('=') {
                Some(("ip", v)) => service.cluster_ips = list(v),
                Some(("external", v)) => service.external_ips = list(v),
                Some(("lb", v)) => service.load_balancer_ips = list(v),
                Some(("ranges", v)) => service.source_ranges = list(v),
                Some(("internal", "local")) => service.internal_local = true,
                Some(("policy", "local")) => service.external_local = true,
                Some(("affinity", v)) => service.affinity_seconds = Some(v.parse().unwrap()),
                Some(_) => panic!("unknown word {word}"),
                None => {
                    let (name, protocol, rest) = head(word);
                    let (port, node_port) = rest.split_once('/').unwrap_or((rest, ""));
                    let node_port = node_port.parse().ok();
                    service.ports.push(ServicePort {
                        name,
                        protocol,
                        port: port.parse().unwrap(),
                        node_port,
                    });
                }
            }
        }
        self.services.insert(words[0].to_owned(), service);
        self.refresh(words[0]);
    }

    fn set_endpoints(&mut self, words: &[&str]) {
        let parsed = words[1..].iter().map(|word| {
            let (port_name, protocol, rest) = head(word);
            let (address, flags) = rest.split_once(',').unwrap_or((rest, "r"));
            let address: SocketAddr = address.parse().unwrap();
            let has = |c: char| flags.contains(c);
            let hint = |no: char, yes: char| (has(no) || has(yes)).then(|| has(yes));
            let ready = has('r') || !(has('s') || has('t') || has('-'));
            Endpoint {
                port_name,
                protocol,
                address: address.ip(),
                port: address.port(),
                ready,
                serving: ready || has('s'),
                terminating: has('t'),
                local: has('l'),
                node_hint: hint('n', 'N'),
                zone_hint: hint('z', 'Z'),
            }
        });
        self.endpoints.insert(words[0].to_owned(), parsed.collect());
        self.refresh(words[0]);
    }

    fn refresh(&mut self, name: &str) {
        if let Some(service) = self.services.get(name) {
            let endpoints = self.endpoints.get(name).map_or(&[][..], Vec::as_slice);
            let elements = plan::service_elements(service, endpoints, self.rules.view());
            self.rules.set_service(name, elements);
        }
    }
}

fn run_file(name: &str) {
    let path = format!("{}/testdata/{name}", env!("CARGO_MANIFEST_DIR"));
    let script = std::fs::read_to_string(&path).unwrap();
    let mut world = World::new();
    let mut out = String::new();
    let mut in_answer = false;
    for line in script.lines() {
        if in_answer {
            in_answer = !line.is_empty();
            continue;
        }
        if line == "----" {
            in_answer = true;
            continue;
        }
        out.push_str(line);
        out.push('\n');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let answer = world.run(line);
        if line == "full" || line == "changes" {
            out.push_str("----\n");
            out.push_str(&answer);
            out.push('\n');
        }
    }
    expect_file![path].assert_eq(&out);
}

#[test]
fn skeleton() {
    run_file("skeleton.txt");
}

#[test]
fn cluster_ip() {
    run_file("cluster_ip.txt");
}

#[test]
fn external() {
    run_file("external.txt");
}

#[test]
fn affinity() {
    run_file("affinity.txt");
}

#[test]
fn conflicts() {
    run_file("conflicts.txt");
}
