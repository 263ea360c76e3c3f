//! The nft tables of the pod network, as text: masquerading of what leaves the cluster, host ports, and loopback's
//! protection. Pure.
//!
//! Deliberate: no `route_localnet`. A host port or node port is not reachable on 127.0.0.1, and nothing from outside
//! reaches a service bound to loopback (the class of CVE-2020-8558).

use crate::addresses::Lease;
use crate::{BRIDGE, TABLE};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

/// What the tables depend on.
pub(crate) struct Inputs<'a> {
    pub(crate) cluster_cidrs: &'a [IpNet],
    pub(crate) leases: &'a BTreeMap<IpAddr, Lease>,
}

/// The script that makes all tables afresh, in one transaction.
pub(crate) fn full(inputs: &Inputs<'_>) -> String {
    let mut out = String::new();
    family(&mut out, inputs, false);
    if inputs.cluster_cidrs.iter().any(|net| net.addr().is_ipv6()) {
        family(&mut out, inputs, true);
    }
    for (ip, lease) in inputs.leases {
        out.push_str(&host_ports("add", *ip, lease));
    }
    out
}

fn family(out: &mut String, inputs: &Inputs<'_>, v6: bool) {
    let (ip, addr, loopback, multicast, redirect) = if v6 {
        ("ip6", "ipv6_addr", "::1", "ff00::/8", "icmpv6 type nd-redirect")
    } else {
        ("ip", "ipv4_addr", "127.0.0.0/8", "224.0.0.0/4", "icmp type redirect")
    };
    let cluster: Vec<String> =
        inputs.cluster_cidrs.iter().filter(|n| n.addr().is_ipv6() == v6).map(ToString::to_string).collect();
    let mut lines = vec![
        format!("add table {ip} {TABLE}"),
        format!("delete table {ip} {TABLE}"),
        format!("add table {ip} {TABLE} {{ comment \"Pod network (isopod)\" ; }}"),
        format!(
            "add map {ip} {TABLE} hostports {{ type inet_proto . inet_service : {addr} . inet_service ; }}"
        ),
        format!(
            "add map {ip} {TABLE} hostports-at {{ type {addr} . inet_proto . inet_service : {addr} . inet_service ; }}"
        ),
        format!("add set {ip} {TABLE} hostport-pods {{ type {addr} . {addr} ; }}"),
        format!("add chain {ip} {TABLE} host-ports"),
    ];
    for proto in ["tcp", "udp", "sctp"] {
        for key in [
            format!("{ip} daddr . meta l4proto . {proto} dport map @hostports-at"),
            format!("meta l4proto . {proto} dport map @hostports"),
        ] {
            lines.push(format!("add rule {ip} {TABLE} host-ports dnat {ip} to {key}"));
        }
    }
    let mut chain = |name: &str, hook: &str, rules: &[String]| {
        lines.push(format!("add chain {ip} {TABLE} {name} {{ type {hook} ; }}"));
        lines.extend(rules.iter().map(|rule| format!("add rule {ip} {TABLE} {name} {rule}")));
    };
    let to_node = format!("fib daddr type local {ip} daddr != {loopback} jump host-ports");
    chain(
        "loopback",
        "filter hook prerouting priority -300",
        &[
            format!("iifname != \"lo\" {ip} daddr {loopback} drop"),
            format!("iifname != \"lo\" {ip} saddr {loopback} drop"),
        ],
    );
    // Before kube-proxy's, so that a host port wins over a node port of the same number.
    chain("hostport-prerouting", "nat hook prerouting priority -101", std::slice::from_ref(&to_node));
    chain("hostport-output", "nat hook output priority -101", std::slice::from_ref(&to_node));
    // Neighbours talk through the gateway on purpose; it must not tell them a shorter way.
    chain("redirects", "filter hook output priority 0", &[format!("oifname \"{BRIDGE}\" {redirect} drop")]);
    let mut leaving =
        vec![format!("ct status dnat {ip} saddr . {ip} daddr @hostport-pods masquerade fully-random")];
    if !cluster.is_empty() {
        let cluster = format!("{{ {} }}", cluster.join(", "));
        leaving.push(format!(
            "{ip} saddr {cluster} {ip} daddr != {cluster} {ip} daddr != {multicast} masquerade fully-random"
        ));
    }
    chain("leaving", "nat hook postrouting priority 100", &leaving);
    for line in lines {
        out.push_str(&line);
        out.push('\n');
    }
}

/// Commands that add or delete the host ports of one address.
pub(crate) fn host_ports(verb: &str, pod: IpAddr, lease: &Lease) -> String {
    let ip = if pod.is_ipv6() { "ip6" } else { "ip" };
    let mut out = String::new();
    let ports = lease.host_ports.iter().filter(|p| p.host_ip.is_none_or(|at| same_family(at, pod)));
    for port in ports {
        let value = if verb == "add" { format!(" : {pod} . {}", port.container_port) } else { String::new() };
        let frontend = format!("{} . {}", port.protocol, port.host_port);
        let (map, key) = match port.host_ip.filter(|at| !at.is_unspecified()) {
            None => ("hostports", frontend),
            Some(at) => ("hostports-at", format!("{at} . {frontend}")),
        };
        writeln!(out, "{verb} element {ip} {TABLE} {map} {{ {key}{value} }}").expect("writing to a string");
    }
    if !out.is_empty() {
        writeln!(out, "{verb} element {ip} {TABLE} hostport-pods {{ {pod} . {pod} }}")
            .expect("writing to a string");
    }
    out
}

fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses::LeasedPort;
    use expect_test::expect;

    #[test]
    fn text() {
        let port = |host_ip: Option<&str>| LeasedPort {
            protocol: "tcp".into(),
            container_port: 80,
            host_port: 8080,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        };
        let lease = Lease {
            sandbox_id: "s".into(),
            namespace: "ns".into(),
            name: "web".into(),
            uid: "u".into(),
            link: "isopod0123".into(),
            host_ports: vec![port(None), port(Some("192.0.2.1")), port(Some("::"))],
        };
        let leases = [(IpAddr::from([10, 42, 0, 2]), lease)].into();
        let cluster = ["10.42.0.0/16".parse().unwrap()];
        expect![[r#"
            add table ip isopod-net
            delete table ip isopod-net
            add table ip isopod-net { comment "Pod network (isopod)" ; }
            add map ip isopod-net hostports { type inet_proto . inet_service : ipv4_addr . inet_service ; }
            add map ip isopod-net hostports-at { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service ; }
            add set ip isopod-net hostport-pods { type ipv4_addr . ipv4_addr ; }
            add chain ip isopod-net host-ports
            add rule ip isopod-net host-ports dnat ip to ip daddr . meta l4proto . tcp dport map @hostports-at
            add rule ip isopod-net host-ports dnat ip to meta l4proto . tcp dport map @hostports
            add rule ip isopod-net host-ports dnat ip to ip daddr . meta l4proto . udp dport map @hostports-at
            add rule ip isopod-net host-ports dnat ip to meta l4proto . udp dport map @hostports
            add rule ip isopod-net host-ports dnat ip to ip daddr . meta l4proto . sctp dport map @hostports-at
            add rule ip isopod-net host-ports dnat ip to meta l4proto . sctp dport map @hostports
            add chain ip isopod-net loopback { type filter hook prerouting priority -300 ; }
            add rule ip isopod-net loopback iifname != "lo" ip daddr 127.0.0.0/8 drop
            add rule ip isopod-net loopback iifname != "lo" ip saddr 127.0.0.0/8 drop
            add chain ip isopod-net hostport-prerouting { type nat hook prerouting priority -101 ; }
            add rule ip isopod-net hostport-prerouting fib daddr type local ip daddr != 127.0.0.0/8 jump host-ports
            add chain ip isopod-net hostport-output { type nat hook output priority -101 ; }
            add rule ip isopod-net hostport-output fib daddr type local ip daddr != 127.0.0.0/8 jump host-ports
            add chain ip isopod-net redirects { type filter hook output priority 0 ; }
            add rule ip isopod-net redirects oifname "isopod0" icmp type redirect drop
            add chain ip isopod-net leaving { type nat hook postrouting priority 100 ; }
            add rule ip isopod-net leaving ct status dnat ip saddr . ip daddr @hostport-pods masquerade fully-random
            add rule ip isopod-net leaving ip saddr { 10.42.0.0/16 } ip daddr != { 10.42.0.0/16 } ip daddr != 224.0.0.0/4 masquerade fully-random
            add element ip isopod-net hostports { tcp . 8080 : 10.42.0.2 . 80 }
            add element ip isopod-net hostports-at { 192.0.2.1 . tcp . 8080 : 10.42.0.2 . 80 }
            add element ip isopod-net hostport-pods { 10.42.0.2 . 10.42.0.2 }
        "#]]
        .assert_eq(&full(&Inputs { cluster_cidrs: &cluster, leases: &leases }));
    }
}
