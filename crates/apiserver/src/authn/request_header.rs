//! A trusted front proxy says who the user is, in headers.
//!
//! The headers count only when the connection shows a certificate of the front proxy's own authority; from anyone
//! else they are ignored, and they never reach an extension API server unchecked.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use http::HeaderMap;
use isopod_api::identity::{GROUP_AUTHENTICATED, GROUP_UNAUTHENTICATED, USER_ANONYMOUS, UserInfo};
use isopod_client::Clock;

use super::x509::Verifier;
use crate::layers::{AuthenticationError, Authenticator, PeerCertificates};
use crate::request_info::percent_decode;

const EXTRA_PREFIX: &str = "x-remote-extra-";

/// Authenticates by `X-Remote-*`.
pub(super) struct RequestHeader {
    verifier: Verifier,
    names: Vec<String>,
}

impl RequestHeader {
    pub(super) fn new(
        ca_pem: &str,
        names: Vec<String>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, isopod_pki::Error> {
        Ok(Self { verifier: Verifier::new(ca_pem, clock)?, names })
    }
}

#[async_trait]
impl Authenticator for RequestHeader {
    fn name(&self) -> &'static str {
        "requestheader"
    }

    async fn authenticate(
        &self,
        parts: &http::request::Parts,
        peer: &PeerCertificates,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        if peer.0.is_empty() || !parts.headers.contains_key("x-remote-user") {
            return Ok(None);
        }
        // An ordinary client's certificate is not an error here: the next authenticator looks at it.
        let Ok(subject) = self.verifier.verify(&peer.0) else { return Ok(None) };
        if !self.names.is_empty() && !self.names.contains(&subject.common_name) {
            return Err(AuthenticationError(format!(
                "x509: {:?} is not a trusted front proxy",
                subject.common_name
            )));
        }
        let text = |name: &str| first(&parts.headers, name);
        let name = text("x-remote-user");
        if name.is_empty() {
            return Ok(None);
        }
        let mut groups = all(&parts.headers, "x-remote-group");
        let implied = if name == USER_ANONYMOUS { GROUP_UNAUTHENTICATED } else { GROUP_AUTHENTICATED };
        if !groups.iter().any(|group| group == implied) {
            groups.push(implied.to_owned());
        }
        Ok(Some(UserInfo {
            uid: text("x-remote-uid"),
            name,
            groups,
            extra: extra(&parts.headers, EXTRA_PREFIX),
        }))
    }
}

fn first(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned()
}

fn all(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
}

/// Headers that begin with `prefix`, by the rest of their names (lower case, percent-decoded).
fn extra(headers: &HeaderMap, prefix: &str) -> BTreeMap<String, Vec<String>> {
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let (Some(key), Ok(value)) = (name.as_str().strip_prefix(prefix), value.to_str()) {
            extra.entry(percent_decode(key).to_lowercase()).or_default().push(value.to_owned());
        }
    }
    extra
}

#[cfg(test)]
mod tests {
    use isopod_client::ManualClock;
    use isopod_pki::tls::certificates;

    use super::*;
    use crate::authn::tests_support::{parts, pki};

    #[tokio::test]
    async fn only_a_front_proxy_is_believed() {
        let (pki, now) = pki();
        let clock = Arc::new(ManualClock::new(now));
        let names = vec!["front-proxy-client".to_owned()];
        let authenticator =
            RequestHeader::new(pki.front_proxy_ca.certificate_pem(), names, clock).expect("authenticator");
        let parts =
            parts(&[("x-remote-user", "jane"), ("x-remote-group", "devs"), ("x-remote-extra-a%2fb", "c")]);
        let peer = |pem: &str| PeerCertificates(certificates(pem).expect("chain").into());
        let proxy = peer(&pki.front_proxy_client.certificate_pem);
        let user = authenticator.authenticate(&parts, &proxy).await.expect("trusted").expect("named");
        assert_eq!(user.name, "jane");
        assert_eq!(user.groups, ["devs", "system:authenticated"]);
        assert_eq!(user.extra["a/b"], ["c"]);
        let client = peer(&pki.admin.certificate_pem);
        assert!(authenticator.authenticate(&parts, &client).await.expect("no error").is_none());
        let nobody = PeerCertificates::default();
        assert!(authenticator.authenticate(&parts, &nobody).await.expect("no error").is_none());
    }
}
