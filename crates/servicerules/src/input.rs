//! What the rules are made from: the parts of Services, EndpointSlices and the node that matter for packets.

use ipnet::IpNet;
use std::net::IpAddr;

/// An address family; each has a table of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The word nft has for it, both as table family and as payload protocol.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    /// The nft data type of its addresses.
    #[must_use]
    pub fn addr_type(self) -> &'static str {
        match self {
            Self::V4 => "ipv4_addr",
            Self::V6 => "ipv6_addr",
        }
    }
}

/// A transport protocol of a Service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All protocols, in the order rules are written.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Reads the API's word for it (`TCP`, `UDP`, `SCTP`); absent means TCP.
    #[must_use]
    pub fn parse(word: Option<&str>) -> Option<Self> {
        match word {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// The word nft has for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Name of the port; empty when the Service has one unnamed port.
    pub name: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port on the cluster, external and load balancer addresses.
    pub port: u16,
    /// Port on the node's addresses, when one is allocated.
    pub node_port: Option<u16>,
}

/// A Service as the packet filter sees it. Headless and ExternalName Services never come this far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    /// Cluster addresses, at most one a family.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Addresses of `status.loadBalancer.ingress` whose `ipMode` is not `Proxy`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`; empty means everyone.
    pub source_ranges: Vec<IpNet>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// Seconds of ClientIP affinity, when that is on.
    pub affinity_seconds: Option<u32>,
    /// `spec.healthCheckNodePort`, when set.
    pub health_check_node_port: Option<u16>,
    /// The ports.
    pub ports: Vec<ServicePort>,
}

/// One endpoint of one Service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Name of the Service port it backs.
    pub port_name: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Address of the pod.
    pub address: IpAddr,
    /// Port on the pod.
    pub port: u16,
    /// Condition `ready` (absent counts as true).
    pub ready: bool,
    /// Condition `serving` (absent counts as `ready`).
    pub serving: bool,
    /// Condition `terminating`.
    pub terminating: bool,
    /// Whether it runs on this node.
    pub local: bool,
    /// Hint for this node: `None` when the endpoint has no node hints, else whether this node is among them.
    pub node_hint: Option<bool>,
    /// Hint for this node's zone: `None` when the endpoint has no zone hints, else whether the zone is among them.
    pub zone_hint: Option<bool>,
}

/// Which of the node's addresses answer on node ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// Only these.
    Only(Vec<IpAddr>),
    /// Every local address but loopback.
    AnyLocal,
}

/// What the rules need to know of the node and of kube-proxy's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Families to write tables for.
    pub families: Vec<Family>,
    /// Source ranges of pods: traffic to a cluster IP from elsewhere is masqueraded. Empty: nobody is.
    pub cluster_cidrs: Vec<IpNet>,
    /// Ranges of cluster IPs: packets to an unallocated one are dropped instead of leaving the node. May be empty.
    pub service_cidrs: Vec<IpNet>,
    /// Masquerade all traffic to cluster IPs.
    pub masquerade_all: bool,
    /// Bit of the packet mark (0–31) that says "masquerade this".
    pub masquerade_bit: u8,
    /// Addresses for node ports.
    pub node_port_addresses: NodePortAddresses,
}

impl Default for NodeView {
    fn default() -> Self {
        Self {
            families: vec![Family::V4],
            cluster_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            masquerade_all: false,
            masquerade_bit: 14,
            node_port_addresses: NodePortAddresses::AnyLocal,
        }
    }
}
