//! Attaching pods to the network and detaching them.
//!
//! Attach either succeeds whole or leaves nothing; detach succeeds whatever is left to undo.

use crate::addresses::{Lease, gateway, link_name};
use crate::{Error, Network, links, netns, rules, sysctl};
use async_trait::async_trait;
use ipnet::IpNet;
use isopod_cri::{PodNetwork, PodNetworkRequest};
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

/// Name of the link inside the pod.
const POD_LINK: &str = "eth0";

impl Network {
    async fn connect(&self, request: &PodNetworkRequest, lease: &Lease, ips: &[IpAddr]) -> Result<(), Error> {
        let bridge = links::index(&self.handle, crate::BRIDGE).await?;
        let mtu = self.mtu();
        let path = &request.netns_path;
        let pod = netns::within(path, || {
            // A pod must not let its neighbours reconfigure it. Set before the link exists, so that it is born so.
            for scope in ["all", "default"] {
                match sysctl::set(&format!("net/ipv6/conf/{scope}/accept_ra"), "0") {
                    // The kernel has no IPv6: nothing to protect.
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
            rtnetlink::new_connection()
        });
        let (connection, pod, _) = pod.await?;
        tokio::spawn(connection);
        links::up(&pod, "lo").await?;
        let target = File::open(path).map_err(Error::io("open", path))?;
        let veth = links::Veth {
            name: &lease.link,
            peer: POD_LINK,
            peer_netns: target.as_raw_fd(),
            peer_mac: links::mac(ips[0]),
            mtu,
            bridge,
        };
        links::add_veth(&self.handle, veth).await?;
        let eth0 = links::up(&pod, POD_LINK).await?;
        let ranges = self.pod_cidrs();
        let bridge_mac = links::mac(ranges.first().map_or(ips[0], |range| gateway(*range)));
        let pod_mac = links::mac(ips[0]);
        for ip in ips {
            let Some(range) = ranges.iter().find(|range| range.contains(ip)) else { continue };
            let via = gateway(*range);
            links::add_address(&pod, eth0, IpNet::from(*ip)).await?;
            links::add_route(&pod, links::route(IpNet::from(via), None, Some(eth0)), "to the gateway")
                .await?;
            links::add_neighbour(&pod, eth0, via, &bridge_mac).await?;
            links::add_neighbour(&self.handle, bridge, *ip, &pod_mac).await?;
            let everywhere = if via.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            let everywhere: IpNet = everywhere.parse().expect("a literal range");
            links::add_route(&pod, links::route(everywhere, Some(via), Some(eth0)), "by default").await?;
        }
        let ports: String = ips.iter().map(|ip| rules::host_ports("add", *ip, lease)).collect();
        self.change_rules(&ports).await
    }

    async fn disconnect(&self, sandbox_id: &str) -> Result<(), Error> {
        links::remove(&self.handle, &link_name(sandbox_id)).await?;
        let held: Vec<(IpAddr, Lease)> = {
            let addresses = self.addresses();
            let mine = addresses.leases().iter().filter(|(_, lease)| lease.sandbox_id == sandbox_id);
            mine.map(|(ip, lease)| (*ip, lease.clone())).collect()
        };
        if let Some(bridge) = links::find(&self.handle, crate::BRIDGE).await? {
            for (ip, _) in &held {
                links::remove_neighbour(&self.handle, bridge.header.index, *ip).await?;
            }
        }
        let ports: String = held.iter().map(|(ip, lease)| rules::host_ports("delete", *ip, lease)).collect();
        // Rules go before the lease: a rule that outlives it would lead to whoever gets the address next.
        let unruled = if ports.is_empty() { Ok(()) } else { crate::nft::apply(&ports).await };
        self.addresses().release(sandbox_id)?;
        if unruled.is_err() { self.write_rules().await } else { Ok(()) }
    }
}

#[async_trait]
impl PodNetwork for Network {
    async fn attach(&self, request: PodNetworkRequest) -> Result<Vec<IpAddr>, isopod_cri::Error> {
        if !self.addresses().of(&request.sandbox_id).is_empty() {
            // An attempt that was cut short: begin anew.
            self.disconnect(&request.sandbox_id).await?;
        }
        let lease = Lease::new(&request);
        let ips = self.lease(&lease)?;
        if let Err(error) = self.connect(&request, &lease, &ips).await {
            if let Err(second) = self.disconnect(&request.sandbox_id).await {
                tracing::warn!(sandbox = %request.sandbox_id, error = %second.report(), "clean-up after a failed attach");
            }
            return Err(error.into());
        }
        Ok(ips)
    }

    async fn detach(&self, request: PodNetworkRequest) -> Result<(), isopod_cri::Error> {
        Ok(self.disconnect(&request.sandbox_id).await?)
    }

    async fn ready(&self) -> Result<(), isopod_cri::Error> {
        if self.pod_cidrs().is_empty() { Err(Error::NoPodCidr.into()) } else { Ok(()) }
    }

    async fn set_pod_cidr(&self, pod_cidr: &str) -> Result<(), isopod_cri::Error> {
        let parse =
            |text: &str| text.trim().parse().map_err(|_| Error::BadCidr(text.into(), "not an address range"));
        let ranges: Vec<IpNet> =
            pod_cidr.split(',').filter(|t| !t.trim().is_empty()).map(parse).collect::<Result<_, _>>()?;
        Ok(self.set_pod_cidrs(&ranges).await?)
    }
}
