//! Mends allocations that a crash left between two writes: addresses and ports of no Service, and Services
//! whose address is not reserved.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use isopod_api::Value;
use isopod_api::status::Status;

use super::{cluster_ips, node_ports, text};
use crate::server::ApiServer;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(180);
/// Looks in a row that must find a thing unused before it is released: its Service may be on its way.
const ROUNDS: u32 = 3;

/// Things found unused, and how many looks ago that began.
#[derive(Default)]
pub(crate) struct Suspects {
    addresses: BTreeMap<String, u32>,
    ports: BTreeMap<u16, u32>,
}

/// Keeps a count of those that are still unused and gives those that have been for long enough.
fn ripe<K: Ord + Clone>(suspects: &mut BTreeMap<K, u32>, unused: BTreeSet<K>) -> Vec<K> {
    suspects.retain(|key, _| unused.contains(key));
    for key in unused {
        *suspects.entry(key).or_default() += 1;
    }
    suspects.iter().filter(|(_, n)| **n >= ROUNDS).map(|(key, _)| key.clone()).collect()
}

/// Looks now and then until the server stops.
pub(crate) async fn run(server: Arc<ApiServer>) {
    let mut suspects = Suspects::default();
    loop {
        if let Err(error) = look(&server, &mut suspects).await {
            tracing::warn!(%error, "allocations of Services could not be checked");
        }
        tokio::select! {
            () = server.shutdown().cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

async fn look(server: &ApiServer, suspects: &mut Suspects) -> Result<(), Status> {
    let services = server.cached_objects("", "services", "").await?;
    let addresses = server.cached_objects("networking.k8s.io", "ipaddresses", "").await?;
    let used: BTreeSet<String> = services.iter().flat_map(cluster_ips).collect();
    let reserved: BTreeSet<&str> = addresses.iter().map(|a| text(a, "name")).collect();
    for service in &services {
        for ip in cluster_ips(service).iter().filter(|ip| !reserved.contains(ip.as_str())) {
            if let Ok(address) = ip.parse()
                && let Err(refused) =
                    server.reserve(address, text(service, "namespace"), text(service, "name")).await
            {
                tracing::warn!(ip, %refused, "the address of a Service cannot be reserved");
            }
        }
    }
    let of_services = |a: &&Value| a["spec"]["parentRef"]["resource"] == "services";
    let unused = addresses
        .iter()
        .filter(of_services)
        .map(|a| text(a, "name"))
        .filter(|ip| !used.contains(*ip))
        .map(str::to_owned)
        .collect();
    for ip in ripe(&mut suspects.addresses, unused) {
        server.delete_object("networking.k8s.io", "ipaddresses", "", &ip).await?;
    }
    let used: BTreeSet<u16> = services.iter().flat_map(node_ports).collect();
    let taken = server.with_node_ports(|bitmap| Ok(bitmap.ports())).await?.unwrap_or_default();
    let ripe_ports = ripe(&mut suspects.ports, taken.iter().filter(|p| !used.contains(p)).copied().collect());
    let missing: Vec<u16> = used.into_iter().filter(|p| !taken.contains(p)).collect();
    if !ripe_ports.is_empty() || !missing.is_empty() {
        let changed = server.with_node_ports(|bitmap| {
            ripe_ports.iter().for_each(|p| bitmap.give_back(*p));
            for port in &missing {
                // One outside the range stays with its Service; there is nothing to reserve.
                let _ = bitmap.take(*port);
            }
            Ok(())
        });
        let _ = changed.await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_unused_is_released() {
        let mut suspects = BTreeMap::new();
        let set = |keys: &[u16]| keys.iter().copied().collect::<BTreeSet<_>>();
        assert!(ripe(&mut suspects, set(&[1, 2])).is_empty());
        assert!(ripe(&mut suspects, set(&[1])).is_empty());
        assert_eq!(ripe(&mut suspects, set(&[1, 2])), [1]);
    }
}
