//! Configuration of the DNS server.

use crate::Error;
use crate::zone::Settings;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Configuration of the DNS server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the node that the server runs on.
    pub node_name: String,
    /// Addresses of the node to listen on: those of the pod network's gateway.
    pub listen: Vec<IpAddr>,
    /// Port to listen on. 0: any, for tests.
    pub port: u16,
    /// Port to try when another program has `port`; `None`: fail.
    pub fallback_port: Option<u16>,
    /// The cluster's domain.
    pub domain: String,
    /// Cluster IP of the Service `kube-system/kube-dns`, which is kept pointing here. `None`: nothing is published.
    pub service_ip: Option<IpAddr>,
    /// Ranges of pods and Services: a reverse look-up of an unknown address in them is answered here, not forwarded.
    pub cluster_cidrs: Vec<IpNet>,
    /// Seconds for which clients may remember an answer.
    pub ttl_seconds: u32,
    /// File that names the servers for other names; read again when it changes.
    pub resolv_conf: PathBuf,
    /// Port for `/metrics` on the listening addresses; `None`: nowhere.
    pub metrics_port: Option<u16>,
}

impl Config {
    /// The defaults, for a server on `listen`.
    #[must_use]
    pub fn new(node_name: impl Into<String>, listen: Vec<IpAddr>) -> Self {
        Self {
            node_name: node_name.into(),
            listen,
            port: 53,
            fallback_port: Some(10_053),
            domain: "cluster.local".into(),
            service_ip: None,
            cluster_cidrs: Vec::new(),
            ttl_seconds: 5,
            resolv_conf: "/etc/resolv.conf".into(),
            metrics_port: Some(9153),
        }
    }

    /// Checks the fields.
    pub fn validate(&self) -> Result<(), Error> {
        if self.listen.is_empty() {
            return Err(Error::Config("listen: must not be empty".into()));
        }
        let label_ok = |label: &str| {
            !label.is_empty()
                && label.len() < 64
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if !self.domain.split('.').all(label_ok) {
            return Err(Error::Config(format!("clusterDomain: {:?} is not a DNS name", self.domain)));
        }
        Ok(())
    }

    pub(crate) fn zone_settings(&self) -> Settings {
        Settings {
            domain: self.domain.to_ascii_lowercase(),
            ttl: self.ttl_seconds,
            service_ip: self.service_ip,
            reverse: self.cluster_cidrs.clone(),
        }
    }

    pub(crate) fn metrics_bind_addresses(&self) -> Vec<SocketAddr> {
        self.metrics_port
            .map_or_else(Vec::new, |port| self.listen.iter().map(|ip| (*ip, port).into()).collect())
    }
}
