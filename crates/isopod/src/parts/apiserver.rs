//! `isopod kube-apiserver`.

use anyhow::{Context, Result, bail};
use clap::Args;
use isopod_apiserver::ApiServer;
use isopod_apiserver::authn::ServiceAccountTokens;
use isopod_pki::tls::{Clients, ServingCertificate};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Upstream's flags that are supported.
#[derive(Args, Debug, Clone)]
pub(crate) struct Flags {
    /// URLs of etcd
    #[arg(long, value_delimiter = ',', required = true)]
    etcd_servers: Vec<String>,
    /// CA of etcd
    #[arg(long)]
    etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd
    #[arg(long)]
    etcd_certfile: Option<PathBuf>,
    /// Its key
    #[arg(long)]
    etcd_keyfile: Option<PathBuf>,
    /// First part of all keys in etcd
    #[arg(long, default_value = "/registry")]
    etcd_prefix: String,
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    bind_address: IpAddr,
    /// Port to listen on
    #[arg(long, default_value_t = 6443)]
    secure_port: u16,
    /// Address under which the cluster reaches this server
    #[arg(long)]
    advertise_address: Option<IpAddr>,
    /// Serving certificate
    #[arg(long)]
    tls_cert_file: PathBuf,
    /// Its key
    #[arg(long)]
    tls_private_key_file: PathBuf,
    /// CA of client certificates
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
    /// CA of front proxies
    #[arg(long)]
    requestheader_client_ca_file: Option<PathBuf>,
    /// Common names that front proxies may have
    #[arg(long, value_delimiter = ',')]
    requestheader_allowed_names: Vec<String>,
    /// Issuer of service account tokens
    #[arg(long)]
    service_account_issuer: String,
    /// Key that signs service account tokens
    #[arg(long)]
    service_account_signing_key_file: PathBuf,
    /// Keys that verify service account tokens
    #[arg(long, value_delimiter = ',')]
    service_account_key_file: Vec<PathBuf>,
    /// Audiences of this server
    #[arg(long, value_delimiter = ',')]
    api_audiences: Vec<String>,
    /// Range of Service addresses
    #[arg(long, value_delimiter = ',', default_value = "10.0.0.0/24")]
    service_cluster_ip_range: Vec<ipnet::IpNet>,
    /// Ports that Services get on nodes
    #[arg(long, default_value = "30000-32767", value_parser = port_range)]
    service_node_port_range: std::ops::RangeInclusive<u16>,
    /// Client certificate for kubelets
    #[arg(long)]
    kubelet_client_certificate: Option<PathBuf>,
    /// Its key
    #[arg(long)]
    kubelet_client_key: Option<PathBuf>,
    /// CA of kubelets
    #[arg(long)]
    kubelet_certificate_authority: Option<PathBuf>,
    /// Life of events, such as 1h
    #[arg(long, default_value = "1h", value_parser = crate::config::duration)]
    event_ttl: std::time::Duration,
    /// How requests are authorised: Node and RBAC are on, and nothing else is to be had
    #[arg(long, value_delimiter = ',', default_value = "Node,RBAC")]
    authorization_mode: Vec<String>,
    /// Allow privileged containers (always so; Pod Security admission decides)
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, default_value_t = true, action = clap::ArgAction::Set)]
    allow_privileged: bool,
    #[command(flatten)]
    api: super::api_flags::ApiFlags,
}

fn port_range(text: &str) -> Result<std::ops::RangeInclusive<u16>, String> {
    let bad = || format!("{text:?} is not a range such as 30000-32767");
    let (low, high) = text.split_once('-').ok_or_else(bad)?;
    let (low, high) = (low.parse().map_err(|_| bad())?, high.parse().map_err(|_| bad())?);
    if low > high { Err(bad()) } else { Ok(low..=high) }
}

fn tokens(flags: &Flags) -> Result<ServiceAccountTokens> {
    let signing = super::read("service-account-signing-key-file", &flags.service_account_signing_key_file)?;
    let verifying: Vec<String> = flags
        .service_account_key_file
        .iter()
        .map(|p| super::read("service-account-key-file", p))
        .collect::<Result<_>>()?;
    ServiceAccountTokens::new(&flags.service_account_issuer, &flags.api_audiences, &signing, &verifying)
        .context("service account keys")
}

fn config(flags: &Flags, address: IpAddr) -> Result<isopod_apiserver::Config> {
    let first = *flags.service_cluster_ip_range.first().context("--service-cluster-ip-range is empty")?;
    let mut config = isopod_apiserver::Config::new(address, flags.secure_port, first);
    config.service_cidrs.clone_from(&flags.service_cluster_ip_range);
    config.node_ports = flags.service_node_port_range.clone();
    config.storage_prefix = flags.etcd_prefix.trim_matches('/').to_owned();
    config.event_ttl_seconds = u32::try_from(flags.event_ttl.as_secs()).context("--event-ttl")?;
    if let Some(path) = &flags.client_ca_file {
        config.authentication.client_ca_pem = super::read("client-ca-file", path)?;
    }
    if let Some(path) = &flags.requestheader_client_ca_file {
        config.authentication.front_proxy_ca_pem = super::read("requestheader-client-ca-file", path)?;
    }
    config.authentication.front_proxy_names.clone_from(&flags.requestheader_allowed_names);
    config.authentication.service_accounts = Some(Arc::new(tokens(flags)?));
    config.authentication.bootstrap_tokens = true;
    if let (Some(cert), Some(key), Some(ca)) =
        (&flags.kubelet_client_certificate, &flags.kubelet_client_key, &flags.kubelet_certificate_authority)
    {
        let leaf = super::leaf("kubelet-client-certificate", cert, "kubelet-client-key", key)?;
        let ca = super::read("kubelet-certificate-authority", ca)?;
        config.kubelet_tls = Some(isopod_pki::tls::client_config(&ca, Some(&leaf), &["http/1.1"])?);
    }
    flags.api.apply(&mut config, None)?;
    Ok(config)
}

/// Runs the part.
pub(crate) async fn run(flags: Flags) -> Result<()> {
    if let Some(mode) = flags.authorization_mode.iter().find(|m| !["Node", "RBAC"].contains(&m.as_str())) {
        bail!("--authorization-mode: {mode:?} is not supported, only Node and RBAC");
    }
    let address = SocketAddr::new(flags.bind_address, flags.secure_port);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} (--bind-address, --secure-port)"))?;
    let advertised = flags.advertise_address.unwrap_or_else(|| {
        if flags.bind_address.is_unspecified() { crate::config::node_address() } else { flags.bind_address }
    });
    let config = config(&flags, advertised)?;
    let leaf = super::leaf(
        "tls-cert-file",
        &flags.tls_cert_file,
        "tls-private-key-file",
        &flags.tls_private_key_file,
    )?;
    let hint = format!("{}{}", config.authentication.client_ca_pem, config.authentication.front_proxy_ca_pem);
    let clients = if hint.is_empty() { Clients::Anonymous } else { Clients::Optional { hint_pem: hint } };
    let tls = isopod_pki::tls::server_config(ServingCertificate::new(&leaf)?, &clients, &["h2", "http/1.1"])?;
    let store = super::etcd_client(
        &flags.etcd_servers,
        flags.etcd_cafile.as_deref(),
        flags.etcd_certfile.as_deref(),
        flags.etcd_keyfile.as_deref(),
    )
    .await?;
    let api = ApiServer::new(config, store).await.context("start the API server")?;
    super::until_signal(async |shutdown| {
        let serving = tokio::spawn(api.clone().serve(listener, tls, shutdown.clone()));
        tokio::select! {
            started = api.start() => started.context("start the API server")?,
            () = shutdown.cancelled() => {}
        }
        serving.await.context("serve")?;
        api.stop();
        api.flush_audit();
        Ok(())
    })
    .await
}
