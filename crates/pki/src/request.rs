//! PKCS#10 requests: what they ask to be named.

use rcgen::IsCa;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::authority::generate;
use crate::error::Error;
use crate::leaf::Identity;

/// What a request asks for. That it is signed by its own key is checked when it is signed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestedNames {
    /// Common name.
    pub common_name: String,
    /// Organisations.
    pub organizations: Vec<String>,
    /// DNS names and addresses among the alternative names.
    pub hosts: usize,
    /// Alternative names of other sorts.
    pub other_names: usize,
}

/// Reads a request (PEM).
///
/// # Errors
/// When it is not one.
pub fn requested_names(pem: &[u8]) -> Result<RequestedNames, Error> {
    let wrong = |what: &str| Error::Request(what.to_owned());
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).map_err(|_| wrong("it is not PEM"))?;
    let (_, request) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|_| wrong("it is not PKCS#10"))?;
    let name = &request.certification_request_info.subject;
    let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().ok().map(str::to_owned);
    let mut names = RequestedNames {
        common_name: name.iter_common_name().next().and_then(text).unwrap_or_default(),
        organizations: name.iter_organization().filter_map(text).collect(),
        ..RequestedNames::default()
    };
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(alternative) = extension else { continue };
        for name in &alternative.general_names {
            match name {
                GeneralName::DNSName(_) | GeneralName::IPAddress(_) => names.hosts += 1,
                _ => names.other_names += 1,
            }
        }
    }
    Ok(names)
}

/// A new key and a request in the name of an identity, both as PEM: the request first.
///
/// # Errors
/// When a name is not fit for a certificate.
pub fn certificate_request(identity: &Identity) -> Result<(String, String), Error> {
    let key = generate(&identity.common_name)?;
    let failed = |source| Error::Make { subject: identity.common_name.clone(), source };
    let mut params = identity.params().map_err(failed)?;
    // What the certificate may be used for is told beside the request, and decided by who signs it.
    params.is_ca = IsCa::NoCa;
    params.key_usages.clear();
    params.extended_key_usages.clear();
    let request = params.serialize_request(&key).and_then(|request| request.pem()).map_err(failed)?;
    Ok((request, key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    #[test]
    fn names_are_read() {
        let key = KeyPair::generate().expect("key");
        let mut params =
            CertificateParams::new(vec!["a.example".to_owned(), "192.0.2.1".to_owned()]).expect("names");
        params.subject_alt_names.push(SanType::Rfc822Name("a@b.example".try_into().expect("ascii")));
        params.distinguished_name.push(DnType::CommonName, "system:node:a");
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        let pem = params.serialize_request(&key).expect("request").pem().expect("pem");
        let names = requested_names(pem.as_bytes()).expect("a request");
        assert_eq!((names.common_name.as_str(), names.hosts, names.other_names), ("system:node:a", 2, 1));
        assert_eq!(names.organizations, ["system:nodes"]);
        let (pem, _) = certificate_request(&Identity::client("u", Some("g"))).expect("a request");
        let names = requested_names(pem.as_bytes()).expect("a request");
        assert_eq!(
            (names.common_name.as_str(), names.organizations, names.hosts),
            ("u", vec!["g".to_owned()], 0)
        );
        for nonsense in [&b""[..], b"-----BEGIN X-----", b"\xff\xff"] {
            assert!(requested_names(nonsense).is_err());
        }
    }
}
