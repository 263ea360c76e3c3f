//! Image configurations and manifests, as far as a runtime needs them (OCI image-spec and Docker schema 2).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::Error;

/// What the configuration of an image says about running it.
#[derive(Debug, Clone, Default)]
pub struct ImageConfig {
    /// `user`, perhaps with `:group`.
    pub user: String,
    /// Environment as `NAME=value`.
    pub env: Vec<String>,
    /// The program, before `cmd`.
    pub entrypoint: Vec<String>,
    /// The arguments, or the program if there is no entrypoint.
    pub cmd: Vec<String>,
    /// Directory to start in.
    pub working_dir: String,
    /// Signal that asks the program to end.
    pub stop_signal: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Paths that the image wants as volumes.
    pub volumes: Vec<String>,
    /// Digests of the uncompressed layers, the lowest first.
    pub diff_ids: Vec<String>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    config: Option<Run>,
    #[serde(default)]
    rootfs: Option<RootFs>,
    #[serde(default)]
    os: String,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Run {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    volumes: Option<BTreeMap<String, serde_json::Value>>,
}

impl ImageConfig {
    /// Parses a configuration document.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let document: Document =
            serde_json::from_slice(bytes).map_err(|e| Error::Invalid(format!("image configuration: {e}")))?;
        if !document.os.is_empty() && document.os != "linux" {
            return Err(Error::Invalid(format!("the image is for {}, not linux", document.os)));
        }
        let run = document.config.unwrap_or_default();
        let diff_ids = document.rootfs.map(|rootfs| rootfs.diff_ids).unwrap_or_default();
        for diff_id in &diff_ids {
            super::reference::check_digest(diff_id)
                .map_err(|e| Error::Invalid(format!("image configuration: {e}")))?;
        }
        Ok(Self {
            user: run.user.unwrap_or_default(),
            env: run.env.unwrap_or_default(),
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            working_dir: run.working_dir.unwrap_or_default(),
            stop_signal: run.stop_signal.unwrap_or_default(),
            labels: run.labels.unwrap_or_default(),
            volumes: run.volumes.unwrap_or_default().into_keys().collect(),
            diff_ids,
        })
    }

    /// Chain ids of the layers, the lowest first: a chain id names a layer together with all below it.
    pub fn chain_ids(&self) -> Vec<String> {
        use sha2::{Digest, Sha256};
        let mut chain_ids: Vec<String> = Vec::with_capacity(self.diff_ids.len());
        for diff_id in &self.diff_ids {
            let chain = match chain_ids.last() {
                None => diff_id.clone(),
                Some(below) => {
                    let digest = Sha256::digest(format!("{below} {diff_id}").as_bytes());
                    format!("sha256:{}", super::index::hex(&digest))
                }
            };
            chain_ids.push(chain);
        }
        chain_ids
    }
}

/// A pointer to a blob.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    #[serde(default)]
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// For what an image of an index is.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) variant: String,
}

/// A manifest or an index: one document type has `config` and `layers`, the other `manifests`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    #[serde(default)]
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) config: Option<Descriptor>,
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
}

impl Manifest {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|e| Error::Invalid(format!("image manifest: {e}")))?;
        if manifest.schema_version != 2 {
            return Err(Error::Invalid(format!(
                "image manifest has schema version {}; only 2 is supported",
                manifest.schema_version
            )));
        }
        let blobs = manifest.config.iter().chain(&manifest.layers).chain(&manifest.manifests);
        for descriptor in blobs {
            super::reference::check_digest(&descriptor.digest)
                .map_err(|e| Error::Invalid(format!("image manifest: {e}")))?;
        }
        Ok(manifest)
    }

    /// The manifest of an index that suits this machine.
    pub(crate) fn for_this_machine(&self) -> Result<&Descriptor, Error> {
        let (architecture, variants): (&str, &[&str]) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", &["", "v1"]),
            "aarch64" => ("arm64", &["", "v8"]),
            "arm" => ("arm", &["v7", "v6", ""]),
            other => (other, &[""]),
        };
        let suits = |d: &&Descriptor, variant: &str| {
            d.platform
                .as_ref()
                .is_some_and(|p| p.os == "linux" && p.architecture == architecture && p.variant == variant)
        };
        variants
            .iter()
            .find_map(|variant| self.manifests.iter().find(|d| suits(d, variant)))
            .or_else(|| self.manifests.iter().find(|d| d.platform.is_none()))
            .ok_or_else(|| Error::NotFound(format!("no image for linux/{architecture} in the index")))
    }
}
