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
    /// All members of a new cluster, or of the one that this member joins: NAME=PEER_URL,NAME=PEER_URL,…
    #[arg(long, value_delimiter = ',')]
    initial_cluster: Vec<String>,
    /// new, or existing for a member that has been added to a cluster
    #[arg(long, default_value = "new")]
    initial_cluster_state: String,
    /// Tells clusters apart that have the same peer URLs
    #[arg(long, default_value = "etcd-cluster")]
    initial_cluster_token: String,
    /// URLs to listen on for other members; without it, and without other members, none
    #[arg(long, value_delimiter = ',')]
    listen_peer_urls: Vec<String>,
    /// URLs under which other members reach this one
    #[arg(long, value_delimiter = ',', default_value = "http://localhost:2380")]
    initial_advertise_peer_urls: Vec<String>,
    /// Milliseconds between a leader's signs
    #[arg(long, default_value_t = 100)]
    heartbeat_interval: u64,
    /// Milliseconds without a leader's sign after which a member asks for an election
    #[arg(long, default_value_t = 1000)]
    election_timeout: u64,
    /// Entries kept in memory for members that fall behind; those that need older ones get a snapshot
    #[arg(long, default_value_t = 10_000)]
    snapshot_count: usize,
    /// Ask around before an election
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, default_value_t = true, action = clap::ArgAction::Set)]
    pre_vote: bool,
    /// Refuse changes of membership that would lose the quorum
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, default_value_t = true, action = clap::ArgAction::Set)]
    strict_reconfig_check: bool,
    /// Certificate towards other members, as server and as client
    #[arg(long)]
    peer_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long)]
    peer_key_file: Option<PathBuf>,
    /// CA of the members' certificates
    #[arg(long)]
    peer_trusted_ca_file: Option<PathBuf>,
    /// Require certificates of members that connect
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, default_value_t = false, action = clap::ArgAction::Set)]
    peer_client_cert_auth: bool,
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

/// TLS between members.
fn peer_tls(flags: &Flags) -> Result<Option<isopod_etcd::PeerTls>> {
    let (Some(cert), Some(key)) = (&flags.peer_cert_file, &flags.peer_key_file) else {
        if flags.peer_cert_file.is_some() || flags.peer_key_file.is_some() || flags.peer_client_cert_auth {
            bail!("--peer-cert-file and --peer-key-file go together, and --peer-client-cert-auth needs both");
        }
        return Ok(None);
    };
    let Some(ca) = &flags.peer_trusted_ca_file else {
        bail!("--peer-cert-file needs --peer-trusted-ca-file: members are believed by their certificates");
    };
    let ca_pem = super::read("peer-trusted-ca-file", ca)?;
    let leaf = super::leaf("peer-cert-file", cert, "peer-key-file", key)?;
    let client = isopod_pki::tls::client_config(&ca_pem, Some(&leaf), &["h2"])?;
    let clients = if flags.peer_client_cert_auth { Clients::Required { ca_pem } } else { Clients::Anonymous };
    let server = isopod_pki::tls::server_config(ServingCertificate::new(&leaf)?, &clients, &["h2"])?;
    Ok(Some(isopod_etcd::PeerTls { server, client }))
}

/// How the member begins, if it has no data yet.
async fn bootstrap(
    flags: &Flags,
    tls: Option<&isopod_etcd::PeerTls>,
) -> Result<isopod_etcd::member::Bootstrap> {
    let existing = match flags.initial_cluster_state.as_str() {
        "new" => false,
        "existing" => true,
        other => bail!("--initial-cluster-state: {other:?} is neither new nor existing"),
    };
    if isopod_etcd::is_member(&flags.data_dir).context("--data-dir")? {
        // Whoever has data knows its cluster, whatever the flags say of how it began.
        return Ok(isopod_etcd::member::Bootstrap::Alone { cluster_id: 0, member_id: 0 });
    }
    let peer_urls = flags.initial_advertise_peer_urls.clone();
    let initial_cluster = if flags.initial_cluster.is_empty() {
        peer_urls.iter().map(|url| format!("{}={url}", flags.name)).collect()
    } else {
        flags.initial_cluster.clone()
    };
    let initial = isopod_etcd::InitialCluster {
        name: flags.name.clone(),
        initial_cluster,
        existing,
        token: flags.initial_cluster_token.clone(),
        peer_urls,
    };
    Ok(initial.bootstrap(tls.map(|tls| tls.client.clone())).await?)
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
    let peer_tls = peer_tls(&flags)?;
    let peers = listen("listen-peer-urls", &flags.listen_peer_urls, peer_tls.is_some()).await?;
    let others = flags.initial_cluster.iter().any(|pair| !pair.starts_with(&format!("{}=", flags.name)));
    if others && peers.is_empty() {
        bail!("--initial-cluster names other members: --listen-peer-urls says where they reach this one");
    }
    let bootstrap = bootstrap(&flags, peer_tls.as_ref()).await?;
    let config = isopod_etcd::Config {
        name: flags.name.clone(),
        client_urls: if flags.advertise_client_urls.is_empty() {
            flags.listen_client_urls.clone()
        } else {
            flags.advertise_client_urls.clone()
        },
        peer_urls: flags.initial_advertise_peer_urls.clone(),
        heartbeat_interval: std::time::Duration::from_millis(flags.heartbeat_interval),
        election_timeout: std::time::Duration::from_millis(flags.election_timeout),
        pre_vote: flags.pre_vote,
        strict_reconfig_check: flags.strict_reconfig_check,
        catch_up_entries: flags.snapshot_count,
        quota_bytes: flags.quota_backend_bytes,
        auto_compaction: auto_compaction(&flags)?,
        max_request_bytes: flags.max_request_bytes,
        max_txn_ops: flags.max_txn_ops,
        bcrypt_cost: flags.bcrypt_cost,
        auth_token_ttl: std::time::Duration::from_secs(flags.auth_token_ttl),
        ..isopod_etcd::Config::new(&flags.data_dir)
    };
    let engine = isopod_etcd::open_member(config, bootstrap).context("open the store")?;
    super::until_signal(async |shutdown| {
        tokio::spawn(isopod_etcd::serve_peers(engine.clone(), peers, peer_tls, shutdown.clone()));
        let removed = engine.removed().clone();
        let ended = shutdown.clone();
        tokio::spawn(async move {
            removed.cancelled().await;
            ended.cancel();
        });
        isopod_etcd::serve(engine.clone(), listeners, tls, shutdown).await?;
        if engine.removed().is_cancelled() {
            bail!("this member has been removed from its cluster");
        }
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};
    use isopod_etcd::member::Bootstrap;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn flags(args: &[&str]) -> Flags {
        Line::try_parse_from(["etcd"].iter().chain(args)).expect("flags that parse").flags
    }

    #[test]
    fn flags_are_consistent() {
        Line::command().debug_assert();
        let flags = flags(&["--pre-vote=false", "--strict-reconfig-check", "--election-timeout", "500"]);
        assert!(!flags.pre_vote && flags.strict_reconfig_check);
        assert_eq!(flags.election_timeout, 500);
    }

    #[tokio::test]
    async fn members_find_each_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().to_str().expect("a path");
        let begin =
            async |args: &[&str]| bootstrap(&flags(&[args, &["--data-dir", dir]].concat()), None).await;
        // The IDs are those of an etcd without flags.
        let Ok(Bootstrap::New { cluster_id, member_id, members }) = begin(&[]).await else { panic!("alone") };
        assert_eq!((cluster_id, member_id), (0xcdf8_1819_4e3a_8c32, 0x8e9e_05c5_2164_694d));
        assert_eq!(members.len(), 1);
        let three = "--initial-cluster=a=http://10.0.0.1:2380,b=http://10.0.0.2:2380,c=http://10.0.0.3:2380";
        let url = "--initial-advertise-peer-urls=http://10.0.0.2:2380";
        let Ok(Bootstrap::New { members, .. }) = begin(&["--name=b", three, url]).await else {
            panic!("three")
        };
        assert_eq!(members.len(), 3);
        assert!(begin(&["--name=d", three, url]).await.is_err());
        assert!(begin(&["--initial-cluster-state=old"]).await.is_err());
    }

    #[test]
    fn tls_between_members_needs_its_files() {
        for args in [&["--peer-client-cert-auth"][..], &["--peer-cert-file=a", "--peer-key-file=b"]] {
            assert!(peer_tls(&flags(args)).is_err());
        }
        assert!(peer_tls(&flags(&[])).expect("none").is_none());
    }
}
