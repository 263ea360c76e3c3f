//! `isopod kube-controller-manager`.

use super::certificate_signer::Authorities;
use super::serving::{self, ServingFlags};
use super::token_signer::Signer;
use anyhow::{Context, Result, bail};
use clap::Args;
use isopod_apiserver::authn::ServiceAccountTokens;
use isopod_client::Informers;
use isopod_controller_manager::{CertificateSigner, Config, LeaderElection, TokenSigner};
use isopod_pki::Authority;
use std::path::PathBuf;
use std::sync::Arc;

/// Upstream's port of health and metrics.
const PORT: u16 = 10257;

/// Upstream's flags that are supported.
#[derive(Args, Debug, Clone)]
pub(crate) struct Flags {
    /// How to reach the API server
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Controllers to run: * for all, name to add one, -name to leave one out
    #[arg(long, value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    controllers: Vec<String>,
    /// Give nodes ranges of pod addresses
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, default_value_t = false, action = clap::ArgAction::Set)]
    allocate_node_cidrs: bool,
    /// Range of pod addresses
    #[arg(long, value_delimiter = ',')]
    cluster_cidr: Vec<ipnet::IpNet>,
    /// Prefix length of a node's range
    #[arg(long, default_value_t = 24)]
    node_cidr_mask_size: u8,
    /// Range of Service addresses
    #[arg(long, value_delimiter = ',')]
    service_cluster_ip_range: Vec<ipnet::IpNet>,
    /// CA published to pods
    #[arg(long)]
    root_ca_file: Option<PathBuf>,
    /// Key that signs the tokens in Secrets of type kubernetes.io/service-account-token
    #[arg(long)]
    service_account_private_key_file: Option<PathBuf>,
    /// CA that signs certificate requests
    #[arg(long)]
    cluster_signing_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long)]
    cluster_signing_key_file: Option<PathBuf>,
    /// CA of clients of the API server, instead of that one
    #[arg(long)]
    cluster_signing_kube_apiserver_client_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long)]
    cluster_signing_kube_apiserver_client_key_file: Option<PathBuf>,
    /// CA of kubelets as clients, instead of that one
    #[arg(long)]
    cluster_signing_kubelet_client_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long)]
    cluster_signing_kubelet_client_key_file: Option<PathBuf>,
    /// CA of kubelets as servers, instead of that one
    #[arg(long)]
    cluster_signing_kubelet_serving_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long)]
    cluster_signing_kubelet_serving_key_file: Option<PathBuf>,
    /// Longest life of certificates that are signed
    #[arg(long, default_value = "8760h", value_parser = crate::config::duration)]
    cluster_signing_duration: std::time::Duration,
    /// Elect a leader before doing anything
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    leader_elect: bool,
    /// Silence after which a node is unknown, such as 50s
    #[arg(long, default_value = "50s", value_parser = crate::config::duration)]
    node_monitor_grace_period: std::time::Duration,
    /// How often node health is looked at, such as 5s
    #[arg(long, default_value = "5s", value_parser = crate::config::duration)]
    node_monitor_period: std::time::Duration,
    /// Finished pods kept before the oldest are deleted
    #[arg(long, default_value_t = 12_500)]
    terminated_pod_gc_threshold: i64,
    /// Give each controller its own service account
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, default_value_t = false, action = clap::ArgAction::Set)]
    use_service_account_credentials: bool,
    #[command(flatten)]
    serving: ServingFlags,
}

/// The authorities that the flags name; `None` if they name none.
fn authorities(flags: &Flags) -> Result<Option<Authorities>> {
    let load = |flag: &str, cert: &Option<PathBuf>, key: &Option<PathBuf>| match (cert, key) {
        (None, None) => Ok(None),
        (Some(cert), Some(key)) => Authority::from_files(cert, key)
            .map(|authority| Some(Arc::new(authority)))
            .with_context(|| format!("--{flag}-cert-file, --{flag}-key-file")),
        _ => bail!("--{flag}-cert-file and --{flag}-key-file go together"),
    };
    let f = flags;
    let all = load("cluster-signing", &f.cluster_signing_cert_file, &f.cluster_signing_key_file)?;
    let of = |signer: &str, cert, key| {
        Ok::<_, anyhow::Error>(load(&format!("cluster-signing-{signer}"), cert, key)?.or_else(|| all.clone()))
    };
    let authorities = Authorities {
        client: of(
            "kube-apiserver-client",
            &f.cluster_signing_kube_apiserver_client_cert_file,
            &f.cluster_signing_kube_apiserver_client_key_file,
        )?,
        kubelet_client: of(
            "kubelet-client",
            &f.cluster_signing_kubelet_client_cert_file,
            &f.cluster_signing_kubelet_client_key_file,
        )?,
        kubelet_serving: of(
            "kubelet-serving",
            &f.cluster_signing_kubelet_serving_cert_file,
            &f.cluster_signing_kubelet_serving_key_file,
        )?,
    };
    let any = [&authorities.client, &authorities.kubelet_client, &authorities.kubelet_serving];
    Ok(any.iter().any(|a| a.is_some()).then_some(authorities))
}

/// Runs the part.
pub(crate) async fn run(flags: Flags) -> Result<()> {
    let root_ca = flags.root_ca_file.as_deref().map(|p| super::read("root-ca-file", p)).transpose()?;
    let token_signer = match &flags.service_account_private_key_file {
        Some(path) => {
            let key = super::read("service-account-private-key-file", path)?;
            // The issuer of these tokens does not depend on how the API server is called.
            let tokens = ServiceAccountTokens::new("", &[], &key, &[])
                .with_context(|| format!("--service-account-private-key-file: {}", path.display()))?;
            Some(Arc::new(Signer::new(tokens)) as Arc<dyn TokenSigner>)
        }
        None => None,
    };
    let authorities = authorities(&flags)?;
    let certificate_signer = authorities.map(|a| Arc::new(a) as Arc<dyn CertificateSigner>);
    let config = Config {
        controllers: flags.controllers,
        leader_elect: if flags.leader_elect {
            Some(LeaderElection::new(super::lease_identity()?))
        } else {
            None
        },
        allocate_node_cidrs: flags.allocate_node_cidrs,
        cluster_cidrs: flags.cluster_cidr,
        node_cidr_mask_size_ipv4: flags.node_cidr_mask_size,
        service_cidrs: flags.service_cluster_ip_range,
        node_monitor_period: flags.node_monitor_period,
        node_monitor_grace_period: flags.node_monitor_grace_period,
        terminated_pod_gc_threshold: flags.terminated_pod_gc_threshold,
        root_ca,
        token_signer,
        certificate_signer,
        certificate_life: flags.cluster_signing_duration,
        ..Config::default()
    };
    config.validate()?;
    let client = super::client(&flags.kubeconfig).await?;
    let own = flags.use_service_account_credentials;
    let path = flags.kubeconfig.clone();
    let serving_flags = flags.serving.clone();
    super::until_signal(async |shutdown| {
        serving::start(&serving_flags, PORT, client.clone(), shutdown.clone()).await?;
        let clients: isopod_controller_manager::Clients = if own {
            let accounts = super::accounts::Accounts::new(client.clone(), &path, shutdown.clone()).await?;
            Arc::new(move |name: &str| accounts.client(name))
        } else {
            let client = client.clone();
            Arc::new(move |_: &str| client.clone())
        };
        let informers = Informers::new(client.clone(), shutdown.clone());
        Ok(isopod_controller_manager::run(config, clients, informers, shutdown).await?)
    })
    .await
    .context("kube-controller-manager")
}
