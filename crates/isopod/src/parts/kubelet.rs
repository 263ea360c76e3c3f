//! `isopod kubelet`: kubelet with the built-in runtime and pod network.

use anyhow::{Context, Result, bail};
use clap::Args;
use isopod_pki::tls::ServingCertificate;
use k8s_openapi::api::core::v1::Taint;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use tokio::task::JoinSet;

/// Upstream's flags that are supported, and `--run-dir` and `--cluster-cidr` for the built-in runtime and network.
#[derive(Args, Debug, Clone)]
pub(crate) struct Flags {
    /// How to reach the API server
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Name of the node
    #[arg(long)]
    hostname_override: Option<String>,
    /// Addresses of the node
    #[arg(long, value_delimiter = ',')]
    node_ip: Vec<IpAddr>,
    /// Where everything is kept
    #[arg(long, default_value = crate::config::DATA_DIR)]
    root_dir: PathBuf,
    /// Where state that need not survive a reboot is kept
    #[arg(long, default_value = crate::config::RUN_DIR)]
    run_dir: PathBuf,
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    address: IpAddr,
    /// Port to listen on
    #[arg(long, default_value_t = 10250)]
    port: u16,
    /// Serving certificate
    #[arg(long)]
    tls_cert_file: PathBuf,
    /// Its key
    #[arg(long)]
    tls_private_key_file: PathBuf,
    /// CA of client certificates
    #[arg(long)]
    client_ca_file: PathBuf,
    /// Addresses of cluster DNS
    #[arg(long, value_delimiter = ',')]
    cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Directory of static pod manifests
    #[arg(long)]
    pod_manifest_path: Option<PathBuf>,
    /// Most pods
    #[arg(long, default_value_t = 110)]
    max_pods: u32,
    /// Labels of the node, name=value
    #[arg(long, value_delimiter = ',')]
    node_labels: Vec<String>,
    /// Taints that the node registers with, name=value:effect
    #[arg(long, value_delimiter = ',')]
    register_with_taints: Vec<String>,
    /// Ranges of pod addresses of the whole cluster
    #[arg(long, value_delimiter = ',', default_value = "10.42.0.0/16")]
    cluster_cidr: Vec<ipnet::IpNet>,
    /// Range of Service addresses
    #[arg(long, value_delimiter = ',', default_value = "10.43.0.0/16")]
    service_cluster_ip_range: Vec<ipnet::IpNet>,
    /// Renew the client certificate before it expires, by a certificate request
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    rotate_certificates: bool,
}

fn labels(list: &[String]) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for label in list {
        let (name, value) =
            label.split_once('=').with_context(|| format!("--node-labels: {label:?} is not name=value"))?;
        out.insert(name.to_owned(), value.to_owned());
    }
    Ok(out)
}

fn taints(list: &[String]) -> Result<Vec<Taint>> {
    let mut out = Vec::new();
    for text in list {
        let bad = || format!("--register-with-taints: {text:?} is not name=value:effect");
        let (pair, effect) = text.rsplit_once(':').with_context(bad)?;
        if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
            bail!(bad());
        }
        let (key, value) = pair.split_once('=').map_or((pair, None), |(k, v)| (k, Some(v.to_owned())));
        out.push(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None });
    }
    Ok(out)
}

/// Runs the part.
pub(crate) async fn run(flags: Flags) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("running containers needs root");
    }
    let leaf = super::leaf(
        "tls-cert-file",
        &flags.tls_cert_file,
        "tls-private-key-file",
        &flags.tls_private_key_file,
    )?;
    let name = match &flags.hostname_override {
        Some(name) => name.clone(),
        None => crate::config::hostname()?,
    };
    let node = crate::agent::Node {
        name,
        addresses: if flags.node_ip.is_empty() { vec![crate::config::node_address()] } else { flags.node_ip },
        data_dir: flags.root_dir,
        run_dir: flags.run_dir,
        cluster_cidrs: flags.cluster_cidr,
        service_cidrs: flags.service_cluster_ip_range,
        tls: isopod_kubelet::Tls {
            serving: ServingCertificate::new(&leaf)?,
            client_ca_pem: super::read("client-ca-file", &flags.client_ca_file)?,
        },
        bind_address: flags.address,
        port: flags.port,
        manifests: flags.pod_manifest_path,
        cluster_dns: flags.cluster_dns,
        cluster_domain: flags.cluster_domain,
        labels: labels(&flags.node_labels)?,
        taints: taints(&flags.register_with_taints)?,
        max_pods: flags.max_pods,
    };
    crate::data_dir::prepare(&node.data_dir)?;
    let kubelet_files = node.data_dir.join("kubelet");
    super::until_signal(async |shutdown| {
        let client = if flags.rotate_certificates {
            crate::data_dir::private_directory(&kubelet_files)?;
            super::rotation::client(&flags.kubeconfig, &kubelet_files, shutdown.clone()).await?
        } else {
            super::client(&flags.kubeconfig).await?
        };
        let mut parts = JoinSet::new();
        let _network = crate::agent::start_node(node, client, &mut parts, &shutdown).await?;
        let ended = tokio::select! {
            () = shutdown.cancelled() => None,
            ended = parts.join_next() => ended,
        };
        shutdown.cancel();
        while parts.join_next().await.is_some() {}
        match ended {
            None => Ok(()),
            Some(result) => result.context("a part panicked")?,
        }
    })
    .await
}
