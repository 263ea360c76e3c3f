//! The text of nft commands: elements, chains, and the skeleton that every table has.

use crate::TABLE;
use crate::input::{Family, NodePortAddresses, NodeView, Protocol};
use crate::model::{Key, Port, Tuple, Value};
use std::fmt::Write;

/// Most clients remembered for session affinity in a family, for each protocol. Bounds kernel memory (about 150 bytes each); past it a
/// new client is balanced like any other.
pub const AFFINITY_CLIENTS_MAX: u32 = 1_048_576;

/// Writes an element as `key` or `key : value`.
pub fn element(out: &mut String, key: &Key, value: Option<&Value>) {
    let result = match key {
        Key::ClusterIp(ip) | Key::NodePortIp(ip) => write!(out, "{ip}"),
        Key::Hairpin(ip) => write!(out, "{ip} . {ip}"),
        Key::Firewalled(t) | Key::AffinityIp(t) | Key::NoEndpointIp(t) | Key::ServiceIp(t) => tuple(out, t),
        Key::FirewallAllow(t, range) => tuple(out, t).and_then(|()| write!(out, " . {range}")),
        Key::Endpoint(t, slot) => write!(out, "{} . {} . {slot}", t.ip, t.port),
        Key::AffinityNodePort(p) | Key::NoEndpointNodePort(p) | Key::ServiceNodePort(p) => port(out, p),
        Key::NodePortEndpoint(p, slot) => write!(out, "{} . {slot}", p.port),
    };
    let result = result.and_then(|()| match value {
        None | Some(Value::Unit) => Ok(()),
        Some(Value::Endpoint(e)) => write!(out, " : {} . {}", e.ip(), e.port()),
        Some(Value::Chain(chain)) => write!(out, " : goto {chain}"),
        Some(Value::Learn(learn)) => write!(out, " : goto {learn}"),
        Some(Value::Reject) => write!(out, " : goto refuse"),
        Some(Value::Drop) => write!(out, " : drop"),
    });
    result.expect("writing to a string does not fail");
}

fn tuple(out: &mut String, t: &Tuple) -> std::fmt::Result {
    write!(out, "{} . {} . {}", t.ip, t.protocol.word(), t.port)
}

fn port(out: &mut String, p: &Port) -> std::fmt::Result {
    write!(out, "{} . {}", p.protocol.word(), p.port)
}

/// Writes a chain with its rules.
pub fn chain(out: &mut String, family: Family, name: &str, rules: &[String]) {
    let word = family.word();
    line(out, &format!("add chain {word} {TABLE} {name}"));
    for rule in rules {
        line(out, &format!("add rule {word} {TABLE} {name} {rule}"));
    }
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// Writes commands that make the table afresh: sets, maps and hooks, all empty of Services. The first two lines
/// remove what was there, in the same transaction.
pub fn skeleton(out: &mut String, family: Family, view: &NodeView) {
    let (word, addr) = (family.word(), family.addr_type());
    line(out, &format!("add table {word} {TABLE}"));
    line(out, &format!("delete table {word} {TABLE}"));
    line(out, &format!("add table {word} {TABLE} {{ comment \"Service rules of kube-proxy (isopod)\" ; }}"));
    let tuple = format!("type {addr} . inet_proto . inet_service");
    for (kind, name, body) in [
        ("set", "cluster-ips", format!("type {addr} ;")),
        ("set", "nodeport-ips", format!("type {addr} ;")),
        ("set", "hairpin", format!("type {addr} . {addr} ;")),
        ("set", "firewalled", format!("{tuple} ;")),
        ("set", "firewall-allow", format!("{tuple} . {addr} ; flags interval ;")),
        ("map", "affinity-ips", format!("{tuple} : verdict ;")),
        ("map", "affinity-nodeports", "type inet_proto . inet_service : verdict ;".into()),
        ("map", "no-endpoint-services", format!("{tuple} : verdict ;")),
        ("map", "no-endpoint-nodeports", "type inet_proto . inet_service : verdict ;".into()),
        ("map", "service-ips", format!("{tuple} : verdict ;")),
        ("map", "service-nodeports", "type inet_proto . inet_service : verdict ;".into()),
    ] {
        line(out, &format!("add {kind} {word} {TABLE} {name} {{ {body} }}"));
    }
    for proto in Protocol::ALL {
        let proto = proto.word();
        // A slot has no data type of its own, so maps with a slot are declared by the expressions that look it up.
        let slot = format!("{proto} dport . numgen random mod 2");
        let target = format!("{word} daddr . {proto} dport");
        for (name, body) in [
            ("endpoints", format!("typeof {word} daddr . {slot} : {target} ;")),
            ("nodeport-endpoints", format!("typeof {slot} : {target} ;")),
            (
                "affinity",
                format!(
                    "typeof {word} daddr . {proto} dport . {word} saddr : {target} ; \
                     flags dynamic,timeout ; size {AFFINITY_CLIENTS_MAX} ;"
                ),
            ),
        ] {
            line(out, &format!("add map {word} {TABLE} {name}-{proto} {{ {body} }}"));
        }
    }
    for (name, rules) in plain_chains(family, view) {
        chain(out, family, name, &rules);
    }
    for (name, hook, rules) in hooks(family, view) {
        line(out, &format!("add chain {word} {TABLE} {name} {{ {hook} ; }}"));
        for rule in rules {
            line(out, &format!("add rule {word} {TABLE} {name} {rule}"));
        }
    }
}

/// Chains that the hooks jump to, in an order in which none names a later one.
fn plain_chains(family: Family, view: &NodeView) -> Vec<(&'static str, Vec<String>)> {
    let word = family.word();
    let bit = 1u32 << view.masquerade_bit;
    let frontend = format!("{word} daddr . meta l4proto . th dport");
    let local = match view.node_port_addresses {
        NodePortAddresses::Only(_) => format!("{word} daddr @nodeport-ips"),
        NodePortAddresses::AnyLocal if family == Family::V4 => {
            "fib daddr type local ip daddr != 127.0.0.0/8".to_owned()
        }
        NodePortAddresses::AnyLocal => "fib daddr type local ip6 daddr != ::1".to_owned(),
    };
    let mut unallocated = vec![format!("{word} daddr @cluster-ips goto refuse")];
    for cidr in view.service_cidrs.iter().filter(|n| Family::of(n.addr()) == family) {
        unallocated.push(format!("{word} daddr {cidr} drop"));
    }
    let mut learn = Vec::new();
    for proto in Protocol::ALL {
        let proto = proto.word();
        learn.push(format!(
            "meta l4proto {proto} ct original {word} daddr . meta l4proto . ct original proto-dst vmap @affinity-ips"
        ));
        learn.push(format!(
            "meta l4proto {proto} meta l4proto . ct original proto-dst vmap @affinity-nodeports"
        ));
    }
    vec![
        ("mark-masquerade", vec![format!("meta mark set meta mark or {bit:#x}")]),
        ("refuse", vec!["reject".into()]),
        (
            "services",
            vec![
                format!("{frontend} vmap @service-ips"),
                format!("{local} meta l4proto . th dport vmap @service-nodeports"),
            ],
        ),
        (
            "firewall",
            vec![format!("{frontend} @firewalled {frontend} . {word} saddr != @firewall-allow drop")],
        ),
        (
            "unserved",
            vec![
                format!("{frontend} vmap @no-endpoint-services"),
                format!("{local} meta l4proto . th dport vmap @no-endpoint-nodeports"),
            ],
        ),
        ("unallocated", unallocated),
        ("learn", learn),
    ]
}

/// Base chains: name, hook, rules. Only the first packet of a connection is looked at: filter chains say so, and the
/// kernel sees to it for nat chains.
fn hooks(family: Family, view: &NodeView) -> Vec<(&'static str, &'static str, Vec<String>)> {
    let bit = 1u32 << view.masquerade_bit;
    let on_new = |chains: &[&str]| -> Vec<String> {
        chains.iter().map(|c| format!("ct state new jump {c}")).collect()
    };
    let learn = "ct state new ct status dnat jump learn".to_owned();
    let services = || vec!["jump services".to_owned()];
    let mut input = on_new(&["unserved"]);
    input.push(learn.clone());
    let mut passing = on_new(&["unserved", "unallocated"]);
    passing.push(learn);
    vec![
        // Before translation, while the packet still shows the frontend.
        ("firewall-prerouting", "type filter hook prerouting priority -110", on_new(&["firewall"])),
        ("firewall-output", "type filter hook output priority -110", on_new(&["firewall"])),
        ("nat-prerouting", "type nat hook prerouting priority -100", services()),
        ("nat-output", "type nat hook output priority -100", services()),
        // After translation: a packet that still has a frontend's address was not translated.
        ("filter-input", "type filter hook input priority 0", input),
        ("filter-forward", "type filter hook forward priority 0", passing.clone()),
        ("filter-output", "type filter hook output priority 0", passing),
        ("nat-postrouting", "type nat hook postrouting priority 100", postrouting(family.word(), bit)),
    ]
}

fn postrouting(ip: &str, bit: u32) -> Vec<String> {
    vec![
        // A pod that reached itself through a Service must see the answer come from elsewhere.
        format!("ct status dnat {ip} saddr . {ip} daddr @hairpin masquerade fully-random"),
        format!("meta mark and {bit:#x} == 0 return"),
        format!("meta mark set meta mark xor {bit:#x}"),
        "masquerade fully-random".into(),
    ]
}
