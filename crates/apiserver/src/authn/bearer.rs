//! Bearer tokens: the `Authorization` header, and who knows the token.

use std::sync::Arc;

use async_trait::async_trait;
use http::header::AUTHORIZATION;
use isopod_api::identity::UserInfo;
use isopod_client::Clock;

use super::{Config, ServiceAccountTokens, bootstrap_token};
use crate::layers::{AuthenticationError, Authenticator, Objects, PeerCertificates};

/// How a WebSocket client that cannot set headers sends its token (a subprotocol).
const PROTOCOL_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// Everyone who knows tokens.
pub struct BearerTokens {
    service_accounts: Option<Arc<ServiceAccountTokens>>,
    bootstrap: bool,
    objects: Arc<dyn Objects>,
    clock: Arc<dyn Clock>,
}

impl BearerTokens {
    /// As configured.
    pub fn new(config: &Config, objects: &Arc<dyn Objects>) -> Self {
        Self {
            service_accounts: config.service_accounts.clone(),
            bootstrap: config.bootstrap_tokens,
            objects: objects.clone(),
            clock: config.clock(),
        }
    }

    /// Audiences of the API server itself.
    pub(super) fn audiences(&self) -> &[String] {
        self.service_accounts.as_deref().map(ServiceAccountTokens::audiences).unwrap_or_default()
    }

    /// Whom a token stands for, and for which of `audiences` it is; `None` when nobody knows it.
    pub(super) async fn identify(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<(UserInfo, Vec<String>)>, AuthenticationError> {
        let now = self.clock.now();
        let objects = self.objects.as_ref();
        if let Some(tokens) = &self.service_accounts
            && let Some(found) = tokens.authenticate(token, audiences, objects, now).await?
        {
            return Ok(Some(found));
        }
        if self.bootstrap
            && let Some(user) = bootstrap_token::authenticate(token, objects, now).await?
        {
            // A bootstrap token is for the API server and for nobody else.
            let ours =
                audiences.iter().filter(|audience| self.audiences().contains(audience)).cloned().collect();
            return Ok(Some((user, ours)));
        }
        Ok(None)
    }
}

#[async_trait]
impl Authenticator for BearerTokens {
    fn name(&self) -> &'static str {
        "token"
    }

    async fn authenticate(
        &self,
        parts: &http::request::Parts,
        _peer: &PeerCertificates,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        let Some(token) = token_of(parts) else { return Ok(None) };
        match self.identify(&token, self.audiences()).await? {
            Some((user, _)) => Ok(Some(user)),
            None => Err(AuthenticationError("bearer token: nobody knows it".into())),
        }
    }
}

fn token_of(parts: &http::request::Parts) -> Option<String> {
    if let Some(value) = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) {
        let (scheme, token) = value.trim().split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    let protocols = parts.headers.get("sec-websocket-protocol")?.to_str().ok()?;
    let encoded = protocols.split(',').find_map(|protocol| protocol.trim().strip_prefix(PROTOCOL_PREFIX))?;
    use base64::Engine;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).ok()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::tests_support::parts;

    #[test]
    fn where_a_token_stands() {
        let token = |headers: &[(&str, &str)]| token_of(&parts(headers));
        assert_eq!(token(&[("authorization", "Bearer abc")]).as_deref(), Some("abc"));
        assert_eq!(token(&[("authorization", "bearer  abc ")]).as_deref(), Some("abc"));
        assert_eq!(token(&[("authorization", "Basic abc")]), None);
        assert_eq!(token(&[("authorization", "Bearer ")]), None);
        let protocols = "base64url.bearer.authorization.k8s.io.YWJj, v5.channel.k8s.io";
        assert_eq!(token(&[("sec-websocket-protocol", protocols)]).as_deref(), Some("abc"));
        assert_eq!(token(&[]), None);
    }
}
