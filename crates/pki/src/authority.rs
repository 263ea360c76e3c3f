//! A certificate authority: its self-signed certificate, its key, and what it signs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::error::Error;
use crate::files::{read_text, write_private};
use crate::leaf::{Identity, Leaf, Validity};

/// Life of an authority.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates begin a little before now, for clocks that are behind.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// For what a requested certificate may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestedUsage {
    /// As a client.
    Client,
    /// As a server.
    Server,
}

/// A certificate authority.
pub struct Authority {
    name: String,
    certificate_pem: String,
    /// Identifier of its key, which the certificates it signs name.
    key_id: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Loads or makes the authority kept in `directory` as `stem.crt` and `stem.key`. Renewal keeps the key, so
    /// what it signed stays valid. Returns whether a certificate was made.
    pub(crate) fn ensure(
        directory: &Path,
        stem: &str,
        common_name: &str,
        now: Timestamp,
    ) -> Result<(Self, bool), Error> {
        let (cert_path, key_path) = pair_paths(directory, stem);
        let (key, fresh_key) = match read_text(&key_path)? {
            Some(pem) => (parse_key(&key_path, &pem)?, false),
            None if read_text(&cert_path)?.is_some() => {
                return Err(Error::Mismatch { cert: cert_path, key: key_path });
            }
            None => (generate(common_name)?, true),
        };
        if !fresh_key && let Some(pem) = read_text(&cert_path)? {
            let validity = Validity::of(&cert_path, &pem)?;
            if validity.public_key != key.subject_public_key_info() {
                return Err(Error::Mismatch { cert: cert_path, key: key_path });
            }
            if !validity.wants_renewal(now) {
                return Ok((Self::load(&cert_path, common_name, pem, key)?, false));
            }
        }
        let certificate_pem = self_sign(common_name, &key, now)?;
        if fresh_key {
            write_private(&key_path, key.serialize_pem().as_bytes())?;
        }
        write_private(&cert_path, certificate_pem.as_bytes())?;
        Ok((Self::load(&cert_path, common_name, certificate_pem, key)?, true))
    }

    /// An authority from PEM text, as `kube-controller-manager --cluster-signing-cert-file` is given one.
    ///
    /// # Errors
    /// When either cannot be parsed, or they do not belong together.
    pub fn from_files(cert_path: &Path, key_path: &Path) -> Result<Self, Error> {
        let missing =
            |path: &Path| Error::Corrupt { path: path.to_owned(), reason: "it does not exist".into() };
        let cert = read_text(cert_path)?.ok_or_else(|| missing(cert_path))?;
        let key = parse_key(key_path, &read_text(key_path)?.ok_or_else(|| missing(key_path))?)?;
        if Validity::of(cert_path, &cert)?.public_key != key.subject_public_key_info() {
            return Err(Error::Mismatch { cert: cert_path.to_owned(), key: key_path.to_owned() });
        }
        Self::load(cert_path, &cert_path.display().to_string(), cert, key)
    }

    fn load(path: &Path, name: &str, certificate_pem: String, key: KeyPair) -> Result<Self, Error> {
        let corrupt = |reason: String| Error::Corrupt { path: path.to_owned(), reason };
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|_| corrupt("it holds no certificate".into()))?;
        let key_id = Validity::of(path, &certificate_pem)?.key_id;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|error| corrupt(error.to_string()))?;
        Ok(Self { name: name.to_owned(), certificate_pem, key_id, issuer })
    }

    /// The authority's certificate.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Identifier of the authority's key.
    pub(crate) fn key_id(&self) -> &[u8] {
        &self.key_id
    }

    /// Makes a key and a certificate for it.
    ///
    /// # Errors
    /// When a name is not fit for a certificate.
    pub fn issue(&self, identity: &Identity, life: Duration, now: Timestamp) -> Result<Leaf, Error> {
        let key = generate(&identity.common_name)?;
        let failed = |source| Error::Make { subject: identity.common_name.clone(), source };
        let mut params = identity.params().map_err(failed)?;
        self.set_common(&mut params, life, now);
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Leaf { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// Signs a request (PEM, PKCS#10) whose content was approved by the caller: subject and alternative names are
    /// taken over, usages are those given and nothing else. Returns the certificate's PEM.
    ///
    /// # Errors
    /// When the request cannot be parsed or is not signed by its own key.
    pub fn sign_request(
        &self,
        request_pem: &str,
        usages: &[RequestedUsage],
        life: Duration,
        now: Timestamp,
    ) -> Result<String, Error> {
        let mut request = CertificateSigningRequestParams::from_pem(request_pem)
            .map_err(|error| Error::Request(error.to_string()))?;
        let params = &mut request.params;
        params.is_ca = IsCa::NoCa;
        params.custom_extensions.clear();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = usages
            .iter()
            .map(|usage| match usage {
                RequestedUsage::Client => ExtendedKeyUsagePurpose::ClientAuth,
                RequestedUsage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            })
            .collect();
        self.set_common(params, life, now);
        let certificate =
            request.signed_by(&self.issuer).map_err(|error| Error::Request(error.to_string()))?;
        Ok(certificate.pem())
    }

    fn set_common(&self, params: &mut CertificateParams, life: Duration, now: Timestamp) {
        set_life(params, life, now);
        params.serial_number = Some(random_serial());
        params.use_authority_key_identifier_extension = true;
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("name", &self.name).finish_non_exhaustive()
    }
}

pub(crate) fn pair_paths(directory: &Path, stem: &str) -> (PathBuf, PathBuf) {
    (directory.join(format!("{stem}.crt")), directory.join(format!("{stem}.key")))
}

pub(crate) fn parse_key(path: &Path, pem: &str) -> Result<KeyPair, Error> {
    KeyPair::from_pem(pem)
        .map_err(|error| Error::Corrupt { path: path.to_owned(), reason: error.to_string() })
}

pub(crate) fn generate(subject: &str) -> Result<KeyPair, Error> {
    KeyPair::generate().map_err(|source| Error::Make { subject: subject.to_owned(), source })
}

fn self_sign(common_name: &str, key: &KeyPair, now: Timestamp) -> Result<String, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_life(&mut params, CA_LIFE, now);
    params.serial_number = Some(random_serial());
    let made = params.self_signed(key);
    Ok(made.map_err(|source| Error::Make { subject: common_name.to_owned(), source })?.pem())
}

pub(crate) fn set_life(params: &mut CertificateParams, life: Duration, now: Timestamp) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since_epoch = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0));
    params.not_before = epoch + since_epoch.saturating_sub(BACKDATE);
    params.not_after = epoch + since_epoch + life;
}

/// Sixteen random bytes, positive and never zero, as RFC 5280 asks.
fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}
