//! The pod network of this node: start, pod range, leases, rules.

use crate::addresses::{Addresses, Lease, gateway};
use crate::{Error, host_ports, links, nft, rules, sysctl};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Configuration of the pod network.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory for what must survive a restart; made if need be.
    pub state_dir: PathBuf,
    /// Address ranges of all pods of the cluster: what goes elsewhere is masqueraded. Empty: nothing is.
    pub cluster_cidrs: Vec<IpNet>,
    /// Ranges of Service addresses. They are routed to the bridge, so that a node without a default route reaches
    /// Services too (the translation happens before the packet leaves). May be empty.
    pub service_cidrs: Vec<IpNet>,
    /// Largest transmission unit of the pods' links in bytes; `None` takes it from the default route's link.
    pub mtu: Option<u32>,
}

/// The pod network. Attach and detach are [`isopod_cri::PodNetwork`]'s.
#[derive(Debug)]
pub struct Network {
    pub(crate) config: Config,
    pub(crate) handle: rtnetlink::Handle,
    addresses: Mutex<Addresses>,
    /// The node's pod ranges, at most one a family; empty until known.
    ranges: watch::Sender<Vec<IpNet>>,
    /// Held while rules are written, so that a full rendering and a change do not overtake each other.
    rules: tokio::sync::Mutex<()>,
    /// Held while the bridge is changed.
    bridge: tokio::sync::Mutex<()>,
    /// Largest transmission unit of pods' links, fixed when the pod range becomes known.
    mtu: AtomicU32,
}

impl Network {
    /// Starts the network, or takes over what an earlier process left. Pods can be attached once the pod range is
    /// known: from the last run, or by [`set_pod_cidrs`](Self::set_pod_cidrs).
    pub async fn start(config: Config) -> Result<Arc<Self>, Error> {
        let addresses = Addresses::open(&config.state_dir.join("addresses"))?;
        sysctl::require("net/ipv4/ip_forward", "1")?;
        if config.cluster_cidrs.iter().any(|net| net.addr().is_ipv6()) {
            sysctl::require("net/ipv6/conf/all/forwarding", "1")?;
        }
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(Error::io("open", "netlink socket"))?;
        tokio::spawn(connection);
        let network = Arc::new(Self {
            addresses: Mutex::new(addresses),
            ranges: watch::channel(Vec::new()).0,
            rules: tokio::sync::Mutex::default(),
            bridge: tokio::sync::Mutex::default(),
            mtu: AtomicU32::new(0),
            handle,
            config,
        });
        network.write_rules().await?;
        if let Some(ranges) = network.saved_ranges() {
            network.set_pod_cidrs(&ranges).await?;
        }
        Ok(network)
    }

    /// Tells the node's pod ranges. Idempotent; a changed range moves the gateway, and pods attached before keep
    /// their addresses but lose their way out, as with any CNI plugin.
    pub async fn set_pod_cidrs(&self, ranges: &[IpNet]) -> Result<(), Error> {
        let ranges: Vec<IpNet> = ranges.iter().map(IpNet::trunc).collect();
        for range in &ranges {
            if range.max_prefix_len() - range.prefix_len() < 2 {
                return Err(Error::BadCidr(range.to_string(), "too small to hold a gateway and a pod"));
            }
        }
        let _guard = self.bridge.lock().await;
        if ranges.is_empty() || *self.ranges.borrow() == ranges {
            return Ok(());
        }
        let gateways: Vec<IpNet> =
            ranges.iter().filter_map(|r| IpNet::new(gateway(*r), r.prefix_len()).ok()).collect();
        let mtu = match self.config.mtu {
            Some(mtu) => mtu,
            None => links::uplink_mtu(&self.handle).await?,
        };
        self.mtu.store(mtu, Ordering::Relaxed);
        let bridge = links::ensure_bridge(&self.handle, &gateways, mtu).await?;
        for service in &self.config.service_cidrs {
            if ranges.iter().any(|r| r.addr().is_ipv4() == service.addr().is_ipv4()) {
                let route = links::route(*service, None, Some(bridge));
                links::add_route(&self.handle, route, &service.to_string()).await?;
            }
        }
        self.save_ranges(&ranges)?;
        tracing::info!(?gateways, "pod network is ready");
        self.ranges.send_replace(ranges);
        Ok(())
    }

    /// The gateway addresses on the bridge; empty until the pod range is known.
    #[must_use]
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.ranges.borrow().iter().map(|range| gateway(*range)).collect()
    }

    /// Waits until the pod range is known and the bridge is up; answers the gateway addresses.
    pub async fn wait_ready(&self) -> Vec<IpAddr> {
        // The sender lives in self, so the wait cannot fail.
        let _ = self.ranges.subscribe().wait_for(|ranges| !ranges.is_empty()).await;
        self.gateways()
    }

    /// The node's pod ranges; empty until known.
    #[must_use]
    pub fn pod_cidrs(&self) -> Vec<IpNet> {
        self.ranges.borrow().clone()
    }

    /// Frees what belongs to no living sandbox: leases, links, host ports. To be called once after a start, with the
    /// ids of the sandboxes the runtime has taken back, before new ones are made.
    pub async fn reconcile(&self, live: &BTreeSet<String>) -> Result<(), Error> {
        let dead: BTreeSet<String> = {
            let addresses = self.addresses();
            let all = addresses.leases().values().map(|lease| lease.sandbox_id.clone());
            all.filter(|id| !live.contains(id)).collect()
        };
        for id in &dead {
            tracing::info!(sandbox = %id, "freeing the addresses of a sandbox that is gone");
            self.addresses().release(id)?;
        }
        let known: BTreeSet<String> =
            self.addresses().leases().values().map(|lease| lease.link.clone()).collect();
        for (name, _, _) in links::with_prefix(&self.handle, "isopod").await? {
            let pod_end = name.len() == 15 && name != crate::BRIDGE;
            if pod_end && !known.contains(&name) {
                links::remove(&self.handle, &name).await?;
            }
        }
        self.write_rules().await
    }

    pub(crate) fn addresses(&self) -> MutexGuard<'_, Addresses> {
        // A panic while the lock was held leaves a lease too many at worst; reconcile frees it.
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn mtu(&self) -> u32 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Takes an address of every range for a sandbox.
    pub(crate) fn lease(&self, lease: &Lease) -> Result<Vec<IpAddr>, Error> {
        let ranges = self.pod_cidrs();
        if ranges.is_empty() {
            return Err(Error::NoPodCidr);
        }
        let mut addresses = self.addresses();
        host_ports::check_free(lease, addresses.leases().values())?;
        let mut taken = Vec::new();
        for range in ranges {
            match addresses.take(range, lease.clone()) {
                Ok(ip) => taken.push(ip),
                Err(error) => {
                    addresses.release(&lease.sandbox_id)?;
                    return Err(error);
                }
            }
        }
        Ok(taken)
    }

    /// Writes all rules afresh.
    pub(crate) async fn write_rules(&self) -> Result<(), Error> {
        let _guard = self.rules.lock().await;
        self.write_rules_locked().await
    }

    async fn write_rules_locked(&self) -> Result<(), Error> {
        let script = rules::full(&rules::Inputs {
            cluster_cidrs: &self.config.cluster_cidrs,
            leases: self.addresses().leases(),
        });
        nft::apply(&script).await
    }

    /// Applies a change of host ports; if the kernel's rules are not what we think, writes all afresh (the leases
    /// already hold the change).
    pub(crate) async fn change_rules(&self, script: &str) -> Result<(), Error> {
        if script.is_empty() {
            return Ok(());
        }
        let _guard = self.rules.lock().await;
        if let Err(error) = nft::apply(script).await {
            tracing::warn!(error = %error, "host port rules were not as expected; writing all afresh");
            self.write_rules_locked().await?;
        }
        Ok(())
    }

    fn range_file(&self) -> PathBuf {
        self.config.state_dir.join("pod-cidrs")
    }

    fn saved_ranges(&self) -> Option<Vec<IpNet>> {
        let text = std::fs::read_to_string(self.range_file()).ok()?;
        let ranges: Vec<IpNet> = text.lines().filter_map(|line| line.parse().ok()).collect();
        (!ranges.is_empty()).then_some(ranges)
    }

    fn save_ranges(&self, ranges: &[IpNet]) -> Result<(), Error> {
        let text: String = ranges.iter().map(|range| format!("{range}\n")).collect();
        let path = self.range_file();
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, text).map_err(Error::io("write", &temporary))?;
        std::fs::rename(&temporary, &path).map_err(Error::io("write", &path))
    }
}
