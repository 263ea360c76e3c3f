//! The elements of sets and maps that carry all that varies, and the values they map to.

use crate::chains::{Chain, Learn};
use crate::input::{Family, Protocol};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};

/// A frontend: address, protocol and port. Ordered by protocol first, since some maps are one a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Address.
    pub ip: IpAddr,
    /// Port.
    pub port: u16,
}

/// A node port in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// Family.
    pub family: Family,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
}

/// An element of a set or map. The variant names the set; the order of variants is the order of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Set `cluster-ips`: every cluster IP in use.
    ClusterIp(IpAddr),
    /// Set `nodeport-ips`: the addresses that answer on node ports.
    NodePortIp(IpAddr),
    /// Set `hairpin`: addresses of endpoints on this node, paired with themselves.
    Hairpin(IpAddr),
    /// Set `firewalled`: load balancer frontends with source ranges.
    Firewalled(Tuple),
    /// Set `firewall-allow`: a source range allowed at such a frontend.
    FirewallAllow(Tuple, IpNet),
    /// Map `endpoints-PROTOCOL`: the endpoint in a slot of a frontend.
    Endpoint(Tuple, u32),
    /// Map `nodeport-endpoints-PROTOCOL`.
    NodePortEndpoint(Port, u32),
    /// Map `affinity-ips`: frontends which learn the client's endpoint.
    AffinityIp(Tuple),
    /// Map `affinity-nodeports`.
    AffinityNodePort(Port),
    /// Map `no-endpoint-services`: frontends nobody serves.
    NoEndpointIp(Tuple),
    /// Map `no-endpoint-nodeports`.
    NoEndpointNodePort(Port),
    /// Map `service-ips`: frontend to chain.
    ServiceIp(Tuple),
    /// Map `service-nodeports`.
    ServiceNodePort(Port),
}

/// What a [`Key`] maps to; `Unit` for the elements of sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// Member of a set.
    Unit,
    /// An endpoint.
    Endpoint(SocketAddr),
    /// Go to a balancing chain.
    Chain(Chain),
    /// Go to a chain that learns affinity.
    Learn(Learn),
    /// Answer with an ICMP error.
    Reject,
    /// Say nothing.
    Drop,
}

impl Key {
    /// The family whose table it lies in.
    #[must_use]
    pub fn family(&self) -> Family {
        match self {
            Self::ClusterIp(ip) | Self::NodePortIp(ip) | Self::Hairpin(ip) => Family::of(*ip),
            Self::Firewalled(t)
            | Self::FirewallAllow(t, _)
            | Self::Endpoint(t, _)
            | Self::AffinityIp(t)
            | Self::NoEndpointIp(t)
            | Self::ServiceIp(t) => Family::of(t.ip),
            Self::NodePortEndpoint(p, _)
            | Self::AffinityNodePort(p)
            | Self::NoEndpointNodePort(p)
            | Self::ServiceNodePort(p) => p.family,
        }
    }

    /// The set or map it lies in.
    #[must_use]
    pub fn set(&self) -> &'static str {
        match self {
            Self::ClusterIp(_) => "cluster-ips",
            Self::NodePortIp(_) => "nodeport-ips",
            Self::Hairpin(_) => "hairpin",
            Self::Firewalled(_) => "firewalled",
            Self::FirewallAllow(..) => "firewall-allow",
            Self::Endpoint(t, _) => match t.protocol {
                Protocol::Tcp => "endpoints-tcp",
                Protocol::Udp => "endpoints-udp",
                Protocol::Sctp => "endpoints-sctp",
            },
            Self::NodePortEndpoint(p, _) => match p.protocol {
                Protocol::Tcp => "nodeport-endpoints-tcp",
                Protocol::Udp => "nodeport-endpoints-udp",
                Protocol::Sctp => "nodeport-endpoints-sctp",
            },
            Self::AffinityIp(_) => "affinity-ips",
            Self::AffinityNodePort(_) => "affinity-nodeports",
            Self::NoEndpointIp(_) => "no-endpoint-services",
            Self::NoEndpointNodePort(_) => "no-endpoint-nodeports",
            Self::ServiceIp(_) => "service-ips",
            Self::ServiceNodePort(_) => "service-nodeports",
        }
    }
}
