//! Direct routes between nodes that share a link layer: `podCIDR via InternalIP` for every other node.
//!
//! Level-triggered: whatever changed, the wanted routes are compared with the kernel's. Only routes that carry our
//! protocol number and a gateway are ours to remove. A node that is not on a common link cannot be reached this way;
//! that is logged, and tried again with the next change.

use crate::{Error, links};
use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often the kernel's routes are compared although no node changed: an interface that went down took its routes
/// with it.
const RESYNC: Duration = Duration::from_secs(60);

/// Changes within this time are handled together.
const SETTLE: Duration = Duration::from_millis(50);

/// Keeps the routes to all other nodes until `shutdown`. Routes stay when it ends: a restart must not cut traffic.
pub async fn run(client: Client, node_name: String, shutdown: CancellationToken) -> Result<(), Error> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::io("open", "netlink socket"))?;
    tokio::spawn(connection);
    let mut events = watcher(Api::<Node>::all(client), watcher::Config::default()).default_backoff().boxed();
    let mut nodes: BTreeMap<String, Vec<(IpNet, IpAddr)>> = BTreeMap::new();
    let mut listed = BTreeMap::new();
    let mut ready = false;
    let mut due = tokio::time::Instant::now() + RESYNC;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep_until(due), if ready => {
                sync(&handle, &nodes, &node_name).await;
                due = tokio::time::Instant::now() + RESYNC;
            }
            event = events.try_next() => match event {
                Err(error) => tracing::debug!(error = %error, "watching nodes"),
                Ok(None) => return Ok(()),
                Ok(Some(event)) => {
                    match event {
                        watcher::Event::Init => listed.clear(),
                        watcher::Event::InitApply(node) => { listed.insert(node.name_any(), pairs(&node)); }
                        watcher::Event::InitDone => { nodes = std::mem::take(&mut listed); ready = true; }
                        watcher::Event::Apply(node) => {
                            // Heartbeats touch nodes all the time; only what routes depend on counts.
                            if nodes.get(&node.name_any()) == Some(&pairs(&node)) { continue; }
                            nodes.insert(node.name_any(), pairs(&node));
                        }
                        watcher::Event::Delete(node) => { nodes.remove(&node.name_any()); }
                    }
                    due = due.min(tokio::time::Instant::now() + SETTLE);
                }
            }
        }
    }
}

/// The pod ranges of a node, each with the node's address of that family.
fn pairs(node: &Node) -> Vec<(IpNet, IpAddr)> {
    let spec = node.spec.as_ref();
    let mut ranges: Vec<&String> = spec.and_then(|s| s.pod_cidrs.as_ref()).into_iter().flatten().collect();
    if ranges.is_empty() {
        ranges.extend(spec.and_then(|s| s.pod_cidr.as_ref()));
    }
    let addresses: Vec<IpAddr> = node
        .status
        .iter()
        .flat_map(|s| s.addresses.iter().flatten())
        .filter(|a| a.type_ == "InternalIP")
        .filter_map(|a| a.address.parse().ok())
        .collect();
    ranges
        .into_iter()
        .filter_map(|text| text.parse::<IpNet>().ok())
        .filter_map(|range| {
            let at = addresses.iter().find(|ip| ip.is_ipv4() == range.addr().is_ipv4())?;
            Some((range.trunc(), *at))
        })
        .collect()
}

async fn sync(handle: &rtnetlink::Handle, nodes: &BTreeMap<String, Vec<(IpNet, IpAddr)>>, own: &str) {
    let wanted: BTreeMap<IpNet, IpAddr> =
        nodes.iter().filter(|(name, _)| *name != own).flat_map(|(_, pairs)| pairs.iter().copied()).collect();
    let installed = match links::routes(handle).await {
        Ok(routes) => routes,
        Err(error) => return tracing::warn!(error = %error.report(), "cannot read the node's routes"),
    };
    let ours: Vec<_> = installed
        .into_iter()
        .filter(|r| r.message.header.protocol == links::ours() && r.via.is_some())
        .collect();
    for old in ours.iter().filter(|r| !wanted.contains_key(&r.to)) {
        report(links::remove_route(handle, old.message.clone(), &old.to.to_string()).await);
    }
    for (range, via) in &wanted {
        if !ours.iter().any(|r| r.to == *range && r.via == Some(*via)) {
            let what = format!("{range} via {via}");
            report(links::add_route(handle, links::route(*range, Some(*via), None), &what).await);
        }
    }
}

fn report(result: Result<(), Error>) {
    if let Err(error) = result {
        tracing::warn!(error = %error.report(), "route between nodes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_match_families() {
        let node: Node = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "n"},
            "spec": {"podCIDR": "10.42.1.0/24", "podCIDRs": ["10.42.1.0/24", "fd42:0:0:1::/64"]},
            "status": {"addresses": [
                {"type": "Hostname", "address": "n"},
                {"type": "InternalIP", "address": "192.0.2.7"},
                {"type": "InternalIP", "address": "2001:db8::7"},
            ]},
        }))
        .unwrap();
        let text: Vec<String> =
            pairs(&node).iter().map(|(range, via)| format!("{range} via {via}")).collect();
        assert_eq!(text, ["10.42.1.0/24 via 192.0.2.7", "fd42:0:0:1::/64 via 2001:db8::7"]);
    }
}
