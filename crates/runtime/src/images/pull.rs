//! Pulling from registries (OCI distribution, Docker schema 2).

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use isopod_cri::v1::AuthConfig;
use oci_client::client::{ClientConfig, ClientProtocol, LayerDescriptor};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;

use super::config::{Descriptor, Manifest};
use super::{DOCUMENT_BYTES_MAX, ImageConfig, ImageRecord, ImageStore, Reference};
use crate::error::{Context, Error};

/// Layers of one image downloaded at once, as containerd does.
const PARALLEL_LAYERS: usize = 3;
/// A registry that sends nothing for so long is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Most layers an image may have: overlayfs takes them in one page of options.
const LAYERS_MAX: usize = 250;

const MEDIA_TYPES: &[&str] = &[
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// What a registry is to be told of the caller. Never shown.
#[derive(Clone)]
pub struct Credentials(RegistryAuth);

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

/// A repository of a registry, with what is needed to use it.
struct Registry {
    client: oci_client::Client,
    reference: Reference,
    auth: RegistryAuth,
}

impl Registry {
    fn new(reference: Reference, credentials: &Credentials, insecure: &[String]) -> Result<Self, Error> {
        let plain = reference.is_loopback() || insecure.contains(&reference.registry);
        // The registry client brings no cryptography of its own. Where the process has chosen already, that stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            read_timeout: Some(READ_TIMEOUT),
            connect_timeout: Some(Duration::from_secs(15)),
            user_agent: concat!("isopod/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client = oci_client::Client::try_from(config)
            .map_err(|e| Error::Registry(format!("registry client: {e}")))?;
        Ok(Self { client, reference, auth: credentials.0.clone() })
    }

    fn remote(&self, digest: Option<&str>) -> oci_client::Reference {
        let Reference { registry, repository, tag, .. } = &self.reference;
        match digest.or(self.reference.digest.as_deref()) {
            Some(digest) => {
                oci_client::Reference::with_digest(registry.clone(), repository.clone(), digest.to_owned())
            }
            None => oci_client::Reference::with_tag(
                registry.clone(),
                repository.clone(),
                tag.clone().unwrap_or_else(|| "latest".to_owned()),
            ),
        }
    }

    /// Digest of the manifest for this machine, digest of what the name points to, and the manifest.
    async fn manifest(&self) -> Result<(String, String, Vec<u8>), Error> {
        let (bytes, top_digest) = self.raw_manifest(&self.remote(None)).await?;
        let manifest = Manifest::parse(&bytes)?;
        if manifest.manifests.is_empty() {
            return Ok((top_digest.clone(), top_digest, bytes));
        }
        let chosen = manifest.for_this_machine()?.digest.clone();
        let (bytes, digest) = self.raw_manifest(&self.remote(Some(&chosen))).await?;
        Ok((digest, top_digest, bytes))
    }

    async fn raw_manifest(&self, remote: &oci_client::Reference) -> Result<(Vec<u8>, String), Error> {
        let (bytes, digest) = self
            .client
            .pull_manifest_raw(remote, &self.auth, MEDIA_TYPES)
            .await
            .map_err(|e| self.error("get the manifest", &e))?;
        if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
            return Err(Error::TooLarge(format!("{}: the manifest is too large", self.reference)));
        }
        Ok((bytes.to_vec(), digest))
    }

    /// Downloads a blob; its digest is verified on the way.
    async fn blob(
        &self,
        descriptor: &Descriptor,
        out: &mut (impl tokio::io::AsyncWrite + Unpin),
    ) -> Result<(), Error> {
        let layer = LayerDescriptor { digest: &descriptor.digest, urls: &None };
        self.client
            .pull_blob(&self.remote(None), &layer, out)
            .await
            .map_err(|e| self.error(&format!("get blob {}", descriptor.digest), &e))
    }

    fn error(&self, what: &str, error: &OciDistributionError) -> Error {
        let message = format!("pull {}: {what}: {error}", self.reference);
        let has = |code: &dyn Fn(&OciErrorCode) -> bool| match error {
            OciDistributionError::RegistryError { envelope, .. } => {
                envelope.errors.iter().any(|e| code(&e.code))
            }
            _ => false,
        };
        match error {
            OciDistributionError::ImageManifestNotFoundError(_) => Error::NotFound(message),
            OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::UnauthorizedError { .. } => Error::Unauthorized(message),
            _ if has(&|code| {
                matches!(
                    code,
                    OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound
                )
            }) =>
            {
                Error::NotFound(message)
            }
            _ if has(&|code| matches!(code, OciErrorCode::Denied | OciErrorCode::Unauthorized)) => {
                Error::Unauthorized(message)
            }
            _ => Error::Registry(message),
        }
    }
}
