//! Which endpoints take the traffic of a Service port on this node.
//!
//! The rules are those of upstream's `CategorizeEndpoints`: ready endpoints, narrowed by node hints, else by zone
//! hints, if *every* ready endpoint carries such hints and at least one names this node or zone; when no endpoint is
//! ready, those which are terminating but still serving.

use crate::input::{Endpoint, Family, ServicePort};
use std::net::SocketAddr;

/// The endpoints of one Service port in one family, sorted, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// For traffic under policy Cluster.
    pub cluster: Vec<SocketAddr>,
    /// For traffic under policy Local.
    pub local: Vec<SocketAddr>,
    /// Whether any endpoint in the cluster could serve: tells "drop, others may answer" from "reject".
    pub any: bool,
}

/// Picks the endpoints for `port` in `family`.
#[must_use]
pub fn select(endpoints: &[Endpoint], port: &ServicePort, family: Family) -> Selection {
    let mine: Vec<&Endpoint> = endpoints
        .iter()
        .filter(|e| {
            e.protocol == port.protocol && e.port_name == port.name && Family::of(e.address) == family
        })
        .collect();
    let ready: Vec<&Endpoint> = mine.iter().copied().filter(|e| e.ready).collect();
    let fallback = |e: &&Endpoint| e.serving && e.terminating;
    let cluster = if ready.is_empty() {
        addresses(mine.iter().copied().filter(fallback))
    } else {
        addresses(near(&ready).into_iter())
    };
    let mut local = addresses(ready.iter().copied().filter(|e| e.local));
    if local.is_empty() {
        local = addresses(mine.iter().copied().filter(|e| e.local).filter(fallback));
    }
    Selection { any: !cluster.is_empty() || !local.is_empty(), cluster, local }
}

/// Narrows ready endpoints by their hints.
fn near<'a>(ready: &[&'a Endpoint]) -> Vec<&'a Endpoint> {
    for hint in [(|e: &Endpoint| e.node_hint) as fn(&Endpoint) -> Option<bool>, |e| e.zone_hint] {
        let all_hinted = ready.iter().all(|e| hint(e).is_some());
        let for_us: Vec<&Endpoint> = ready.iter().copied().filter(|e| hint(e) == Some(true)).collect();
        if all_hinted && !for_us.is_empty() {
            return for_us;
        }
    }
    ready.to_vec()
}

fn addresses<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Vec<SocketAddr> {
    let mut out: Vec<SocketAddr> = endpoints.map(|e| SocketAddr::new(e.address, e.port)).collect();
    out.sort_unstable();
    out.dedup();
    out
}

/// Number of endpoints on this node which a health check node port reports: the distinct local addresses that are
/// ready, or serving while they terminate when none is ready.
#[must_use]
pub fn local_endpoint_count(endpoints: &[Endpoint]) -> usize {
    let count = |wanted: fn(&Endpoint) -> bool| {
        let mut ips: Vec<_> = endpoints.iter().filter(|e| e.local && wanted(e)).map(|e| e.address).collect();
        ips.sort_unstable();
        ips.dedup();
        ips.len()
    };
    match count(|e| e.ready) {
        0 => count(|e| e.serving && e.terminating),
        n => n,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::Protocol;

    /// `a=10.0.0.1 rsl` style: letters are r(eady) s(erving) t(erminating) l(ocal) n/N (node hint no/yes) z/Z (zone).
    fn endpoint(last: u8, flags: &str) -> Endpoint {
        let hint = |no: char, yes: char| flags.contains([no, yes]).then(|| flags.contains(yes));
        Endpoint {
            port_name: String::new(),
            protocol: Protocol::Tcp,
            address: [10, 0, 0, last].into(),
            port: 80,
            ready: flags.contains('r'),
            serving: flags.contains('r') || flags.contains('s'),
            terminating: flags.contains('t'),
            local: flags.contains('l'),
            node_hint: hint('n', 'N'),
            zone_hint: hint('z', 'Z'),
        }
    }

    fn check(flags: &[&str], cluster: &[u8], local: &[u8]) {
        let endpoints: Vec<_> = flags.iter().zip(1..).map(|(f, n)| endpoint(n, f)).collect();
        let port = ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, node_port: None };
        let got = select(&endpoints, &port, Family::V4);
        let last = |list: &[SocketAddr]| -> Vec<u8> {
            list.iter().map(|a| if let SocketAddr::V4(a) = a { a.ip().octets()[3] } else { 0 }).collect()
        };
        assert_eq!((last(&got.cluster), last(&got.local)), (cluster.to_vec(), local.to_vec()), "{flags:?}");
    }

    #[test]
    fn readiness_and_termination() {
        check(&["r", "r", ""], &[1, 2], &[]);
        check(&["rl", "r"], &[1, 2], &[1]);
        check(&["st", "r"], &[2], &[]);
        check(&["st", "t", ""], &[1], &[]);
        check(&["stl", "r"], &[2], &[1]);
        check(&["", ""], &[], &[]);
    }

    #[test]
    fn hints() {
        check(&["rZ", "rz"], &[1], &[]);
        check(&["rz", "rz"], &[1, 2], &[]);
        check(&["rZ", "r"], &[1, 2], &[]);
        check(&["rNZ", "rnZ"], &[1], &[]);
        check(&["rnZ", "rnz"], &[1], &[]);
        check(&["rZ", "rzl"], &[1], &[2]);
    }

    #[test]
    fn health_counts_addresses() {
        assert_eq!(local_endpoint_count(&[endpoint(1, "rl"), endpoint(1, "rl"), endpoint(2, "r")]), 1);
        assert_eq!(local_endpoint_count(&[endpoint(1, "stl")]), 1);
        assert_eq!(local_endpoint_count(&[endpoint(1, "l")]), 0);
    }
}
