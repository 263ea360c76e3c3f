//! The balancing chains: one for each kind of frontend, protocol and number of endpoints, shared by all Services.
//!
//! A chain `cluster-tcp-3` says "draw a slot of three and translate to the endpoint found there under the packet's
//! own destination". Which endpoints those are is in the maps. There is a chain and a map for each protocol, since
//! nft 1.0.6 (Debian 12) takes no rule whose protocol is not the one that the map was declared by.

use crate::input::{Family, NodeView, Protocol};
use std::fmt;

/// First slot of the endpoints of policy Cluster at a frontend which also has a list of local ones.
pub const CLUSTER_SLOTS: u32 = 65_536;

/// The kinds of frontend, which differ in who is masqueraded and which list of endpoints is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Front {
    /// A cluster IP.
    ClusterIp,
    /// An external or load balancer IP, policy Cluster: the source is hidden, so that answers come back here.
    External,
    /// An external or load balancer IP, policy Local: the source is kept.
    ExternalLocal,
    /// A node port, policy Cluster.
    NodePort,
    /// A node port, policy Local.
    NodePortLocal,
}

impl Front {
    fn word(self) -> &'static str {
        match self {
            Self::ClusterIp => "cluster",
            Self::External => "external",
            Self::ExternalLocal => "extlocal",
            Self::NodePort => "nodeport",
            Self::NodePortLocal => "nodelocal",
        }
    }

    fn is_node_port(self) -> bool {
        matches!(self, Self::NodePort | Self::NodePortLocal)
    }
}

/// A balancing chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain {
    /// Family, that is, table.
    pub family: Family,
    /// Kind of frontend.
    pub front: Front,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Whether a client comes back to the endpoint it had.
    pub affinity: bool,
    /// Endpoints in the slots from 0: the only list, or the local one.
    pub first: u32,
    /// Endpoints in the slots from [`CLUSTER_SLOTS`], for the kinds with two lists; else 0.
    pub second: u32,
}

/// A chain that notes which endpoint a client was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Learn {
    /// Family, that is, table.
    pub family: Family,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Seconds after the last connection for which it is remembered.
    pub seconds: u32,
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let affinity = if self.affinity { "sticky-" } else { "" };
        write!(f, "{}-{affinity}{}-{}", self.front.word(), self.protocol.word(), self.first)?;
        match self.front {
            Front::ExternalLocal | Front::NodePortLocal => write!(f, "-{}", self.second),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Learn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "learn-{}-{}", self.protocol.word(), self.seconds)
    }
}

impl Chain {
    /// The rules of the chain, in order.
    #[must_use]
    pub fn rules(&self, view: &NodeView) -> Vec<String> {
        let ip = self.family.word();
        let pods = cidr_set(view, self.family);
        let mut out = Vec::new();
        match self.front {
            Front::ClusterIp if view.masquerade_all => out.push("jump mark-masquerade".into()),
            Front::ClusterIp => {
                if let Some(pods) = &pods {
                    out.push(format!("{ip} saddr != {pods} jump mark-masquerade"));
                }
            }
            Front::External | Front::NodePort => out.push("jump mark-masquerade".into()),
            Front::ExternalLocal | Front::NodePortLocal => {}
        }
        if self.affinity {
            out.push(self.remembered());
        }
        if self.second > 0 {
            // Pods and the node itself reach an external address as if it were the cluster IP: nobody outside
            // balanced this packet, so there is no reason to insist on this node's endpoints.
            let any = self.draw(self.second, CLUSTER_SLOTS);
            if let Some(pods) = &pods {
                out.push(format!("{ip} saddr {pods} {any}"));
            }
            out.push("fib saddr type local jump mark-masquerade".into());
            out.push(format!("fib saddr type local {any}"));
        }
        if self.first > 0 {
            out.push(self.draw(self.first, 0));
        }
        out
    }

    fn draw(&self, count: u32, offset: u32) -> String {
        let (ip, proto) = (self.family.word(), self.protocol.word());
        let slot = match offset {
            0 => format!("numgen random mod {count}"),
            _ => format!("numgen random mod {count} offset {offset}"),
        };
        if self.front.is_node_port() {
            format!("dnat {ip} to {proto} dport . {slot} map @nodeport-endpoints-{proto}")
        } else {
            format!("dnat {ip} to {ip} daddr . {proto} dport . {slot} map @endpoints-{proto}")
        }
    }

    fn remembered(&self) -> String {
        let (ip, proto) = (self.family.word(), self.protocol.word());
        format!("dnat {ip} to {ip} daddr . {proto} dport . {ip} saddr map @affinity-{proto}")
    }
}

impl Learn {
    /// The rules of the chain, in order. It runs after translation: the packet carries the endpoint, its connection
    /// the frontend. `update` leaves the endpoint of a known client alone and restarts the timeout.
    #[must_use]
    pub fn rules(&self) -> Vec<String> {
        let (ip, proto) = (self.family.word(), self.protocol.word());
        vec![format!(
            "meta l4proto {proto} update @affinity-{proto} {{ ct original {ip} daddr . ct original proto-dst . \
             ct original {ip} saddr timeout {}s : {ip} daddr . {proto} dport }}",
            self.seconds
        )]
    }
}

fn cidr_set(view: &NodeView, family: Family) -> Option<String> {
    let list: Vec<String> = view
        .cluster_cidrs
        .iter()
        .filter(|n| Family::of(n.addr()) == family)
        .map(ToString::to_string)
        .collect();
    (!list.is_empty()).then(|| format!("{{ {} }}", list.join(", ")))
}
