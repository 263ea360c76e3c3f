//! Tokens that lie in Secrets of type `kubernetes.io/service-account-token`, as clusters before v1.24 made them for
//! every account, and as people still ask for.
//!
//! They have no end and are for the API server alone. Such a token is good only for as long as its Secret exists and
//! holds it, letter by letter, and the account is the one it was made for: deleting the Secret revokes it.

use base64::Engine as _;
use isopod_api::Value;
use isopod_api::identity::UserInfo;
use jiff::Timestamp;
use serde_json::json;

use super::jwt;
use super::keys::KeyError;
use super::service_account::{ServiceAccountTokens, alive, refused};
use crate::layers::{AuthenticationError, Objects};

/// Issuer of these tokens, whatever that of others is.
pub(super) const ISSUER: &str = "kubernetes/serviceaccount";
/// Label of Secrets whose token was taken out of use because nobody used it.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

fn claim(name: &str) -> String {
    format!("{ISSUER}/{name}").replacen("kubernetes/", "kubernetes.io/", 1)
}

impl ServiceAccountTokens {
    /// Makes the token of a Secret.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn sign_legacy(
        &self,
        namespace: &str,
        account: &str,
        account_uid: &str,
        secret: &str,
    ) -> Result<String, KeyError> {
        let claims = json!({
            "iss": ISSUER,
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
            (claim("namespace")): namespace,
            (claim("secret.name")): secret,
            (claim("service-account.name")): account,
            (claim("service-account.uid")): account_uid,
        });
        jwt::sign(self.signing_key(), &claims)
    }

    /// Whom the token of a Secret stands for.
    pub(super) async fn authenticate_legacy(
        &self,
        token: &str,
        claims: &Value,
        audiences: &[String],
        objects: &dyn Objects,
        now: Timestamp,
    ) -> Result<(UserInfo, Vec<String>), AuthenticationError> {
        self.check_signature(token)?;
        let text = |name: &str| claims[&claim(name)].as_str().unwrap_or_default();
        let (namespace, secret) = (text("namespace"), text("secret.name"));
        let (account, uid) = (text("service-account.name"), text("service-account.uid"));
        if [namespace, secret, account, uid].contains(&"") {
            return Err(refused("it does not say what it is for"));
        }
        if claims["sub"] != format!("system:serviceaccount:{namespace}:{account}") {
            return Err(refused("subject and service account differ"));
        }
        holds(objects, namespace, secret, token).await?;
        alive(objects, "serviceaccounts", namespace, account, uid, now).await?;
        let ours: Vec<String> = audiences.iter().filter(|a| self.audiences().contains(a)).cloned().collect();
        if ours.is_empty() {
            return Err(refused("token audiences are not ours"));
        }
        Ok((UserInfo::service_account(namespace, account, uid), ours))
    }
}

/// The Secret exists and holds the token.
async fn holds(
    objects: &dyn Objects,
    namespace: &str,
    secret: &str,
    token: &str,
) -> Result<(), AuthenticationError> {
    let fits = |object: &Value| {
        let encoded = object["data"]["token"].as_str().unwrap_or_default();
        let kept = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
        object["metadata"]["deletionTimestamp"].is_null()
            && object["metadata"]["labels"][INVALID_SINCE].is_null()
            && kept == token.as_bytes()
    };
    let failed = |_| refused("its secret cannot be looked up");
    let cached = objects.get("", "secrets", namespace, secret).await.map_err(failed)?;
    if cached.as_ref().is_some_and(fits) {
        return Ok(());
    }
    // It may have been filled just now.
    let latest = objects.get_latest("", "secrets", namespace, secret).await.map_err(failed)?;
    if latest.as_ref().is_some_and(fits) { Ok(()) } else { Err(refused("its secret does not hold it")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::tests_support::{Fixed, pki};

    #[tokio::test]
    async fn good_for_as_long_as_its_secret_holds_it() {
        let (pki, now) = pki();
        let make = || ServiceAccountTokens::new("https://issuer", &[], &pki.service_account_key_pem, &[]);
        let tokens = make().expect("tokens");
        let token = tokens.sign_legacy("ns", "bot", "1", "s").expect("token");
        assert_eq!(claim("secret.name"), "kubernetes.io/serviceaccount/secret.name");
        let encoded = base64::engine::general_purpose::STANDARD.encode(&token);
        let secret = json!({"metadata": {"uid": "2"}, "data": {"token": encoded}});
        let mut objects = Fixed::new(&[
            ("serviceaccounts", "ns", "bot", json!({"metadata": {"uid": "1"}})),
            ("secrets", "ns", "s", secret.clone()),
        ]);
        let verdict = async |token: &str, audience: &str, objects: &Fixed| {
            let audiences = [audience.to_owned()];
            match tokens.authenticate(token, &audiences, objects, now).await {
                Ok(Some((user, audiences))) => format!("{} for {}", user.name, audiences.join(" ")),
                Ok(None) => "not ours".to_owned(),
                Err(error) => error.to_string().replace("service account token: ", ""),
            }
        };
        let ours = "https://issuer";
        assert_eq!(verdict(&token, ours, &objects).await, "system:serviceaccount:ns:bot for https://issuer");
        assert_eq!(verdict(&token, "vault", &objects).await, "token audiences are not ours");
        let forged = format!("{}AAAA", &token[..token.len() - 4]);
        assert_eq!(verdict(&forged, ours, &objects).await, "bad signature");
        // Another one for the same Secret, as after its content was deleted and made anew.
        let other = tokens.sign_legacy("ns", "bot", "1", "s").expect("token");
        if other != token {
            assert_eq!(verdict(&other, ours, &objects).await, "its secret does not hold it");
        }
        let mut unused = secret.clone();
        unused["metadata"]["labels"] = json!({INVALID_SINCE: "2026-01-01"});
        objects.set("secrets", "ns", "s", Some(unused));
        assert_eq!(verdict(&token, ours, &objects).await, "its secret does not hold it");
        objects.set("secrets", "ns", "s", None);
        assert_eq!(verdict(&token, ours, &objects).await, "its secret does not hold it");
        objects.set("secrets", "ns", "s", Some(secret));
        objects.set("serviceaccounts", "ns", "bot", Some(json!({"metadata": {"uid": "9"}})));
        assert_eq!(verdict(&token, ours, &objects).await, "serviceaccounts \"bot\" is gone or another");
    }
}
