//! Which pod has which port of the node.
//!
//! The scheduler keeps two pods that want one port off one node; static pods and races get past it, so the claim is
//! checked here once more, by the rule the scheduler uses: same protocol, same port, and addresses that overlap.

use crate::Error;
use crate::addresses::{Lease, LeasedPort};
use std::net::IpAddr;

/// Fails if a port `wanted` has is held by another sandbox.
pub fn check_free<'a>(wanted: &Lease, held: impl Iterator<Item = &'a Lease>) -> Result<(), Error> {
    for other in held.filter(|lease| lease.sandbox_id != wanted.sandbox_id) {
        for port in &wanted.host_ports {
            if other.host_ports.iter().any(|theirs| clash(port, theirs)) {
                return Err(Error::HostPortTaken {
                    protocol: match port.protocol.as_str() {
                        "tcp" => "TCP",
                        "udp" => "UDP",
                        _ => "SCTP",
                    },
                    port: port.host_port,
                    holder: format!("{}/{}", other.namespace, other.name),
                });
            }
        }
    }
    Ok(())
}

fn clash(a: &LeasedPort, b: &LeasedPort) -> bool {
    let everywhere = |ip: Option<IpAddr>| ip.is_none_or(|ip| ip.is_unspecified());
    a.protocol == b.protocol
        && a.host_port == b.host_port
        && (everywhere(a.host_ip) || everywhere(b.host_ip) || a.host_ip == b.host_ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(id: &str, port: &str) -> Lease {
        let (protocol, rest) = port.split_once('/').unwrap();
        let (ip, number) =
            rest.rsplit_once('@').map_or((None, rest), |(ip, n)| (Some(ip.parse().unwrap()), n));
        let host_port = number.parse().unwrap();
        Lease {
            sandbox_id: id.into(),
            namespace: "ns".into(),
            name: id.into(),
            uid: String::new(),
            link: String::new(),
            host_ports: vec![LeasedPort {
                protocol: protocol.into(),
                container_port: 80,
                host_port,
                host_ip: ip,
            }],
        }
    }

    #[test]
    fn overlapping_claims() {
        for (a, b, free) in [
            ("tcp/80", "tcp/80", false),
            ("tcp/80", "udp/80", true),
            ("tcp/80", "tcp/81", true),
            ("tcp/192.0.2.1@80", "tcp/192.0.2.2@80", true),
            ("tcp/192.0.2.1@80", "tcp/192.0.2.1@80", false),
            ("tcp/192.0.2.1@80", "tcp/80", false),
            ("tcp/192.0.2.1@80", "tcp/0.0.0.0@80", false),
        ] {
            let other = lease("b", b);
            assert_eq!(check_free(&lease("a", a), std::iter::once(&other)).is_ok(), free, "{a} {b}");
        }
        let own = lease("a", "tcp/80");
        assert!(check_free(&own, std::iter::once(&own)).is_ok());
        let error = check_free(&own, std::iter::once(&lease("b", "tcp/80"))).unwrap_err();
        assert_eq!(error.to_string(), "host port TCP/80 is already used by pod ns/b");
    }
}
