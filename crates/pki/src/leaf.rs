//! End-entity certificates: whom they name, what they are for, and when they are to be renewed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authority::{Authority, generate, pair_paths, parse_key, set_life};
use crate::error::Error;
use crate::files::{read_text, write_private};

/// Life of a leaf: upstream's, a year.
const LEAF_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Whom a certificate names and what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User name of a client.
    pub common_name: String,
    /// Group of a client.
    pub organization: Option<String>,
    /// Names a server answers to.
    pub dns_names: BTreeSet<String>,
    /// Addresses a server answers at.
    pub addresses: BTreeSet<IpAddr>,
    /// May be shown by a client.
    pub client: bool,
    /// May be shown by a server.
    pub server: bool,
}

impl Identity {
    /// A client, a member of `group` when given.
    pub fn client(user: &str, group: Option<&str>) -> Self {
        Self {
            common_name: user.to_owned(),
            organization: group.map(str::to_owned),
            dns_names: BTreeSet::new(),
            addresses: BTreeSet::new(),
            client: true,
            server: false,
        }
    }

    /// A server.
    pub fn server(
        common_name: &str,
        dns_names: impl IntoIterator<Item = String>,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Self {
        Self {
            common_name: common_name.to_owned(),
            organization: None,
            dns_names: dns_names.into_iter().collect(),
            addresses: addresses.into_iter().collect(),
            client: false,
            server: true,
        }
    }

    pub(crate) fn params(&self) -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::new(self.dns_names.iter().cloned().collect::<Vec<_>>())?;
        params.subject_alt_names.extend(self.addresses.iter().map(|address| SanType::IpAddress(*address)));
        params.distinguished_name = DistinguishedName::new();
        if let Some(group) = &self.organization {
            params.distinguished_name.push(DnType::OrganizationName, group.as_str());
        }
        params.distinguished_name.push(DnType::CommonName, self.common_name.as_str());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if self.client {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        if self.server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        Ok(params)
    }
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Leaf {
    /// The certificate.
    pub certificate_pem: String,
    /// The key (PKCS#8).
    pub key_pem: String,
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaf").finish_non_exhaustive()
    }
}

impl Leaf {
    /// A certificate that nobody vouches for, for a server whose clients do not ask.
    ///
    /// # Errors
    /// When a name is not fit for a certificate.
    pub fn self_signed(identity: &Identity, life: Duration, now: Timestamp) -> Result<Self, Error> {
        let key = generate(&identity.common_name)?;
        let failed = |source| Error::Make { subject: identity.common_name.clone(), source };
        let mut params = identity.params().map_err(failed)?;
        set_life(&mut params, life, now);
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Leaf { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// Loads or makes the leaf kept in `directory` as `stem.crt` and `stem.key`. Returns whether it was made.
    ///
    /// It is made anew when it expires soon, was signed by another authority, names others than asked, or does
    /// not belong to its key, which happens when a renewal was cut short between the two files.
    pub(crate) fn ensure(
        directory: &Path,
        stem: &str,
        identity: &Identity,
        authority: &Authority,
        now: Timestamp,
    ) -> Result<(Self, bool), Error> {
        let (cert_path, key_path) = pair_paths(directory, stem);
        if let (Some(certificate_pem), Some(key_pem)) = (read_text(&cert_path)?, read_text(&key_path)?) {
            let validity = Validity::of(&cert_path, &certificate_pem)?;
            let key = parse_key(&key_path, &key_pem)?;
            let good = !validity.wants_renewal(now)
                && validity.issuer_key_id == authority.key_id()
                && validity.names(identity)
                && validity.public_key == key.subject_public_key_info();
            if good {
                return Ok((Self { certificate_pem, key_pem }, false));
            }
        }
        let leaf = authority.issue(identity, LEAF_LIFE, now)?;
        write_private(&key_path, leaf.key_pem.as_bytes())?;
        write_private(&cert_path, leaf.certificate_pem.as_bytes())?;
        Ok((leaf, true))
    }
}

/// What a certificate says of itself.
pub(crate) struct Validity {
    pub(crate) public_key: Vec<u8>,
    pub(crate) key_id: Vec<u8>,
    issuer_key_id: Vec<u8>,
    not_before: i64,
    not_after: i64,
    common_name: String,
    organization: Option<String>,
    dns_names: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
}

impl Validity {
    pub(crate) fn of(path: &Path, pem: &str) -> Result<Self, Error> {
        let corrupt = |reason: &str| Error::Corrupt { path: path.to_owned(), reason: reason.to_owned() };
        let der =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| corrupt("it holds no certificate"))?;
        let (_, certificate) =
            X509Certificate::from_der(&der).map_err(|_| corrupt("its certificate cannot be parsed"))?;
        let subject = certificate.subject();
        let first = |mut names: Box<
            dyn Iterator<Item = &'_ x509_parser::x509::AttributeTypeAndValue<'_>> + '_,
        >| { names.next().and_then(|name| name.as_str().ok()).map(str::to_owned) };
        let mut validity = Self {
            public_key: certificate.public_key().raw.to_vec(),
            key_id: Vec::new(),
            issuer_key_id: Vec::new(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            common_name: first(Box::new(subject.iter_common_name())).unwrap_or_default(),
            organization: first(Box::new(subject.iter_organization())),
            dns_names: BTreeSet::new(),
            addresses: BTreeSet::new(),
        };
        for extension in certificate.extensions() {
            validity.read_extension(extension.parsed_extension());
        }
        Ok(validity)
    }

    fn read_extension(&mut self, extension: &ParsedExtension<'_>) {
        match extension {
            ParsedExtension::SubjectKeyIdentifier(id) => self.key_id = id.0.to_vec(),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                self.issuer_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec()).unwrap_or_default();
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    match name {
                        GeneralName::DNSName(name) => {
                            self.dns_names.insert((*name).to_owned());
                        }
                        GeneralName::IPAddress(octets) => self.addresses.extend(address(octets)),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    /// Less than a third of its life is left, or it is not valid yet by more than the clock can be wrong.
    pub(crate) fn wants_renewal(&self, now: Timestamp) -> bool {
        let left = self.not_after - now.as_second();
        left < (self.not_after - self.not_before) / 3
    }

    fn names(&self, identity: &Identity) -> bool {
        self.common_name == identity.common_name
            && self.organization == identity.organization
            && self.dns_names.is_superset(&identity.dns_names)
            && self.addresses.is_superset(&identity.addresses)
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        _ => None,
    }
}
