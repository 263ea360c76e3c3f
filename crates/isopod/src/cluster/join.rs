//! How a joining server fetches what the cluster shares: one request to the API server, which is trusted because it
//! shows the authority that the token names.

use super::{Bundle, Join, Token};
use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::sync::Arc;
use std::time::Duration;

/// Largest answer that is read; what is shared has some twenty kilobytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Longest the whole may take.
const TIME_MAX: Duration = Duration::from_secs(30);

/// Trusts the server that shows the authority which the token names, and a certificate signed by it.
#[derive(Debug)]
struct Pinned {
    token: Token,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let refused = |text: String| rustls::Error::General(text);
        let authority = intermediates
            .iter()
            .find(|certificate| self.token.is_authority(certificate))
            .ok_or_else(|| refused("the server is not of the cluster that the token is for".into()))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| refused(error.to_string()))?
            .verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Fetches what the cluster shares.
pub(super) async fn fetch(join: &Join) -> Result<Bundle> {
    tokio::time::timeout(TIME_MAX, ask(join)).await.context("no answer within 30 s")?
}

async fn ask(join: &Join) -> Result<Bundle> {
    let url: http::Uri = join.server.parse().context("--server is not a URL like https://HOST:6443")?;
    let (Some("https"), Some(host)) = (url.scheme_str(), url.host()) else {
        bail!("--server is not a URL like https://HOST:6443");
    };
    let host = host.trim_matches(['[', ']']);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Pinned { token: join.token.clone(), provider: Arc::clone(&provider) });
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect((host, url.port_u16().unwrap_or(6443))).await?;
    let name = ServerName::try_from(host.to_owned()).context("--server names no host")?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::get(format!(
        "/api/v1/namespaces/kube-system/secrets/{}",
        super::token_command::bundle_name(&join.token.id)
    ))
    .header(http::header::HOST, host)
    .header(http::header::ACCEPT, "application/json")
    .header(http::header::AUTHORIZATION, format!("Bearer {}", join.token.bearer()))
    .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("{error}")).context("read the answer")?.to_bytes();
    connection.abort();
    match status.as_u16() {
        200 => {}
        401 | 403 | 404 => bail!("the token is unknown to the cluster or has expired"),
        code => bail!("the server answered {code}"),
    }
    let secret: serde_json::Value = serde_json::from_slice(&body).context("the answer is not an object")?;
    let sealed = secret["data"]["bundle"].as_str().context("the answer holds no bundle")?;
    let sealed = STANDARD.decode(sealed).context("the bundle is damaged")?;
    serde_json::from_slice(&join.token.open(&sealed)?).context("the bundle is of another version")
}
