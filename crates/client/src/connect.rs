//! Clients over the network: from a kubeconfig file, or from an address and certificates.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be read or parsed, or names what is not there.
    #[error("kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// The address is no URL.
    #[error("API server address {url:?} is not a URL")]
    Url {
        /// What was given.
        url: String,
    },
    /// The CA bundle holds no readable certificate.
    #[error("CA bundle holds no readable certificate")]
    CaBundle,
    /// The client could not be put together, for instance since key and certificate do not match.
    #[error("client for {url}")]
    Client {
        /// The API server.
        url: String,
        /// What failed.
        #[source]
        source: Box<kube::Error>,
    },
}

/// A client for the current context of the kubeconfig at `path`.
///
/// # Errors
/// When the file is unreadable, incomplete or its credentials are unusable.
pub async fn from_kubeconfig(path: &Path) -> Result<kube::Client, ConnectError> {
    let fail = |source| ConnectError::Kubeconfig { path: path.to_owned(), source };
    let kubeconfig = Kubeconfig::read_from(path).map_err(fail)?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(fail)?;
    // The API server is reached directly, whatever proxy the environment names for other traffic.
    config.proxy_url = None;
    let url = config.cluster_url.to_string();
    kube::Client::try_from(config).map_err(|source| ConnectError::Client { url, source: Box::new(source) })
}

/// A client that trusts `ca_pem` and shows the given certificate. Must be called within a tokio runtime.
///
/// # Errors
/// When the address or a PEM block is unusable.
pub fn from_tls(
    url: &str,
    ca_pem: &str,
    cert_pem: &str,
    key_pem: &str,
) -> Result<kube::Client, ConnectError> {
    let bad_url = || ConnectError::Url { url: url.to_owned() };
    let mut config = kube::Config::new(url.parse().map_err(|_| bad_url())?);
    let roots: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(ca_pem.as_bytes())
        .map(|der| der.map(|der| der.as_ref().to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|_| ConnectError::CaBundle)?;
    if roots.is_empty() {
        return Err(ConnectError::CaBundle);
    }
    config.root_cert = Some(roots);
    config.auth_info = certificate_auth(cert_pem, key_pem);
    kube::Client::try_from(config)
        .map_err(|source| ConnectError::Client { url: url.to_owned(), source: Box::new(source) })
}

fn certificate_auth(cert_pem: &str, key_pem: &str) -> AuthInfo {
    let value = serde_json::json!({
        "client-certificate-data": STANDARD.encode(cert_pem),
        "client-key-data": STANDARD.encode(key_pem),
    });
    serde_json::from_value(value).expect("the two fields are of the type's own names")
}
