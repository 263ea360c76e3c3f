//! Whatever happens to Services, the sum of all changes is the full ruleset, and no command would be refused.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use isopod_servicerules::input::{Endpoint, Family, NodeView, Protocol, Service, ServicePort};
use isopod_servicerules::{Ruleset, plan};
use std::collections::{BTreeMap, BTreeSet};

/// A small generator, so that a failure names its seed and needs nothing else.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// What the kernel would hold: elements by family, set and key, and the chains there are.
#[derive(Default, PartialEq, Debug)]
struct Kernel {
    elements: BTreeMap<String, String>,
    chains: BTreeSet<String>,
}

impl Kernel {
    fn apply(&mut self, text: &str) {
        for line in text.lines() {
            let words: Vec<&str> = line.splitn(6, ' ').collect();
            match words[..] {
                ["delete", "table", family, ..] => {
                    let table = format!("{family} ");
                    self.elements.retain(|key, _| !key.starts_with(&table));
                    self.chains.retain(|key| !key.starts_with(&table));
                }
                ["add", "chain", family, _, name, ..] => {
                    self.chains.insert(format!("{family} {name}"));
                }
                [verb, "element", family, _, set, body] => self.elements(verb, family, set, body),
                _ => {}
            }
        }
    }

    fn elements(&mut self, verb: &str, family: &str, set: &str, body: &str) {
        let body = body.strip_prefix("{ ").and_then(|b| b.strip_suffix(" }")).expect("braces");
        for element in body.split(", ") {
            let (key, value) = element.split_once(" : ").unwrap_or((element, ""));
            let key = format!("{family} {set} {key}");
            if verb == "delete" {
                assert!(self.elements.remove(&key).is_some(), "deleted what was not there: {key}");
                continue;
            }
            if let Some(chain) = value.strip_prefix("goto ") {
                assert!(self.chains.contains(&format!("{family} {chain}")), "no chain {chain} for {key}");
            }
            assert!(self.elements.insert(key.clone(), value.to_owned()).is_none(), "added twice: {key}");
        }
    }
}

fn service(r: &mut Random, n: u8) -> Service {
    let protocol = Protocol::ALL[r.below(3) as usize];
    let port = |r: &mut Random, name: &str| ServicePort {
        name: name.into(),
        protocol,
        port: 80 + r.below(2) as u16,
        node_port: r.chance(2).then(|| 30000 + r.below(6) as u16),
    };
    let mut ports = vec![port(r, "a")];
    if r.chance(2) {
        ports.push(port(r, "b"));
    }
    Service {
        cluster_ips: vec![[10, 43, 0, n].into(), [0xfd43, 0, 0, 0, 0, 0, 0, u16::from(n)].into()],
        external_ips: if r.chance(2) { vec![[198, 51, 100, r.below(3) as u8].into()] } else { vec![] },
        load_balancer_ips: if r.chance(3) { vec![[203, 0, 113, r.below(3) as u8].into()] } else { vec![] },
        source_ranges: if r.chance(2) { vec!["10.0.0.0/8".parse().unwrap()] } else { vec![] },
        internal_local: r.chance(4),
        external_local: r.chance(3),
        affinity_seconds: r.chance(3).then(|| 10 + r.below(2) as u32),
        health_check_node_port: None,
        ports,
    }
}

fn endpoints(r: &mut Random, service: &Service) -> Vec<Endpoint> {
    (0..r.below(6))
        .map(|_| {
            let host = 1 + r.below(8) as u8;
            let ready = !r.chance(4);
            Endpoint {
                port_name: if r.chance(2) { "a".into() } else { "b".into() },
                protocol: service.ports[0].protocol,
                address: if r.chance(3) {
                    [0xfd42, 0, 0, 0, 0, 0, 0, u16::from(host)].into()
                } else {
                    [10, 42, 0, host].into()
                },
                port: 8080,
                ready,
                serving: ready || r.chance(2),
                terminating: !ready && r.chance(2),
                local: r.chance(2),
                node_hint: None,
                zone_hint: r.chance(2).then(|| r.chance(2)),
            }
        })
        .collect()
}

#[test]
fn changes_add_up_to_the_whole() {
    for seed in 1..=60u64 {
        let mut r = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let view = NodeView {
            families: vec![Family::V4, Family::V6],
            cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
            ..NodeView::default()
        };
        let mut rules = Ruleset::new(view.clone());
        let mut kernel = Kernel::default();
        kernel.apply(&rules.render_full().text);
        let mut alive: BTreeMap<String, plan::Elements> = BTreeMap::new();
        for step in 0..60 {
            for _ in 0..=r.below(3) {
                let n = 1 + r.below(12) as u8;
                let name = format!("ns/svc-{n}");
                if r.chance(4) {
                    rules.remove_service(&name);
                    alive.remove(&name);
                } else {
                    let service = service(&mut r, n);
                    let elements = plan::service_elements(&service, &endpoints(&mut r, &service), &view);
                    rules.set_service(&name, elements.clone());
                    alive.insert(name, elements);
                }
            }
            kernel.apply(&rules.take_changes().text);
            let mut fresh = Ruleset::new(view.clone());
            for (name, elements) in &alive {
                fresh.set_service(name, elements.clone());
            }
            let mut whole = Kernel::default();
            whole.apply(&fresh.render_full().text);
            assert_eq!(kernel.elements, whole.elements, "seed {seed}, step {step}");
            assert!(kernel.chains.is_superset(&whole.chains), "seed {seed}, step {step}");
        }
    }
}

#[test]
fn a_change_among_ten_thousand_services_is_small() {
    let view = NodeView::default();
    let mut rules = Ruleset::new(view.clone());
    let make = |n: u16, count: u8| {
        let service = Service {
            cluster_ips: vec![[10, 43, (n >> 8) as u8, n as u8].into()],
            ports: vec![ServicePort {
                name: String::new(),
                protocol: Protocol::Tcp,
                port: 80,
                node_port: None,
            }],
            ..Service::default()
        };
        let endpoints: Vec<_> = (0..count)
            .map(|i| Endpoint {
                port_name: String::new(),
                protocol: Protocol::Tcp,
                address: [10, 42, (n >> 6) as u8, ((n << 2) as u8) | i].into(),
                port: 8080,
                ready: true,
                serving: true,
                terminating: false,
                local: false,
                node_hint: None,
                zone_hint: None,
            })
            .collect();
        plan::service_elements(&service, &endpoints, &view)
    };
    for n in 0..10_000 {
        rules.set_service(&format!("ns/svc-{n}"), make(n, 3));
    }
    let full = rules.render_full();
    assert_eq!(full.operations, 10_000 * 5);
    rules.set_service("ns/svc-77", make(77, 2));
    let change = rules.take_changes();
    assert!(!change.full);
    assert_eq!(change.operations, 3);
    assert!(change.text.len() < 400, "{}", change.text);
}
