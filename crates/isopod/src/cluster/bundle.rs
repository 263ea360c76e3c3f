//! What the servers of a cluster share: authorities, keys, and the settings that must be the same.

use crate::config::Config;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Files below `pki/` that all servers have alike; from them each makes its own certificates.
const SHARED: [&str; 11] = [
    "client-ca.crt",
    "client-ca.key",
    "serving-ca.crt",
    "serving-ca.key",
    "etcd/ca.crt",
    "etcd/ca.key",
    "front-proxy-ca.crt",
    "front-proxy-ca.key",
    "sa.key",
    "sa.pub",
    "encryption-config.yaml",
];

/// Settings that must be the same on all servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Settings {
    cluster_cidr: String,
    service_cidr: String,
    cluster_domain: String,
}

impl Settings {
    pub(super) fn of(config: &Config) -> Self {
        Settings {
            cluster_cidr: config.cluster_cidr.to_string(),
            service_cidr: config.service_cidr.to_string(),
            cluster_domain: config.cluster_domain.clone(),
        }
    }

    /// Refuses a configuration that differs.
    pub(super) fn check(&self, config: &Config) -> Result<()> {
        let own = Settings::of(config);
        for (flag, own, cluster) in [
            ("cluster-cidr", &own.cluster_cidr, &self.cluster_cidr),
            ("service-cluster-ip-range", &own.service_cidr, &self.service_cidr),
            ("cluster-domain", &own.cluster_domain, &self.cluster_domain),
        ] {
            if own != cluster {
                bail!("--{flag} is {own} here and {cluster} in the cluster");
            }
        }
        Ok(())
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("settings")?;
        isopod_pki::write_private(path, text.as_bytes()).with_context(|| format!("write {}", path.display()))
    }

    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(
                serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?,
            )),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
}

/// Everything that a joining server is given.
#[derive(Serialize, Deserialize)]
pub(crate) struct Bundle {
    pub(super) settings: Settings,
    /// Content by name below `pki/`.
    files: BTreeMap<String, String>,
}

impl Bundle {
    /// Reads it from a server's files.
    pub(super) fn read(pki: &Path, settings: Settings) -> Result<Self> {
        let read = |name: &&str| -> Result<(String, String)> {
            let path = pki.join(name);
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            Ok(((*name).to_owned(), text))
        };
        Ok(Bundle { settings, files: SHARED.iter().map(read).collect::<Result<_>>()? })
    }

    /// Writes the files. The serving authority comes last: where it is, the rest is too.
    pub(super) fn install(&self, pki: &Path) -> Result<()> {
        crate::data_dir::private_directory(pki)?;
        crate::data_dir::private_directory(&pki.join("etcd"))?;
        let last = ["serving-ca.key", "serving-ca.crt"];
        let first = SHARED.iter().filter(|name| !last.contains(name));
        for name in first.chain(&last) {
            let text = self.files.get(*name).with_context(|| format!("the server did not send {name}"))?;
            let path = pki.join(name);
            isopod_pki::write_private(&path, text.as_bytes())
                .with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isopod_client::{Clock, SystemClock};

    #[test]
    fn what_one_server_sends_another_can_use() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let config = |name: &str| isopod_pki::Config {
            directory: directory.path().join(name),
            node_name: name.into(),
            server_names: Vec::new(),
            node_addresses: vec![[192, 0, 2, 7].into()],
            service_address: [10, 43, 0, 1].into(),
            cluster_domain: "cluster.local".into(),
        };
        let first = isopod_pki::ensure(&config("a"), SystemClock.now()).expect("first");
        let settings = Settings {
            cluster_cidr: "10.42.0.0/16".into(),
            service_cidr: "10.43.0.0/16".into(),
            cluster_domain: "cluster.local".into(),
        };
        let bundle = Bundle::read(&directory.path().join("a"), settings).expect("read");
        bundle.install(&directory.path().join("b")).expect("install");
        let second = isopod_pki::ensure(&config("b"), SystemClock.now()).expect("second");
        assert_eq!(first.etcd_ca.certificate_pem(), second.etcd_ca.certificate_pem());
        assert_eq!(first.service_account_key_pem, second.service_account_key_pem);
        assert_eq!(first.encryption_config, second.encryption_config);
        assert_ne!(first.etcd_peer.certificate_pem, second.etcd_peer.certificate_pem);
        assert!(
            !second.changed.iter().any(|stem| stem.ends_with("ca") || stem == "sa"),
            "{:?}",
            second.changed
        );
    }
}
