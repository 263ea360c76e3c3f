//! What the API server is told at start.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;

/// Configuration of an [`ApiServer`](crate::ApiServer).
#[derive(Clone, Debug)]
pub struct Config {
    /// Address under which clients in the cluster reach this server; goes into the `kubernetes` Endpoints.
    pub advertise_address: IpAddr,
    /// Port under which clients in the cluster reach this server.
    pub advertise_port: u16,
    /// Ranges that Services get their addresses from: one, or one of each family, the first is primary.
    pub service_cidrs: Vec<IpNet>,
    /// Ports that Services of type NodePort get.
    pub node_ports: RangeInclusive<u16>,
    /// TLS towards kubelets: our client certificate and the CA of their serving certificates; without it
    /// log, exec, attach, portforward and the node proxy answer 503.
    pub kubelet_tls: Option<Arc<rustls::ClientConfig>>,
    /// Authentication.
    pub authentication: crate::authn::Config,
    /// Authorisation.
    pub authorization: crate::authz::Config,
    /// Admission.
    pub admission: crate::admission::Config,
    /// The key prefix in the store, without slashes; upstream's default is `registry`.
    pub storage_prefix: String,
    /// Store objects as JSON and not as protobuf.
    pub storage_json: bool,
    /// Encryption of chosen resources in the store; `None` stores everything in the clear.
    pub encryption: Option<Arc<crate::registry::encryption::Encryption>>,
    /// The audit log; `None` keeps none.
    pub audit: Option<crate::audit::Config>,
    /// Requests that may run at once: the seats that the priority levels share.
    pub seats: u32,
    /// Seconds that events are kept; zero keeps them for ever.
    pub event_ttl_seconds: u32,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No range for Services.
    #[error("service-cluster-ip-range: at least one range is required")]
    NoServiceCidr,
    /// Too many ranges, or two of one family.
    #[error("service-cluster-ip-range: give one range, or one IPv4 and one IPv6 range")]
    ServiceCidrs,
    /// The range has no room for the addresses that every cluster needs.
    #[error("service-cluster-ip-range: {0} is too small, at least 8 addresses are required")]
    ServiceCidrTooSmall(IpNet),
    /// No request could run.
    #[error("max-requests-inflight, max-mutating-requests-inflight: their sum must be at least 1")]
    Seats,
    /// No port left for node ports.
    #[error("service-node-port-range: the range is empty")]
    NodePorts,
}

impl Config {
    /// A configuration with upstream's defaults.
    pub fn new(advertise_address: IpAddr, advertise_port: u16, service_cidr: IpNet) -> Config {
        Config {
            advertise_address,
            advertise_port,
            service_cidrs: vec![service_cidr],
            node_ports: 30_000..=32_767,
            kubelet_tls: None,
            authentication: crate::authn::Config::default(),
            authorization: crate::authz::Config::default(),
            admission: crate::admission::Config::default(),
            storage_prefix: "registry".to_owned(),
            storage_json: false,
            encryption: None,
            audit: None,
            seats: crate::limits::INFLIGHT_READ_MAX + crate::limits::INFLIGHT_WRITE_MAX,
            event_ttl_seconds: 3600,
        }
    }

    /// Checks what can be checked without doing anything.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match self.service_cidrs[..] {
            [] => return Err(ConfigError::NoServiceCidr),
            [_] => {}
            [IpNet::V4(_), IpNet::V6(_)] | [IpNet::V6(_), IpNet::V4(_)] => {}
            _ => return Err(ConfigError::ServiceCidrs),
        }
        for cidr in &self.service_cidrs {
            if cidr.max_prefix_len() - cidr.prefix_len() < 3 {
                return Err(ConfigError::ServiceCidrTooSmall(*cidr));
            }
        }
        if self.seats == 0 {
            return Err(ConfigError::Seats);
        }
        if self.node_ports.is_empty() { Err(ConfigError::NodePorts) } else { Ok(()) }
    }
}
