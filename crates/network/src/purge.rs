//! Removing every trace of the pod network.

use crate::{Error, TABLE, links, nft};
use std::path::Path;

/// Removes the tables, links, routes and files of the pod network. Goes on after a failure and answers the first.
pub async fn purge(state_dir: &Path) -> Result<(), Error> {
    let mut failures = Vec::new();
    for family in ["ip", "ip6"] {
        // Added first, since deleting what is not there is an error.
        failures.extend(
            nft::apply(&format!("add table {family} {TABLE}\ndelete table {family} {TABLE}\n")).await.err(),
        );
    }
    failures.extend(purge_links().await.err());
    failures.extend(removed(std::fs::remove_dir_all(state_dir.join("addresses")), state_dir).err());
    failures.extend(removed(std::fs::remove_file(state_dir.join("pod-cidrs")), state_dir).err());
    // Only if nothing else lies in it.
    let _ = std::fs::remove_dir(state_dir);
    match failures.into_iter().next() {
        Some(first) => Err(first),
        None => Ok(()),
    }
}

fn removed(result: std::io::Result<()>, path: &Path) -> Result<(), Error> {
    match result {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

async fn purge_links() -> Result<(), Error> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::io("open", "netlink socket"))?;
    tokio::spawn(connection);
    for route in links::routes(&handle).await? {
        if route.message.header.protocol == links::ours() {
            links::remove_route(&handle, route.message.clone(), &route.to.to_string()).await?;
        }
    }
    for (name, _, kind) in links::with_prefix(&handle, "isopod").await? {
        use rtnetlink::packet_route::link::InfoKind;
        if matches!(kind, Some(InfoKind::Veth | InfoKind::Bridge)) {
            links::remove(&handle, &name).await?;
        }
    }
    Ok(())
}
