//! kube-proxy's configuration.

use crate::Error;
use ipnet::IpNet;
use std::net::SocketAddr;
use std::time::Duration;

/// Which of the node's addresses answer on node ports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NodePortAddresses {
    /// The addresses the node object names (upstream's `primary`, the default of its nftables mode).
    #[default]
    Primary,
    /// Every local address but loopback.
    All,
}

/// Configuration of kube-proxy; the fields are upstream's where upstream has them.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the node object (`hostnameOverride`).
    pub node_name: String,
    /// Ranges of pod addresses (`clusterCIDR`). Traffic to a cluster IP from elsewhere is masqueraded.
    pub cluster_cidrs: Vec<IpNet>,
    /// Ranges of cluster IPs. Packets to one that no Service has are dropped. May be empty: then they leave the node.
    pub service_cidrs: Vec<IpNet>,
    /// Masquerade all traffic to cluster IPs.
    pub masquerade_all: bool,
    /// Bit of the packet mark used for masquerading, 0–31. 14 as upstream.
    pub masquerade_bit: u8,
    /// Addresses for node ports.
    pub node_port_addresses: NodePortAddresses,
    /// Whether Services of IPv6 are served too.
    pub ipv6: bool,
    /// Shortest time between two transactions; changes that come sooner are handled together.
    pub min_sync_period: Duration,
    /// How often it is checked that the rules are still there. Zero: never.
    pub check_period: Duration,
    /// Where `/healthz` and `/livez` are served; `None`: nowhere.
    pub healthz_bind_address: Option<SocketAddr>,
    /// Where `/metrics` is served; `None`: nowhere.
    pub metrics_bind_address: Option<SocketAddr>,
}

impl Config {
    /// The defaults, for a node of that name.
    #[must_use]
    pub fn new(node_name: impl Into<String>) -> Self {
        Self {
            node_name: node_name.into(),
            cluster_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            masquerade_all: false,
            masquerade_bit: 14,
            node_port_addresses: NodePortAddresses::default(),
            ipv6: false,
            min_sync_period: Duration::from_millis(50),
            check_period: Duration::from_secs(60),
            healthz_bind_address: Some(([0, 0, 0, 0], 10256).into()),
            metrics_bind_address: Some(([127, 0, 0, 1], 10249).into()),
        }
    }

    /// Checks the fields.
    pub fn validate(&self) -> Result<(), Error> {
        if self.node_name.is_empty() {
            return Err(Error::Config("nodeName: must not be empty".into()));
        }
        if self.masquerade_bit > 31 {
            return Err(Error::Config(format!(
                "masqueradeBit: {} is not within the range [0, 31]",
                self.masquerade_bit
            )));
        }
        Ok(())
    }
}
