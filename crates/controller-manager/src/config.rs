//! What the control loops can be told, and its limits.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use isopod_reconcile::certificate::{Subject, Usage};
use jiff::Timestamp;

/// Signs the token of a Secret of type `kubernetes.io/service-account-token`.
pub trait TokenSigner: Send + Sync + 'static {
    /// A token without expiry for a service account, bound to the Secret it is stored in.
    fn sign(&self, namespace: &str, account: &str, account_uid: &str, secret: &str)
    -> Result<String, String>;
}

/// The authorities behind the signers of certificate requests.
pub trait CertificateSigner: Send + Sync + 'static {
    /// What a request (PEM, PKCS#10) asks to be named.
    fn subject(&self, request: &[u8]) -> Result<Subject, String>;
    /// The certificate (PEM) for a request whose content was judged; `None` if the authority of this signer is not
    /// at hand.
    fn sign(
        &self,
        signer: &str,
        request: &[u8],
        usage: Usage,
        life: Duration,
        now: Timestamp,
    ) -> Result<Option<String>, String>;
}

/// Leader election by a Lease.
#[derive(Clone, Debug)]
pub struct LeaderElection {
    /// Name of this process among its rivals; must be unique.
    pub identity: String,
    /// Namespace of the Lease (upstream: kube-system).
    pub namespace: String,
    /// Name of the Lease (upstream: kube-controller-manager).
    pub name: String,
    /// Seconds a lease is valid without renewal (upstream: 15 s).
    pub lease_duration: Duration,
    /// Time after which a leader that cannot renew gives up (upstream: 10 s).
    pub renew_deadline: Duration,
    /// Time between tries (upstream: 2 s).
    pub retry_period: Duration,
}

impl LeaderElection {
    /// Upstream's defaults for an identity.
    pub fn new(identity: impl Into<String>) -> Self {
        Self {
            identity: identity.into(),
            namespace: "kube-system".to_owned(),
            name: "kube-controller-manager".to_owned(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// Everything the control loops can be told. Field defaults are upstream's.
#[derive(Clone)]
pub struct Config {
    /// Controllers to run, by upstream's names: `*` for all, `-name` to leave one out.
    pub controllers: Vec<String>,
    /// Elect a leader first; `None` starts at once.
    pub leader_elect: Option<LeaderElection>,
    /// Give nodes pod CIDRs out of `cluster_cidrs`.
    pub allocate_node_cidrs: bool,
    /// Address ranges for pods: one, or one of each family.
    pub cluster_cidrs: Vec<IpNet>,
    /// Prefix length of a node's IPv4 range (24).
    pub node_cidr_mask_size_ipv4: u8,
    /// Prefix length of a node's IPv6 range (64).
    pub node_cidr_mask_size_ipv6: u8,
    /// Ranges of Service addresses; no node gets a range that overlaps them.
    pub service_cidrs: Vec<IpNet>,
    /// How often node health is looked at (5 s). In memory only.
    pub node_monitor_period: Duration,
    /// Silence after which a node is unknown (50 s).
    pub node_monitor_grace_period: Duration,
    /// Silence after which a node that never reported is unknown (60 s).
    pub node_startup_grace_period: Duration,
    /// Nodes tainted for eviction a second while a zone is healthy (0.1).
    pub node_eviction_rate: f64,
    /// The same while a large zone is unhealthy (0.01).
    pub secondary_node_eviction_rate: f64,
    /// Nodes from which a zone counts as large (50).
    pub large_cluster_size_threshold: usize,
    /// Share of unready nodes from which a zone counts as unhealthy (0.55).
    pub unhealthy_zone_threshold: f64,
    /// Finished pods kept in the cluster before the oldest are deleted (12,500); zero or less keeps all.
    pub terminated_pod_gc_threshold: i64,
    /// PEM of the CA that signs the API server's certificate, published in every namespace.
    pub root_ca: Option<String>,
    /// Signer for tokens in Secrets; without it that controller does not run.
    pub token_signer: Option<Arc<dyn TokenSigner>>,
    /// Signs certificate requests; without it they are neither approved nor signed.
    pub certificate_signer: Option<Arc<dyn CertificateSigner>>,
    /// Longest life of a certificate that is signed (a year).
    pub certificate_life: Duration,
    /// Keys of one controller that are worked on at once, for the busy controllers (5).
    pub concurrent_syncs: usize,
    /// Workers of the garbage collector (20).
    pub concurrent_gc_syncs: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            controllers: vec!["*".to_owned()],
            leader_elect: None,
            allocate_node_cidrs: false,
            cluster_cidrs: Vec::new(),
            node_cidr_mask_size_ipv4: 24,
            node_cidr_mask_size_ipv6: 64,
            service_cidrs: Vec::new(),
            node_monitor_period: Duration::from_secs(5),
            node_monitor_grace_period: Duration::from_secs(50),
            node_startup_grace_period: Duration::from_secs(60),
            node_eviction_rate: 0.1,
            secondary_node_eviction_rate: 0.01,
            large_cluster_size_threshold: 50,
            unhealthy_zone_threshold: 0.55,
            terminated_pod_gc_threshold: 12_500,
            root_ca: None,
            token_signer: None,
            certificate_signer: None,
            certificate_life: Duration::from_secs(365 * 24 * 60 * 60),
            concurrent_syncs: 5,
            concurrent_gc_syncs: 20,
        }
    }
}

/// Why the control loops could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the configuration has no meaning.
    #[error("invalid configuration: {0}")]
    Config(String),
    /// Another process took the lease.
    #[error("lost the leader election")]
    LostLease,
}

impl Config {
    /// Checks what cannot work.
    pub fn validate(&self) -> Result<(), Error> {
        let fail = |text: String| Err(Error::Config(text));
        if self.allocate_node_cidrs && self.cluster_cidrs.is_empty() {
            return fail("node CIDRs cannot be allocated without a cluster CIDR".to_owned());
        }
        if self.cluster_cidrs.len() > 2 {
            return fail(format!("at most two cluster CIDRs, got {}", self.cluster_cidrs.len()));
        }
        for cidr in &self.cluster_cidrs {
            let mask = match cidr {
                IpNet::V4(_) => self.node_cidr_mask_size_ipv4,
                IpNet::V6(_) => self.node_cidr_mask_size_ipv6,
            };
            if mask < cidr.prefix_len() || mask > cidr.max_prefix_len() {
                return fail(format!("node CIDR mask /{mask} does not fit into cluster CIDR {cidr}"));
            }
        }
        if self.node_monitor_period.is_zero() {
            return fail("node monitor period must not be zero".to_owned());
        }
        if self.concurrent_syncs == 0 || self.concurrent_gc_syncs == 0 {
            return fail("concurrent syncs must not be zero".to_owned());
        }
        Ok(())
    }

    /// Whether the controller of this name is to run.
    pub fn enables(&self, name: &str) -> bool {
        let mut all = false;
        for entry in &self.controllers {
            if entry == name {
                return true;
            }
            if entry.strip_prefix('-') == Some(name) {
                return false;
            }
            all |= entry == "*";
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection_of_controllers() {
        let with = |list: &[&str]| Config {
            controllers: list.iter().map(|s| (*s).to_owned()).collect(),
            ..Config::default()
        };
        assert!(with(&["*"]).enables("job-controller"));
        assert!(!with(&["*", "-job-controller"]).enables("job-controller"));
        assert!(with(&["job-controller"]).enables("job-controller"));
        assert!(!with(&["job-controller"]).enables("cronjob-controller"));
    }

    #[test]
    fn masks_must_fit() {
        let config = Config {
            allocate_node_cidrs: true,
            cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
            node_cidr_mask_size_ipv4: 12,
            ..Config::default()
        };
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "invalid configuration: node CIDR mask /12 does not fit into cluster CIDR 10.42.0.0/16"
        );
    }
}
