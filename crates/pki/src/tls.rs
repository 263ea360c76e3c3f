//! TLS configurations of the system's servers and clients, all on one provider and with certificates that can be
//! replaced while connections live.

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::error::Error;
use crate::leaf::Leaf;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn unusable(what: &'static str) -> impl Fn(&dyn std::fmt::Display) -> Error {
    move |reason| Error::Tls { what, reason: reason.to_string() }
}

/// The certificates of a PEM bundle.
///
/// # Errors
/// When there is none, or one cannot be parsed.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let fail = unusable("certificate");
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => Err(fail(&"the PEM text holds none")),
        Ok(found) => Ok(found),
        Err(error) => Err(fail(&error)),
    }
}

/// The trust anchors of a PEM bundle.
///
/// # Errors
/// When there is none, or one cannot be used.
pub fn roots(pem: &str) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem)? {
        store.add(certificate).map_err(|error| unusable("authority")(&error))?;
    }
    Ok(store)
}

fn certified_key(leaf: &Leaf) -> Result<CertifiedKey, Error> {
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes())
        .map_err(|error| unusable("private key")(&error))?;
    let key =
        provider().key_provider.load_private_key(key).map_err(|error| unusable("private key")(&error))?;
    let certified = CertifiedKey::new(certificates(&leaf.certificate_pem)?, key);
    certified.keys_match().map_err(|error| unusable("certificate with key")(&error))?;
    Ok(certified)
}

/// A serving certificate that can be replaced; new connections get the new one.
#[derive(Debug)]
pub struct ServingCertificate(RwLock<Arc<CertifiedKey>>);

impl ServingCertificate {
    /// Serves `leaf`.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn new(leaf: &Leaf) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self(RwLock::new(Arc::new(certified_key(leaf)?)))))
    }

    /// Serves `leaf` from now on.
    ///
    /// # Errors
    /// When it cannot be used; the old one then stays.
    pub fn replace(&self, leaf: &Leaf) -> Result<(), Error> {
        let key = Arc::new(certified_key(leaf)?);
        *self.0.write() = key;
        Ok(())
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }
}

/// What a server asks of its clients.
pub enum Clients {
    /// No certificate is asked for.
    Anonymous,
    /// A certificate may be shown, and whoever shows one proves to hold its key. Whether it is valid is for the
    /// server to judge by [`ClientTrust`] at every request, so that a bad one is answered with 401 as upstream
    /// does, and one that expires during a long connection is noticed. The bundle is told to clients as a hint.
    Optional {
        /// Authorities named to the client, PEM; empty names none.
        hint_pem: String,
    },
    /// A certificate of this bundle's authorities must be shown.
    Required {
        /// Trusted authorities, PEM.
        ca_pem: String,
    },
}

/// A server's configuration; `protocols` are ALPN names in order of preference.
///
/// # Errors
/// When a bundle cannot be used.
pub fn server_config(
    certificate: Arc<ServingCertificate>,
    clients: &Clients,
    protocols: &[&str],
) -> Result<Arc<ServerConfig>, Error> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("provider")(&error))?;
    let builder = match clients {
        Clients::Anonymous => builder.with_no_client_auth(),
        Clients::Optional { hint_pem } => {
            let hints = if hint_pem.is_empty() { Vec::new() } else { roots(hint_pem)?.subjects() };
            builder.with_client_cert_verifier(Arc::new(AnyHolder { hints, provider: provider() }))
        }
        Clients::Required { ca_pem } => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca_pem)?), provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| unusable("authority")(&error))?)
        }
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    // Resumption would skip the client's certificate; sessions are long and few, so nothing is lost.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// A client's configuration.
///
/// # Errors
/// When a bundle or the certificate cannot be used.
pub fn client_config(
    ca_pem: &str,
    certificate: Option<&Leaf>,
    protocols: &[&str],
) -> Result<Arc<ClientConfig>, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("provider")(&error))?
        .with_root_certificates(roots(ca_pem)?);
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(leaf) => {
            let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes())
                .map_err(|error| unusable("private key")(&error))?;
            builder
                .with_client_auth_cert(certificates(&leaf.certificate_pem)?, key)
                .map_err(|error| unusable("client certificate")(&error))?
        }
    };
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// Judges the certificate a client has shown.
pub struct ClientTrust(Arc<dyn ClientCertVerifier>);

impl ClientTrust {
    /// Trusts the authorities of a PEM bundle.
    ///
    /// # Errors
    /// When the bundle cannot be used.
    pub fn new(ca_pem: &str) -> Result<Self, Error> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca_pem)?), provider()).build();
        Ok(Self(verifier.map_err(|error| unusable("authority")(&error))?))
    }

    /// Whether the chain, the client's own certificate first, leads to a trusted authority, is meant for clients
    /// and is valid at `now` (seconds since 1970). The reason why not is for the log, not for the client.
    ///
    /// # Errors
    /// When it is not to be trusted.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: u64) -> Result<(), rustls::Error> {
        let (own, intermediates) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
        self.0.verify_client_cert(own, intermediates, now).map(|_| ())
    }
}

/// Accepts any certificate whose key the client holds.
#[derive(Debug)]
struct AnyHolder {
    hints: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyHolder {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Authority, Identity};

    #[test]
    fn trust_is_by_authority_purpose_and_time() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let now: jiff::Timestamp = "2026-05-01T00:00:00Z".parse().expect("a timestamp");
        let (ca, _) = Authority::ensure(directory.path(), "ca", "ca", now).expect("authority");
        let (other, _) = Authority::ensure(directory.path(), "other", "other", now).expect("authority");
        let trust = ClientTrust::new(ca.certificate_pem()).expect("trust");
        let verdict = |authority: &Authority, identity: &Identity, at: i64| {
            let leaf = authority.issue(identity, Duration::from_secs(3600), now).expect("leaf");
            let chain = certificates(&leaf.certificate_pem).expect("chain");
            trust.verify(&chain, u64::try_from(now.as_second() + at).expect("after 1970")).is_ok()
        };
        let client = Identity::client("jane", Some("devs"));
        assert!(verdict(&ca, &client, 0));
        assert!(!verdict(&other, &client, 0), "another authority");
        assert!(!verdict(&ca, &client, 3601), "expired");
        assert!(!verdict(&ca, &Identity::server("web", ["web".to_owned()], []), 0), "a server's certificate");
    }
}
