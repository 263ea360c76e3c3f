//! Clients remembered for endpoints that are gone.
//!
//! The kernel fills the maps `affinity-PROTOCOL` by itself, so what is in it has to be read back: the text of
//! `nft list map` goes in, the commands that delete stale entries come out.

use crate::TABLE;
use crate::input::{Family, Protocol};
use crate::model::Tuple;
use crate::ruleset::Ruleset;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

/// The map of a protocol.
#[must_use]
pub fn map_name(protocol: Protocol) -> String {
    format!("affinity-{}", protocol.word())
}

/// Commands that delete the entries in `listing`, that of the map of `protocol`, whose endpoint is not in force at their frontend. Empty when there
/// are none.
#[must_use]
pub fn delete_stale(rules: &Ruleset, family: Family, protocol: Protocol, listing: &str) -> String {
    let body =
        listing.split_once("elements = {").map_or("", |(_, rest)| rest.split('}').next().unwrap_or(""));
    let mut out = String::new();
    for entry in body.split(',') {
        let Some((tuple, client, endpoint)) = parse(entry, protocol) else { continue };
        if !rules.endpoints_at(&rules.frontend(tuple)).contains(&endpoint) {
            let (word, Tuple { ip, port, .. }, map) = (family.word(), tuple, map_name(protocol));
            writeln!(out, "delete element {word} {TABLE} {map} {{ {ip} . {port} . {client} }}")
                .expect("writing to a string does not fail");
        }
    }
    out
}

/// Reads `10.43.0.1 . 80 . 10.42.0.9 timeout 3h expires 2h59m : 10.42.0.5 . 8080`.
fn parse(entry: &str, protocol: Protocol) -> Option<(Tuple, IpAddr, SocketAddr)> {
    let (key, value) = entry.split_once(" : ")?;
    let mut key = key.split(" . ").map(str::trim);
    let ip = key.next()?.parse().ok()?;
    let port = key.next()?.parse().ok()?;
    let client = key.next()?.split_whitespace().next()?.parse().ok()?;
    let (address, number) = value.split_once(" . ")?;
    let endpoint = SocketAddr::new(address.trim().parse().ok()?, number.trim().parse().ok()?);
    Some((Tuple { ip, protocol, port }, client, endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{Endpoint, NodeView, Service, ServicePort};
    use crate::plan::service_elements;
    use expect_test::expect;

    #[test]
    fn entries_of_endpoints_that_are_gone() {
        let service = Service {
            cluster_ips: vec![[10, 43, 0, 80].into()],
            affinity_seconds: Some(10),
            ports: vec![ServicePort {
                name: String::new(),
                protocol: Protocol::Tcp,
                port: 80,
                node_port: Some(30080),
            }],
            ..Service::default()
        };
        let endpoint = Endpoint {
            port_name: String::new(),
            protocol: Protocol::Tcp,
            address: [10, 42, 0, 5].into(),
            port: 8080,
            ready: true,
            serving: true,
            terminating: false,
            local: false,
            node_hint: None,
            zone_hint: None,
        };
        let mut rules = Ruleset::new(NodeView::default());
        let elements = service_elements(&service, &[endpoint], rules.view());
        rules.set_service("ns/web", elements);
        let listing = "table ip isopod-proxy {
	map affinity-tcp {
		typeof ip daddr . tcp dport . ip saddr : ip daddr . tcp dport
		size 1048576
		flags dynamic,timeout
		elements = { 10.43.0.80 . 80 . 10.42.0.9 timeout 10s expires 9s100ms : 10.42.0.5 . 8080,
			     10.43.0.80 . 80 . 10.42.0.10 timeout 10s expires 9s100ms : 10.42.0.6 . 8080,
			     192.0.2.1 . 30080 . 192.0.2.9 timeout 10s expires 3s : 10.42.0.5 . 8080,
			     192.0.2.1 . 30080 . 192.0.2.8 timeout 10s expires 3s : 10.42.0.7 . 8080,
			     10.43.0.99 . 53 . 10.42.0.9 timeout 10s expires 3s : 10.42.0.5 . 8080 }
	}
}
";
        expect![[r#"
            delete element ip isopod-proxy affinity-tcp { 10.43.0.80 . 80 . 10.42.0.10 }
            delete element ip isopod-proxy affinity-tcp { 192.0.2.1 . 30080 . 192.0.2.8 }
            delete element ip isopod-proxy affinity-tcp { 10.43.0.99 . 53 . 10.42.0.9 }
        "#]]
        .assert_eq(&delete_stale(&rules, Family::V4, Protocol::Tcp, listing));
        assert_eq!(
            delete_stale(
                &rules,
                Family::V4,
                Protocol::Tcp,
                "table ip isopod-proxy {\n\tmap affinity-tcp {\n\t}\n}\n"
            ),
            ""
        );
    }
}
