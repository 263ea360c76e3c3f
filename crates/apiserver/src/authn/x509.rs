//! Client certificates: the common name is the user, the organisations are the groups.
//!
//! The chain is verified at every request, so that a certificate that expires during a long connection is noticed;
//! the result is remembered for a minute, since verifying costs more than all the rest of a request.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use isopod_api::identity::{GROUP_AUTHENTICATED, UserInfo};
use isopod_client::Clock;
use isopod_pki::tls::ClientTrust;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::layers::{AuthenticationError, Authenticator, PeerCertificates};

/// Seconds a verified chain is taken for verified; it bounds how late its expiry is noticed.
const REMEMBERED_SECONDS: i64 = 60;
/// Chains remembered; when there are more, all are forgotten.
const REMEMBERED_MAX: usize = 4096;

/// Verifies chains against one bundle of authorities, and remembers.
pub(super) struct Verifier {
    trust: ClientTrust,
    clock: Arc<dyn Clock>,
    verified: Mutex<Verified>,
}

/// Subjects by digest of their chain, with the time until which they are taken for verified.
type Verified = HashMap<[u8; 32], (Arc<Subject>, i64)>;

/// Whom a certificate names.
pub(super) struct Subject {
    pub(super) common_name: String,
    organizations: Vec<String>,
    uid: String,
    fingerprint: String,
}

/// Where a certificate may carry the user's uid (upstream's own object identifier).
const UID_OID: &str = "1.3.6.1.4.1.57683.2";

impl Verifier {
    pub(super) fn new(ca_pem: &str, clock: Arc<dyn Clock>) -> Result<Self, isopod_pki::Error> {
        Ok(Self { trust: ClientTrust::new(ca_pem)?, clock, verified: Mutex::default() })
    }

    /// The subject of a chain that leads to a trusted authority.
    pub(super) fn verify(
        &self,
        chain: &[CertificateDer<'static>],
    ) -> Result<Arc<Subject>, AuthenticationError> {
        let now = self.clock.now().as_second();
        let mut digest = Sha256::new();
        chain.iter().for_each(|certificate| digest.update(certificate));
        let digest: [u8; 32] = digest.finalize().into();
        if let Some((subject, until)) = self.verified.lock().get(&digest)
            && now < *until
        {
            return Ok(subject.clone());
        }
        let seconds = u64::try_from(now).unwrap_or(0);
        self.trust.verify(chain, seconds).map_err(|error| AuthenticationError(format!("x509: {error}")))?;
        let (subject, expiry) = subject_of(chain)?;
        let subject = Arc::new(subject);
        let mut verified = self.verified.lock();
        if verified.len() >= REMEMBERED_MAX {
            verified.clear();
        }
        verified.insert(digest, (subject.clone(), (now + REMEMBERED_SECONDS).min(expiry)));
        Ok(subject)
    }
}

fn subject_of(chain: &[CertificateDer<'static>]) -> Result<(Subject, i64), AuthenticationError> {
    let unreadable = || AuthenticationError("x509: certificate cannot be parsed".into());
    let leaf = chain.first().ok_or_else(unreadable)?;
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| unreadable())?;
    let name = certificate.subject();
    let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().ok().map(str::to_owned);
    let uid = name.iter_attributes().find(|attribute| attribute.attr_type().to_id_string() == UID_OID);
    let hex: String = Sha256::digest(leaf).iter().map(|byte| format!("{byte:02x}")).collect();
    let subject = Subject {
        common_name: name.iter_common_name().next().and_then(text).unwrap_or_default(),
        organizations: name.iter_organization().filter_map(text).collect(),
        uid: uid.and_then(text).unwrap_or_default(),
        fingerprint: hex,
    };
    Ok((subject, certificate.validity().not_after.timestamp()))
}

/// Authenticates by client certificate.
pub(super) struct ClientCertificate(Verifier);

impl ClientCertificate {
    pub(super) fn new(ca_pem: &str, clock: Arc<dyn Clock>) -> Result<Self, isopod_pki::Error> {
        Verifier::new(ca_pem, clock).map(Self)
    }
}

#[async_trait]
impl Authenticator for ClientCertificate {
    fn name(&self) -> &'static str {
        "x509"
    }

    async fn authenticate(
        &self,
        _parts: &http::request::Parts,
        peer: &PeerCertificates,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        if peer.0.is_empty() {
            return Ok(None);
        }
        let subject = self.0.verify(&peer.0)?;
        if subject.common_name.is_empty() {
            return Ok(None);
        }
        let mut groups = subject.organizations.clone();
        groups.push(GROUP_AUTHENTICATED.to_owned());
        let credential = format!("X509SHA256={}", subject.fingerprint);
        Ok(Some(UserInfo {
            name: subject.common_name.clone(),
            uid: subject.uid.clone(),
            groups,
            extra: [("authentication.kubernetes.io/credential-id".to_owned(), vec![credential])].into(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use isopod_client::ManualClock;
    use isopod_pki::tls::certificates;

    use super::*;
    use crate::authn::tests_support::{parts, pki};

    #[tokio::test]
    async fn names_groups_and_expiry() {
        let (pki, now) = pki();
        let clock = Arc::new(ManualClock::new(now));
        let authenticator =
            ClientCertificate::new(pki.client_ca.certificate_pem(), clock.clone()).expect("authenticator");
        let identity = isopod_pki::Identity::client("jane", Some("devs"));
        let leaf = pki.client_ca.issue(&identity, Duration::from_secs(30), now).expect("leaf");
        let peer = PeerCertificates(certificates(&leaf.certificate_pem).expect("chain").into());
        let ask = || authenticator.authenticate_now(&peer);
        let user = ask().await.expect("trusted").expect("named");
        assert_eq!(
            (user.name.as_str(), &user.groups[..]),
            ("jane", &["devs".to_owned(), "system:authenticated".into()][..])
        );
        clock.advance(Duration::from_secs(31));
        assert!(ask().await.is_err(), "expired during the connection");
        let foreign =
            PeerCertificates(certificates(&pki.kubelet_serving.certificate_pem).expect("chain").into());
        assert!(authenticator.authenticate_now(&foreign).await.is_err(), "another authority");
        let none = authenticator.authenticate_now(&PeerCertificates::default()).await;
        assert!(none.expect("no error").is_none());
    }

    impl ClientCertificate {
        async fn authenticate_now(
            &self,
            peer: &PeerCertificates,
        ) -> Result<Option<UserInfo>, AuthenticationError> {
            self.authenticate(&parts(&[]), peer).await
        }
    }
}
