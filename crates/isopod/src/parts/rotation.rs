//! The client certificate of a kubelet that runs apart: renewed by a certificate request well before it expires, and
//! used without a restart. What was renewed is kept beside the kubelet's data and wins over an older one in the
//! kubeconfig.

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use isopod_client::{Clock, SystemClock};
use isopod_pki::{Identity, Leaf};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use rand::Rng;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use x509_parser::prelude::{FromDer, X509Certificate};

const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Part of a certificate's life after which it is renewed: random in this range, as upstream.
const RENEW_AT: std::ops::Range<f64> = 0.7..0.9;
/// How often it is looked whether that time has come, since the clock may be set.
const LOOK: Duration = Duration::from_secs(10 * 60);
/// How often a request is looked at, and for how long.
const POLL: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(60);

/// A certificate with its key, and what it says.
struct Certificate {
    leaf: Leaf,
    identity: Identity,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl Certificate {
    fn of(leaf: Leaf) -> Result<Self> {
        let der = isopod_pki::tls::certificates(&leaf.certificate_pem)?;
        let (_, parsed) = X509Certificate::from_der(&der[0])?;
        let subject = parsed.subject();
        let name = subject.iter_common_name().next().and_then(|n| n.as_str().ok()).unwrap_or_default();
        let group = subject.iter_organization().next().and_then(|o| o.as_str().ok());
        let validity = parsed.validity();
        let (not_before, not_after) = (
            Timestamp::from_second(validity.not_before.timestamp())?,
            Timestamp::from_second(validity.not_after.timestamp())?,
        );
        Ok(Certificate { identity: Identity::client(name, group), leaf, not_before, not_after })
    }

    /// When it is to be renewed.
    fn due(&self) -> Timestamp {
        let life = self.not_after.duration_since(self.not_before).as_secs_f64();
        let part = SignedDuration::from_secs_f64(life * rand::rng().random_range(RENEW_AT));
        self.not_before.checked_add(part).unwrap_or(self.not_before)
    }
}

/// The client of a kubelet, whose certificate is renewed until `shutdown`.
pub(crate) async fn client(
    kubeconfig: &Path,
    directory: &Path,
    shutdown: CancellationToken,
) -> Result<kube::Client> {
    let place = || format!("--kubeconfig: {}", kubeconfig.display());
    let file = Kubeconfig::read_from(kubeconfig).with_context(place)?;
    let options = KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(file, &options).await.with_context(place)?;
    // The API server is reached directly, whatever proxy the environment names for other traffic.
    config.proxy_url = None;
    let Some(given) = given(&config).with_context(place)? else {
        // Without a certificate there is none to renew.
        return super::client(kubeconfig).await;
    };
    let kept = directory.join("kubelet-client-current.pem");
    let current = match std::fs::read_to_string(&kept) {
        Ok(text) => newer(given, Certificate::of(Leaf { certificate_pem: text.clone(), key_pem: text }).ok()),
        Err(_) => given,
    };
    let (clients, now_used) = watch::channel(with_certificate(&config, &current.leaf)?);
    tokio::spawn(keep(config, kept, current, clients, shutdown));
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let client = now_used.borrow().clone();
        async move { Ok::<_, tower::BoxError>(client.send(request).await?) }
    });
    Ok(kube::Client::new(service, "default"))
}

/// The certificate that a kubeconfig names.
fn given(config: &kube::Config) -> Result<Option<Certificate>> {
    use kube::config::AuthInfo;
    let AuthInfo { client_certificate, client_certificate_data, client_key, .. } = &config.auth_info;
    let decode = |text: &str| -> Result<String> { Ok(String::from_utf8(STANDARD.decode(text.trim())?)?) };
    let certificate_pem = match (client_certificate_data, client_certificate) {
        (Some(data), _) => decode(data)?,
        (None, Some(path)) => std::fs::read_to_string(path)?,
        (None, None) => return Ok(None),
    };
    let key_data = serde_json::to_value(&config.auth_info)?;
    let key_pem = match (key_data["client-key-data"].as_str(), client_key) {
        (Some(data), _) => decode(data)?,
        (None, Some(path)) => std::fs::read_to_string(path)?,
        (None, None) => bail!("a client certificate without its key"),
    };
    Certificate::of(Leaf { certificate_pem, key_pem }).map(Some)
}

/// Of two certificates for the same node the one that lasts longer.
fn newer(given: Certificate, kept: Option<Certificate>) -> Certificate {
    match kept {
        Some(kept) if kept.identity == given.identity && kept.not_after > given.not_after => kept,
        _ => given,
    }
}

fn with_certificate(config: &kube::Config, leaf: &Leaf) -> Result<kube::Client> {
    let mut config = config.clone();
    let auth = &mut config.auth_info;
    (auth.client_certificate, auth.client_key) = (None, None);
    auth.client_certificate_data = Some(STANDARD.encode(&leaf.certificate_pem));
    auth.client_key_data = Some(STANDARD.encode(&leaf.key_pem).into());
    kube::Client::try_from(config).context("a client with the renewed certificate")
}

/// Renews the certificate in time, again and again.
async fn keep(
    config: kube::Config,
    path: PathBuf,
    mut current: Certificate,
    clients: watch::Sender<kube::Client>,
    shutdown: CancellationToken,
) {
    let mut due = current.due();
    loop {
        let left = Duration::try_from(due.duration_since(SystemClock.now())).unwrap_or_default();
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(left.min(LOOK)) => {}
        }
        if SystemClock.now() < due {
            continue;
        }
        let client = clients.borrow().clone();
        let renewed = tokio::select! {
            () = shutdown.cancelled() => return,
            renewed = renew(&client, &current.identity) => renewed,
        };
        match renewed.and_then(|leaf| replace(&config, &path, leaf, &clients)) {
            Ok(certificate) => {
                current = certificate;
                due = current.due();
                info!(until = %current.not_after, "the client certificate is renewed");
            }
            Err(error) => {
                warn!(error = format!("{error:#}"), until = %current.not_after, "the client certificate could not be renewed");
                due = SystemClock.now() + RETRY;
            }
        }
    }
}

/// Keeps a new certificate and uses it.
fn replace(
    config: &kube::Config,
    path: &Path,
    leaf: Leaf,
    clients: &watch::Sender<kube::Client>,
) -> Result<Certificate> {
    let text = format!("{}{}", leaf.certificate_pem, leaf.key_pem);
    isopod_pki::write_private(path, text.as_bytes())?;
    clients.send_replace(with_certificate(config, &leaf)?);
    Certificate::of(leaf)
}

/// Asks for a certificate and waits for it.
async fn renew(client: &kube::Client, identity: &Identity) -> Result<Leaf> {
    let (request, key_pem) = isopod_pki::certificate_request(identity)?;
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let object = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("csr-".to_owned()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.into_bytes()),
            signer_name: SIGNER.to_owned(),
            usages: Some(vec!["digital signature".to_owned(), "client auth".to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let made = api.create(&PostParams::default(), &object).await.context("ask for a certificate")?;
    let name = made.metadata.name.context("a request without a name")?;
    let answered = async {
        loop {
            tokio::time::sleep(POLL).await;
            let status = api.get(&name).await.context("look at the request")?.status.unwrap_or_default();
            if let Some(certificate) = status.certificate.filter(|c| !c.0.is_empty()) {
                return Ok(Leaf { certificate_pem: String::from_utf8(certificate.0)?, key_pem });
            }
            let conditions = status.conditions.unwrap_or_default();
            if let Some(no) = conditions.iter().find(|c| ["Denied", "Failed"].contains(&c.type_.as_str())) {
                bail!("request {name} is {}: {}", no.type_, no.message.as_deref().unwrap_or_default());
            }
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.context("nobody signs the request")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_lasts_longer_is_used_and_renewed_in_time() {
        let now = SystemClock.now();
        let make = |name: &str, hours: u64| {
            let identity = Identity::client(name, Some("system:nodes"));
            let life = Duration::from_secs(hours * 3600);
            Certificate::of(Leaf::self_signed(&identity, life, now).expect("a leaf")).expect("a certificate")
        };
        let short = make("system:node:a", 1);
        assert_eq!(short.identity, Identity::client("system:node:a", Some("system:nodes")));
        let due = short.due();
        assert!(due > now && due < short.not_after, "{due}");
        let long = make("system:node:a", 2).not_after;
        assert_eq!(newer(make("system:node:a", 1), Some(make("system:node:a", 2))).not_after, long);
        assert_eq!(newer(make("system:node:a", 2), Some(make("system:node:a", 1))).not_after, long);
        // That of another node is not taken for one's own.
        assert_eq!(newer(short, Some(make("system:node:b", 2))).identity.common_name, "system:node:a");
    }
}
