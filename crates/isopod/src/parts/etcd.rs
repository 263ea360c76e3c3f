//! `isopod etcd`.

use anyhow::{Context, Result, bail};
use clap::Args;
use isopod_pki::tls::{Clients, ServingCertificate};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Upstream's flags that are supported.
#[derive(Args, Debug, Clone)]
pub(crate) struct Flags {
    /// Name of this member
    #[arg(long, default_value = "default")]
    name: String,
    /// Where everything is kept
    #[arg(long, default_value = "default.etcd")]
    data_dir: PathBuf,
    /// URLs to listen on for clients
    #[arg(long, value_delimiter = ',', default_value = "http://localhost:2379")]
    listen_client_urls: Vec<String>,
    /// URLs under which clients reach this member
    #[arg(long, value_delimiter = ',')]
    advertise_client_urls: Vec<String>,
    /// URLs to listen on for health and metrics
    #[arg(long, value_delimiter = ',')]
    listen_metrics_urls: Vec<String>,
    /// Server certificate
    #[arg(long)]
    cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long)]
    key_file: Option<PathBuf>,
    /// CA of client certificates
    #[arg(long)]
    trusted_ca_file: Option<PathBuf>,
    /// Require client certificates
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, default_value_t = false, action = clap::ArgAction::Set)]
    client_cert_auth: bool,
    /// Bytes of keys and values beyond which writes are refused; 0 is 2 GiB
    #[arg(long, default_value_t = 0)]
    quota_backend_bytes: u64,
    /// periodic or revision
    #[arg(long, default_value = "periodic")]
    auto_compaction_mode: String,
    /// Retention of automatic compaction: 5m, 1h, or a number; 0 turns it off
    #[arg(long, default_value = "0")]
    auto_compaction_retention: String,
    /// Largest request in bytes
    #[arg(long, default_value_t = 1_572_864)]
    max_request_bytes: usize,
    /// Kind of the tokens that clients authenticate for: simple
    #[arg(long, default_value = "simple")]
    auth_token: String,
    /// Seconds that a token lives after its last use
    #[arg(long, default_value_t = 300)]
    auth_token_ttl: u64,
    /// Cost of password hashes, 4 to 31
    #[arg(long, default_value_t = 10)]
    bcrypt_cost: u32,
    /// Most operations of a transaction
    #[arg(long, default_value_t = 128)]
    max_txn_ops: usize,
}

/// The address in a URL, and whether it asks for TLS.
fn address(flag: &str, url: &str) -> Result<(bool, SocketAddr)> {
    let (scheme, rest) = url.split_once("://").with_context(|| format!("--{flag}: {url:?} is not a URL"))?;
    let tls = match scheme {
        "http" => false,
        "https" => true,
        other => bail!("--{flag}: scheme {other:?} is not supported"),
    };
    let host = rest.trim_end_matches('/').replace("localhost", "127.0.0.1");
    let address = host.parse().with_context(|| format!("--{flag}: {url:?} has no address and port"))?;
    Ok((tls, address))
}

fn auto_compaction(flags: &Flags) -> Result<isopod_etcd::AutoCompaction> {
    use isopod_etcd::AutoCompaction;
    let text = flags.auto_compaction_retention.as_str();
    if text == "0" {
        return Ok(AutoCompaction::Off);
    }
    let bad = || format!("--auto-compaction-retention: {text:?}");
    match flags.auto_compaction_mode.as_str() {
        // A bare number counts hours, as upstream has it.
        "periodic" => match text.parse::<u64>() {
            Ok(hours) => Ok(AutoCompaction::Periodic(std::time::Duration::from_secs(hours * 3600))),
            Err(_) => Ok(AutoCompaction::Periodic(
                crate::config::duration(text).map_err(anyhow::Error::msg).with_context(bad)?,
            )),
        },
        "revision" => Ok(AutoCompaction::Revision(text.parse().with_context(bad)?)),
        other => bail!("--auto-compaction-mode: {other:?} is neither periodic nor revision"),
    }
}

async fn listen(flag: &str, urls: &[String], tls: bool) -> Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for url in urls {
        let (secure, address) = address(flag, url)?;
        if secure != tls {
            let wanted =
                if tls { "https (a certificate is given)" } else { "http (no certificate is given)" };
            bail!("--{flag}: {url} should be {wanted}");
        }
        let listener = TcpListener::bind(address);
        listeners.push(listener.await.with_context(|| format!("--{flag}: cannot listen on {address}"))?);
    }
    Ok(listeners)
}

fn tls(flags: &Flags) -> Result<Option<Arc<rustls::ServerConfig>>> {
    let (Some(cert), Some(key)) = (&flags.cert_file, &flags.key_file) else {
        if flags.cert_file.is_some() || flags.key_file.is_some() || flags.client_cert_auth {
            bail!("--cert-file and --key-file go together, and --client-cert-auth needs both");
        }
        return Ok(None);
    };
    let leaf = super::leaf("cert-file", cert, "key-file", key)?;
    let clients = match (&flags.trusted_ca_file, flags.client_cert_auth) {
        (Some(ca), true) => Clients::Required { ca_pem: super::read("trusted-ca-file", ca)? },
        (None, true) => bail!("--client-cert-auth needs --trusted-ca-file"),
        _ => Clients::Anonymous,
    };
    Ok(Some(isopod_pki::tls::server_config(ServingCertificate::new(&leaf)?, &clients, &["h2", "http/1.1"])?))
}

/// Refuses kinds of tokens that there are not.
fn check_auth_token(kind: &str) -> Result<()> {
    match kind {
        "simple" => Ok(()),
        _ if kind.starts_with("jwt") => {
            bail!(
                "--auth-token: signed tokens (jwt) are not supported; simple ones and client certificates are"
            )
        }
        other => bail!("--auth-token: {other:?} is not known; simple is"),
    }
}

/// Runs the part.
pub(crate) async fn run(flags: Flags) -> Result<()> {
    check_auth_token(&flags.auth_token)?;
    let tls = tls(&flags)?;
    let listeners = isopod_etcd::Listeners {
        client: listen("listen-client-urls", &flags.listen_client_urls, tls.is_some()).await?,
        metrics: listen("listen-metrics-urls", &flags.listen_metrics_urls, false).await?,
    };
    let config = isopod_etcd::Config {
        name: flags.name.clone(),
        client_urls: if flags.advertise_client_urls.is_empty() {
            flags.listen_client_urls.clone()
        } else {
            flags.advertise_client_urls.clone()
        },
        quota_bytes: flags.quota_backend_bytes,
        auto_compaction: auto_compaction(&flags)?,
        max_request_bytes: flags.max_request_bytes,
        max_txn_ops: flags.max_txn_ops,
        bcrypt_cost: flags.bcrypt_cost,
        auth_token_ttl: std::time::Duration::from_secs(flags.auth_token_ttl),
        ..isopod_etcd::Config::new(&flags.data_dir)
    };
    let engine = isopod_etcd::open(config).context("open the store")?;
    super::until_signal(async |shutdown| Ok(isopod_etcd::serve(engine, listeners, tls, shutdown).await?))
        .await
}
