//! Pulling from registries (OCI distribution, Docker schema 2).

use std::fs::File;
use std::io::{Seek, SeekFrom};

use futures::{StreamExt, TryStreamExt, stream};
use isopod_cri::v1::AuthConfig;
use oci_client::secrets::RegistryAuth;

use super::config::{Descriptor, Manifest};
use super::registry::Registry;
use super::unpack::LAYER_BYTES_MAX;
use super::{DOCUMENT_BYTES_MAX, ImageConfig, ImageRecord, ImageStore, Reference};
use crate::error::{Context, Error};

/// Layers of one image downloaded at once, as containerd does.
const PARALLEL_LAYERS: usize = 3;
/// Most layers an image may have: overlayfs takes them in one page of options.
const LAYERS_MAX: usize = 250;

/// What a registry is to be told of the caller. Never shown.
#[derive(Clone)]
pub struct Credentials(pub(super) RegistryAuth);

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Credentials {
    /// No credentials.
    pub fn anonymous() -> Self {
        Self(RegistryAuth::Anonymous)
    }

    /// The credentials of a CRI request.
    pub fn from_cri(auth: Option<&AuthConfig>) -> Result<Self, Error> {
        let Some(auth) = auth else { return Ok(Self::anonymous()) };
        if !auth.registry_token.is_empty() {
            return Ok(Self(RegistryAuth::Bearer(auth.registry_token.clone())));
        }
        if !auth.identity_token.is_empty() {
            // The user name that registries know for tokens of this kind.
            return Ok(Self(RegistryAuth::Basic("<token>".to_owned(), auth.identity_token.clone())));
        }
        if !auth.username.is_empty() {
            return Ok(Self(RegistryAuth::Basic(auth.username.clone(), auth.password.clone())));
        }
        if !auth.auth.is_empty() {
            use base64::Engine;
            let bad = || Error::Invalid("registry credentials are not base64 of user:password".to_owned());
            let bytes =
                base64::engine::general_purpose::STANDARD.decode(auth.auth.trim()).map_err(|_| bad())?;
            let text = String::from_utf8(bytes).map_err(|_| bad())?;
            let (user, password) = text.split_once(':').ok_or_else(bad)?;
            let password = password.trim_end_matches('\0').to_owned();
            return Ok(Self(RegistryAuth::Basic(user.to_owned(), password)));
        }
        Ok(Self::anonymous())
    }
}

impl ImageStore {
    /// Pulls an image. `insecure` lists registries (`host:port`) to speak plain HTTP to; those on this
    /// machine are spoken to so anyway.
    pub async fn pull(
        &self,
        name: &str,
        credentials: &Credentials,
        insecure: &[String],
    ) -> Result<ImageRecord, Error> {
        let reference = Reference::parse(name)?;
        let busy = self.busy()?;
        let registry = Registry::new(reference.clone(), credentials, insecure)?;
        let (digest, top_digest, manifest_bytes) = registry.manifest().await?;
        let manifest = Manifest::parse(&manifest_bytes)?;
        let config_descriptor = manifest
            .config
            .clone()
            .ok_or_else(|| Error::Invalid(format!("{reference}: the manifest has no configuration")))?;
        if manifest.layers.len() > LAYERS_MAX {
            return Err(Error::TooLarge(format!("{reference}: more than {LAYERS_MAX} layers")));
        }
        let config_bytes = self.pull_config(&registry, &config_descriptor).await?;
        let config = ImageConfig::parse(&config_bytes)?;
        if config.diff_ids.len() != manifest.layers.len() {
            return Err(Error::Invalid(format!("{reference}: configuration and manifest differ in layers")));
        }
        let layers: Vec<_> = manifest
            .layers
            .iter()
            .zip(config.diff_ids.clone())
            .zip(config.chain_ids())
            .map(|((layer, diff_id), chain_id)| self.pull_layer(&registry, layer, diff_id, chain_id))
            .collect();
        stream::iter(layers).buffer_unordered(PARALLEL_LAYERS).try_collect::<Vec<()>>().await?;
        let tags = if reference.tag.is_some() { vec![reference.with_tag()] } else { Vec::new() };
        let mut digests = vec![format!("{}@{top_digest}", reference.name())];
        if digest != top_digest {
            digests.push(format!("{}@{digest}", reference.name()));
        }
        let store = self.clone();
        blocking(move || {
            let record = store.install_image(&config_bytes, &config, tags, digests, false)?;
            drop(busy);
            store.collect_garbage()?;
            Ok(record)
        })
        .await
    }

    async fn pull_config(&self, registry: &Registry, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        if descriptor.size > DOCUMENT_BYTES_MAX {
            return Err(Error::TooLarge(format!(
                "image configuration has more than {DOCUMENT_BYTES_MAX} bytes"
            )));
        }
        let mut bytes = Vec::new();
        registry.blob(descriptor, &mut bytes).await?;
        Ok(bytes)
    }

    async fn pull_layer(
        &self,
        registry: &Registry,
        layer: &Descriptor,
        diff_id: String,
        chain_id: String,
    ) -> Result<(), Error> {
        if self.has_layer(&chain_id)? {
            return Ok(());
        }
        if layer.media_type.ends_with("+zstd") {
            return Err(Error::Invalid("layers compressed with zstd are not supported".to_owned()));
        }
        if layer.size > LAYER_BYTES_MAX {
            return Err(Error::TooLarge(format!("a layer has more than {LAYER_BYTES_MAX} bytes")));
        }
        let file = self.temporary()?;
        let mut out = tokio::fs::File::from_std(file);
        registry.blob(layer, &mut out).await?;
        let mut file: File = out.into_std().await;
        let store = self.clone();
        blocking(move || {
            file.seek(SeekFrom::Start(0)).what(|| "read layer".to_owned())?;
            store.install_layer(&chain_id, &diff_id, file)
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(e) => Err(Error::Shim(format!("image task: {e}"))),
    }
}
