//! Authentication: who sends a request.
//!
//! Asked in upstream's order: a trusted front proxy's headers, a client certificate, a bearer token (of a service
//! account, or a bootstrap token). Who shows no credentials is anonymous, which the request path allows for health
//! and version alone.

mod bearer;
mod bootstrap_token;
mod jwt;
mod keys;
mod legacy_token;
mod request_header;
mod service_account;
mod token_request;
mod token_review;
mod x509;

#[cfg(test)]
pub(crate) mod tests_support;

use std::sync::Arc;

use isopod_client::Clock;

pub use bearer::BearerTokens;
pub use keys::KeyError;
pub use service_account::ServiceAccountTokens;

use crate::layers::{Authenticator, Objects, VirtualResource};

/// Configuration of authentication.
#[derive(Clone, Default)]
pub struct Config {
    /// Authorities whose certificates name clients (PEM); empty: no client certificates.
    pub client_ca_pem: String,
    /// Authorities of trusted front proxies (PEM); empty: no front proxy.
    pub front_proxy_ca_pem: String,
    /// Common names a front proxy may have; empty: any that its authority signed.
    pub front_proxy_names: Vec<String>,
    /// Issues and checks service account tokens; `None`: neither.
    pub service_accounts: Option<Arc<ServiceAccountTokens>>,
    /// Whether bootstrap tokens (Secrets in `kube-system`) authenticate.
    pub bootstrap_tokens: bool,
    /// The clock; `None`: the machine's.
    pub clock: Option<Arc<dyn Clock>>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("client_certificates", &!self.client_ca_pem.is_empty())
            .field("front_proxy", &!self.front_proxy_ca_pem.is_empty())
            .field("bootstrap_tokens", &self.bootstrap_tokens)
            .finish_non_exhaustive()
    }
}

impl Config {
    fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone().unwrap_or_else(|| Arc::new(isopod_client::SystemClock))
    }
}

/// The authenticators, in the order they are asked. `objects` reads what is stored (service accounts, tokens).
///
/// # Errors
/// When an authority cannot be used.
pub fn layers(
    config: &Config,
    objects: &Arc<dyn Objects>,
) -> Result<Vec<Arc<dyn Authenticator>>, isopod_pki::Error> {
    let clock = config.clock();
    let mut layers: Vec<Arc<dyn Authenticator>> = Vec::new();
    if !config.front_proxy_ca_pem.is_empty() {
        let names = config.front_proxy_names.clone();
        layers.push(Arc::new(request_header::RequestHeader::new(
            &config.front_proxy_ca_pem,
            names,
            clock.clone(),
        )?));
    }
    if !config.client_ca_pem.is_empty() {
        layers.push(Arc::new(x509::ClientCertificate::new(&config.client_ca_pem, clock)?));
    }
    layers.push(Arc::new(BearerTokens::new(config, objects)));
    Ok(layers)
}

/// The endpoints that issue and review tokens, and tell a client who it is.
pub fn virtual_resources(config: &Config, objects: &Arc<dyn Objects>) -> Vec<Arc<dyn VirtualResource>> {
    let mut resources: Vec<Arc<dyn VirtualResource>> = vec![
        Arc::new(token_review::TokenReview::new(BearerTokens::new(config, objects))),
        Arc::new(token_review::SelfSubjectReview),
    ];
    if let Some(tokens) = &config.service_accounts {
        resources.push(Arc::new(token_request::TokenRequest::new(
            tokens.clone(),
            objects.clone(),
            config.clock(),
        )));
    }
    resources
}
