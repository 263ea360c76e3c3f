//! Several servers as one control plane: each has a member of the store and an API server.
//!
//! The first is started with `--cluster-init`, or turned into one later: its store then has one member, which speaks
//! TLS to others. The next bring a token (`isopod token create`), fetch the cluster's authorities with it, add
//! themselves to the store as a learner, and become voters once they have caught up.

mod bundle;
mod join;
mod member;
mod token;
pub(crate) mod token_command;

use crate::config::Config;
use anyhow::{Context, Result, bail};
use bundle::{Bundle, Settings};
use std::path::{Path, PathBuf};

pub(crate) use member::Member;
pub(crate) use token::Token;

/// Port on which members of the store speak with each other; etcd's.
pub(crate) const PEER_PORT: u16 = 2380;
/// Port on which a member of the store serves clients that show a certificate; etcd's.
pub(crate) const CLIENT_PORT: u16 = 2379;
/// File in the data directory that says that this server is one of several.
const SETTINGS: &str = "cluster.json";

/// Another server, by which this one is to join its cluster.
#[derive(Debug, Clone)]
pub(crate) struct Join {
    /// Its URL.
    pub(crate) server: String,
    /// What lets this server in.
    pub(crate) token: Token,
}

fn settings_path(data_dir: &Path) -> PathBuf {
    data_dir.join(SETTINGS)
}

/// Whether this server is, or is to be, one of several.
pub(crate) fn is_clustered(config: &Config) -> bool {
    config.cluster_init || config.join.is_some() || settings_path(&config.data_dir).exists()
}

/// Before anything else: fetches what the cluster shares, where this server is to join one.
pub(crate) async fn prepare(config: &Config) -> Result<()> {
    if !is_clustered(config) {
        return Ok(());
    }
    if config.etcd.is_some() {
        bail!("--etcd-servers names a store outside: --cluster-init and --server are for the built-in one");
    }
    if config.node_ip.is_loopback() {
        bail!("servers of a cluster need an address that the others reach: --node-ip");
    }
    let pki = config.data_dir.join("pki");
    if let Some(join) = &config.join {
        let authority = pki.join("serving-ca.crt");
        if authority.exists() {
            let pem = std::fs::read_to_string(&authority)
                .with_context(|| format!("read {}", authority.display()))?;
            join.token.check_authority(&pem).with_context(|| {
                format!("{} belongs to another cluster than --token", config.data_dir.display())
            })?;
        } else {
            let bundle = join::fetch(join).await.with_context(|| format!("join {}", join.server))?;
            bundle.settings.check(config)?;
            bundle.install(&pki)?;
        }
    }
    Settings::of(config).write(&settings_path(&config.data_dir))
}
