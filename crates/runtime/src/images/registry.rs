//! A repository of a registry: manifests and blobs, each measured while it is received.
//!
//! A registry may send more than it promised, or never end. A blob may have the bytes that its descriptor says,
//! a manifest [`DOCUMENT_BYTES_MAX`]; what goes beyond ends the transfer.

use std::pin::Pin;
use std::task::{Context as Wakes, Poll};
use std::time::Duration;

use oci_client::client::{ClientConfig, ClientProtocol, LayerDescriptor};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference as Remote, RegistryOperation};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWrite;
use tokio::sync::OnceCell;

use super::config::{Descriptor, Manifest};
use super::index::hex;
use super::pull::Credentials;
use super::{DOCUMENT_BYTES_MAX, Reference};
use crate::error::Error;

/// A registry that sends nothing for so long is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const USER_AGENT: &str = concat!("isopod/", env!("CARGO_PKG_VERSION"));

const MEDIA_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
                           application/vnd.docker.distribution.manifest.list.v2+json, \
                           application/vnd.oci.image.manifest.v1+json, \
                           application/vnd.docker.distribution.manifest.v2+json";

/// A repository of a registry, with what is needed to use it.
pub(super) struct Registry {
    client: oci_client::Client,
    /// For manifests, which the client would read into memory whatever their size.
    http: reqwest::Client,
    scheme: &'static str,
    reference: Reference,
    auth: RegistryAuth,
    token: OnceCell<Option<String>>,
}

impl Registry {
    pub(super) fn new(
        reference: Reference,
        credentials: &Credentials,
        insecure: &[String],
    ) -> Result<Self, Error> {
        let plain = reference.is_loopback() || insecure.contains(&reference.registry);
        // The registry client brings no cryptography of its own. Where the process has chosen already, that stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            read_timeout: Some(READ_TIMEOUT),
            connect_timeout: Some(CONNECT_TIMEOUT),
            user_agent: USER_AGENT,
            ..ClientConfig::default()
        };
        let failed = |e: &dyn std::fmt::Display| Error::Registry(format!("registry client: {e}"));
        let client = oci_client::Client::try_from(config).map_err(|e| failed(&e))?;
        let http = reqwest::Client::builder()
            .read_timeout(READ_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(USER_AGENT)
            .build()
            .map_err(|e| failed(&e))?;
        let scheme = if plain { "http" } else { "https" };
        Ok(Self { client, http, scheme, reference, auth: credentials.0.clone(), token: OnceCell::new() })
    }

    fn remote(&self, digest: Option<&str>) -> Remote {
        let Reference { registry, repository, tag, .. } = &self.reference;
        match digest.or(self.reference.digest.as_deref()) {
            Some(digest) => Remote::with_digest(registry.clone(), repository.clone(), digest.to_owned()),
            None => Remote::with_tag(
                registry.clone(),
                repository.clone(),
                tag.clone().unwrap_or_else(|| "latest".to_owned()),
            ),
        }
    }

    /// Digest of the manifest for this machine, digest of what the name points to, and the manifest.
    pub(super) async fn manifest(&self) -> Result<(String, String, Vec<u8>), Error> {
        let (bytes, top_digest) = self.raw_manifest(&self.remote(None)).await?;
        let manifest = Manifest::parse(&bytes)?;
        if manifest.manifests.is_empty() {
            return Ok((top_digest.clone(), top_digest, bytes));
        }
        let chosen = manifest.for_this_machine()?.digest.clone();
        let (bytes, digest) = self.raw_manifest(&self.remote(Some(&chosen))).await?;
        Ok((digest, top_digest, bytes))
    }

    async fn raw_manifest(&self, remote: &Remote) -> Result<(Vec<u8>, String), Error> {
        let token = self
            .token
            .get_or_try_init(|| self.client.auth(remote, &self.auth, RegistryOperation::Pull))
            .await
            .map_err(|e| self.error("get the manifest", &e))?;
        let name = remote.digest().or(remote.tag()).unwrap_or("latest");
        let (registry, repository) = (remote.resolve_registry(), remote.repository());
        let url = format!("{}://{registry}/v2/{repository}/manifests/{name}", self.scheme);
        let request = self.http.get(url).header("accept", MEDIA_TYPES);
        let request = match (token, &self.auth) {
            (Some(token), _) => request.bearer_auth(token),
            (None, RegistryAuth::Basic(user, password)) => request.basic_auth(user, Some(password)),
            (None, _) => request,
        };
        let failed = |e: reqwest::Error| {
            let e = e.without_url();
            Error::Registry(format!("pull {}: get the manifest: {e}", self.reference))
        };
        let mut response = request.send().await.map_err(failed)?;
        self.check(response.status())?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if (bytes.len() + chunk.len()) as u64 > DOCUMENT_BYTES_MAX {
                return Err(Error::TooLarge(format!(
                    "pull {}: the manifest has more than {DOCUMENT_BYTES_MAX} bytes",
                    self.reference
                )));
            }
            bytes.extend_from_slice(&chunk);
        }
        let digest = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
        match remote.digest() {
            Some(wanted) if wanted != digest => Err(Error::Registry(format!(
                "pull {}: the manifest has digest {digest}, not {wanted}",
                self.reference
            ))),
            _ => Ok((bytes, digest)),
        }
    }

    fn check(&self, status: reqwest::StatusCode) -> Result<(), Error> {
        let message = || format!("pull {}: get the manifest: the registry answers {status}", self.reference);
        match status.as_u16() {
            _ if status.is_success() => Ok(()),
            404 => Err(Error::NotFound(message())),
            401 | 403 => Err(Error::Unauthorized(message())),
            _ => Err(Error::Registry(message())),
        }
    }

    /// Downloads a blob; its size and digest are verified on the way.
    pub(super) async fn blob(
        &self,
        descriptor: &Descriptor,
        out: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(), Error> {
        let layer = LayerDescriptor { digest: &descriptor.digest, urls: &None };
        let mut out = Limited { inner: out, left: descriptor.size };
        self.client
            .pull_blob(&self.remote(None), &layer, &mut out)
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

/// Takes as many bytes as were promised.
struct Limited<W> {
    inner: W,
    left: u64,
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Limited<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        wakes: &mut Wakes<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if bytes.len() as u64 > self.left {
            let message = "it has more bytes than its descriptor says";
            return Poll::Ready(Err(std::io::Error::other(message)));
        }
        let written = std::task::ready!(Pin::new(&mut self.inner).poll_write(wakes, bytes))?;
        self.left -= written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, wakes: &mut Wakes<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(wakes)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, wakes: &mut Wakes<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(wakes)
    }
}
