//! The kubelet's configuration: plain values, checked once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use isopod_pki::tls::ServingCertificate;
use k8s_openapi::api::core::v1::Taint;

use crate::Error;

/// What the kubelet's HTTPS server shows and whom it trusts.
#[derive(Clone)]
pub struct Tls {
    /// Serving certificate; may be replaced while it is served.
    pub serving: Arc<ServingCertificate>,
    /// Authorities of client certificates, PEM.
    pub client_ca_pem: String,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// When the node counts as short of something, and pods are evicted.
#[derive(Clone, Copy, Debug)]
pub struct Eviction {
    /// Least available memory, in bytes; zero turns it off.
    pub memory_available_bytes: u64,
    /// Least available space of the kubelet's file system, in percent; zero turns it off.
    pub nodefs_available_percent: u8,
    /// Least available space of the image file system, in percent; zero turns it off.
    pub imagefs_available_percent: u8,
    /// Least available process ids, in percent; zero turns it off.
    pub pid_available_percent: u8,
    /// How long a condition stays after its cause went, so that it does not flap.
    pub pressure_transition: Duration,
}

impl Default for Eviction {
    fn default() -> Self {
        Self {
            memory_available_bytes: 100 << 20,
            nodefs_available_percent: 10,
            imagefs_available_percent: 15,
            pid_available_percent: 0,
            pressure_transition: Duration::from_secs(300),
        }
    }
}

/// When unused images are removed.
#[derive(Clone, Copy, Debug)]
pub struct ImageGc {
    /// Use of the image file system, in percent, from which images are removed.
    pub high_percent: u8,
    /// Use, in percent, down to which they are removed.
    pub low_percent: u8,
    /// Images unused for a shorter time stay.
    pub minimum_age: Duration,
}

impl Default for ImageGc {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80, minimum_age: Duration::from_secs(120) }
    }
}

/// Everything that the kubelet is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the Node object; never changes.
    pub node_name: String,
    /// Addresses of the node, the primary first; at least one.
    pub node_ips: Vec<IpAddr>,
    /// State of pods: `<data>/kubelet`.
    pub data_dir: PathBuf,
    /// Volatile state.
    pub run_dir: PathBuf,
    /// Container logs: `<data>/log/pods`.
    pub pod_log_dir: PathBuf,
    /// Address that the HTTPS server listens on.
    pub bind_address: IpAddr,
    /// Port of the HTTPS server; zero takes a free one.
    pub port: u16,
    /// Server certificate and client authorities.
    pub tls: Tls,
    /// Manifests of static pods.
    pub static_pod_dir: Option<PathBuf>,
    /// Addresses of the cluster's DNS; none means that pods use the node's resolver.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster, without dots at its ends.
    pub cluster_domain: String,
    /// The node's resolver configuration.
    pub resolv_conf: PathBuf,
    /// Most pods at once.
    pub max_pods: u32,
    /// Extra labels of the node.
    pub node_labels: BTreeMap<String, String>,
    /// Taints that the node registers with.
    pub register_with_taints: Vec<Taint>,
    /// Eviction thresholds.
    pub eviction: Eviction,
    /// Image garbage collection.
    pub image_gc: ImageGc,
    /// Size, in bytes, from which a container's log is rotated.
    pub container_log_max_bytes: u64,
    /// Most log files of one container instance.
    pub container_log_max_files: usize,
    /// Most images pulled at once.
    pub parallel_image_pulls: usize,
    /// Most processes of one pod; zero or less means no limit.
    pub pod_pids_limit: i64,
    /// Containers without a seccomp profile get the runtime's default one.
    pub seccomp_default: bool,
    /// Cgroup below which `kubepods` is made; empty is the root.
    pub cgroup_root: String,
    /// How often the Lease is renewed.
    pub lease_renew: Duration,
    /// How often the node's state is looked at.
    pub node_status_update: Duration,
    /// How often the node's status is written though nothing changed.
    pub node_status_report: Duration,
}

impl Config {
    /// A configuration with upstream's defaults for what is not named.
    #[must_use]
    pub fn new(node_name: &str, node_ip: IpAddr, data_dir: PathBuf, tls: Tls) -> Self {
        Self {
            node_name: node_name.to_owned(),
            node_ips: vec![node_ip],
            pod_log_dir: data_dir.join("log/pods"),
            data_dir: data_dir.join("kubelet"),
            run_dir: PathBuf::from("/run/isopod"),
            bind_address: IpAddr::from([0, 0, 0, 0]),
            port: 10250,
            tls,
            static_pod_dir: None,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            max_pods: 110,
            node_labels: BTreeMap::new(),
            register_with_taints: Vec::new(),
            eviction: Eviction::default(),
            image_gc: ImageGc::default(),
            container_log_max_bytes: 10 << 20,
            container_log_max_files: 5,
            parallel_image_pulls: 3,
            pod_pids_limit: 4096,
            seccomp_default: true,
            cgroup_root: String::new(),
            lease_renew: Duration::from_secs(10),
            node_status_update: Duration::from_secs(10),
            node_status_report: Duration::from_secs(300),
        }
    }

    /// Checks what would otherwise fail late and far from its cause.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<(), Error> {
        let bad = |text: &str| Err(Error::Config(text.to_owned()));
        if !isopod_api::names::is_dns1123_subdomain(&self.node_name).is_empty() {
            return Err(Error::Config(format!("node name {:?} is not a DNS subdomain", self.node_name)));
        }
        if self.node_ips.is_empty() {
            return bad("no node address");
        }
        if self.max_pods == 0 {
            return bad("max pods must be positive");
        }
        if self.image_gc.low_percent > self.image_gc.high_percent || self.image_gc.high_percent > 100 {
            return bad("image GC thresholds: low must not exceed high, nor high 100");
        }
        if self.container_log_max_files < 2 {
            return bad("container log files must be at least 2");
        }
        if self.parallel_image_pulls == 0 {
            return bad("parallel image pulls must be positive");
        }
        Ok(())
    }

    /// The directory of a pod.
    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid)
    }
}
