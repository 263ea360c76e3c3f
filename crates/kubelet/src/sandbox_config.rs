//! The CRI configuration of a pod's sandbox.

use isopod_cri::v1;
use isopod_podplan::dns::{self, Resolver};
use isopod_podplan::{cgroup, hosts, resources, spec};
use k8s_openapi::api::core::v1::Pod;

use crate::kubelet::Kubelet;
use crate::{labels, security};

/// The directory of a pod's logs.
pub(crate) fn log_directory(kubelet: &Kubelet, pod: &Pod) -> std::path::PathBuf {
    let m = &pod.metadata;
    let name = format!(
        "{}_{}_{}",
        m.namespace.as_deref().unwrap_or_default(),
        m.name.as_deref().unwrap_or_default(),
        m.uid.as_deref().unwrap_or_default()
    );
    kubelet.config.pod_log_dir.join(name)
}

/// The configuration of the sandbox with that attempt.
pub(crate) fn make(kubelet: &Kubelet, pod: &Pod, attempt: u32) -> Result<v1::PodSandboxConfig, String> {
    let m = &pod.metadata;
    let text = |o: &Option<String>| o.clone().unwrap_or_default();
    let config = &kubelet.config;
    let host = std::fs::read_to_string(&config.resolv_conf).unwrap_or_default();
    let cluster: Vec<String> = config.cluster_dns.iter().map(ToString::to_string).collect();
    let r = dns::resolver(pod, &Resolver::parse(&host), &cluster, &config.cluster_domain);
    let sysctls = spec::of(pod).security_context.as_ref().and_then(|c| c.sysctls.clone());
    let amounts = |l: &resources::Amounts| v1::LinuxContainerResources {
        cpu_shares: cgroup::shares(l.get("cpu").copied().unwrap_or(0)),
        memory_limit_in_bytes: l.get("memory").copied().unwrap_or(0),
        ..v1::LinuxContainerResources::default()
    };
    let limits = cgroup::pod_limits(pod);
    Ok(v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: text(&m.name),
            uid: text(&m.uid),
            namespace: text(&m.namespace),
            attempt,
        }),
        hostname: hosts::kernel_name(pod, &config.cluster_domain)?,
        log_directory: log_directory(kubelet, pod).to_string_lossy().into_owned(),
        dns_config: Some(v1::DnsConfig { servers: r.servers, searches: r.searches, options: r.options }),
        port_mappings: port_mappings(pod),
        labels: labels::of_sandbox(pod),
        annotations: m.annotations.clone().unwrap_or_default(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: kubelet.cgroups.name(pod),
            security_context: Some(security::sandbox(pod)),
            sysctls: sysctls.into_iter().flatten().map(|s| (s.name, s.value)).collect(),
            overhead: Some(v1::LinuxContainerResources::default()),
            resources: Some(v1::LinuxContainerResources {
                cpu_period: cgroup::QUOTA_PERIOD_US,
                cpu_quota: limits.quota_us.max(0),
                memory_limit_in_bytes: limits.memory_bytes,
                ..amounts(&resources::pod_requests(pod))
            }),
        }),
        ..v1::PodSandboxConfig::default()
    })
}

fn port_mappings(pod: &Pod) -> Vec<v1::PortMapping> {
    if spec::host_network(pod) {
        return Vec::new();
    }
    let sidecars = spec::init(pod).iter().filter(|c| spec::is_sidecar(c));
    spec::main(pod)
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .map(|p| v1::PortMapping {
            protocol: match p.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp,
                Some("SCTP") => v1::Protocol::Sctp,
                _ => v1::Protocol::Tcp,
            } as i32,
            container_port: p.container_port,
            host_port: p.host_port.unwrap_or(0),
            host_ip: p.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}
