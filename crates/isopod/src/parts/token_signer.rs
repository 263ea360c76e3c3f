//! Signs the tokens that the controller manager puts into Secrets of type `kubernetes.io/service-account-token`.

use isopod_apiserver::authn::ServiceAccountTokens;
use isopod_controller_manager::TokenSigner;

/// The issuer's key, as the controller manager uses it.
pub(crate) struct Signer(ServiceAccountTokens);

impl Signer {
    /// Signs with the key of an issuer.
    pub(crate) fn new(tokens: ServiceAccountTokens) -> Self {
        Signer(tokens)
    }
}

impl TokenSigner for Signer {
    fn sign(&self, namespace: &str, account: &str, uid: &str, secret: &str) -> Result<String, String> {
        self.0.sign_legacy(namespace, account, uid, secret).map_err(|error| error.to_string())
    }
}
