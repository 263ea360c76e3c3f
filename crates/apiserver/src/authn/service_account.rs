//! Service account tokens: made, and checked to be ours, in time, for us, and bound to what still exists.
//!
//! Claims are upstream's. A token bound to a pod, secret or node dies with it: at the latest 60 seconds after its
//! deletion was asked for, at once when it is gone or another object has its name.

use std::collections::HashSet;

use isopod_api::Value;
use isopod_api::identity::UserInfo;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::keys::{KeyError, SigningKey, VerifyingKey};
use super::{jwt, legacy_token};
use crate::layers::{AuthenticationError, Objects};

/// Seconds that clocks may differ when a token says from when on it is valid.
const NOT_BEFORE_LEEWAY_SECONDS: i64 = 60;
/// Seconds a token lives on after the deletion of what it is bound to was asked for, for a clean end.
const DELETION_GRACE_SECONDS: i64 = 60;
/// Signatures remembered as good; when there are more, all are forgotten.
const REMEMBERED_MAX: usize = 4096;

/// The keys and names of the cluster's token issuer.
pub struct ServiceAccountTokens {
    issuer: String,
    audiences: Vec<String>,
    signing: SigningKey,
    verifying: Vec<VerifyingKey>,
    /// Longest life of a token in seconds; what is asked for beyond is cut.
    pub max_seconds: i64,
    /// Digests of tokens whose signature was good, until they expire. What they are bound to is looked up anew.
    good: Mutex<HashSet<[u8; 32]>>,
}

impl std::fmt::Debug for ServiceAccountTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceAccountTokens").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// An object a token is bound to.
#[derive(Debug, Clone)]
pub(super) struct Bound {
    pub(super) name: String,
    pub(super) uid: String,
}

/// What a token is made for.
#[derive(Debug, Clone)]
pub(super) struct TokenSpec {
    pub(super) namespace: String,
    pub(super) account: Bound,
    pub(super) audiences: Vec<String>,
    pub(super) seconds: i64,
    pub(super) pod: Option<Bound>,
    pub(super) secret: Option<Bound>,
    pub(super) node: Option<Bound>,
}

impl ServiceAccountTokens {
    /// `signing_key_pem` signs; it and `verifying_keys_pem` (public keys) verify. `audiences` are the API server's
    /// own; none means the issuer's name.
    ///
    /// # Errors
    /// When a key cannot be used.
    pub fn new(
        issuer: &str,
        audiences: &[String],
        signing_key_pem: &str,
        verifying_keys_pem: &[String],
    ) -> Result<Self, KeyError> {
        let audiences = if audiences.is_empty() { vec![issuer.to_owned()] } else { audiences.to_vec() };
        Ok(Self {
            issuer: issuer.to_owned(),
            audiences,
            signing: SigningKey::from_pem(signing_key_pem)?,
            verifying: verifying_keys_pem
                .iter()
                .map(|pem| VerifyingKey::from_pem(pem))
                .collect::<Result<_, _>>()?,
            max_seconds: i64::from(u32::MAX),
            good: Mutex::default(),
        })
    }

    /// Audiences of the API server itself.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The OpenID Connect discovery document, served at `/.well-known/openid-configuration`.
    pub fn discovery_document(&self) -> Value {
        let mut algorithms: Vec<&str> = self.keys().map(|key| key.algorithm.name()).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", self.issuer.trim_end_matches('/')),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }

    /// The public keys as a JSON web key set, served at `/openid/v1/jwks` as `application/jwk-set+json`.
    pub fn key_set(&self) -> Value {
        json!({"keys": self.keys().map(VerifyingKey::jwk).collect::<Vec<_>>()})
    }

    fn keys(&self) -> impl Iterator<Item = &VerifyingKey> {
        let own = &self.signing.public;
        std::iter::once(own).chain(self.verifying.iter().filter(move |key| key.id != own.id))
    }

    /// Makes a token.
    pub(super) fn issue(&self, spec: &TokenSpec, id: &str, now: Timestamp) -> Result<String, KeyError> {
        let now = now.as_second();
        let reference = |bound: &Bound| json!({"name": bound.name, "uid": bound.uid});
        let mut private = json!({"namespace": spec.namespace, "serviceaccount": reference(&spec.account)});
        for (key, bound) in [("pod", &spec.pod), ("secret", &spec.secret)] {
            if let Some(bound) = bound {
                private[key] = reference(bound);
            }
        }
        if let Some(node) = &spec.node {
            private["node"] = json!({"name": node.name});
            if !node.uid.is_empty() {
                private["node"]["uid"] = json!(node.uid);
            }
        }
        let claims = json!({
            "aud": spec.audiences,
            "exp": now + spec.seconds,
            "iat": now,
            "iss": self.issuer,
            "jti": id,
            "kubernetes.io": private,
            "nbf": now,
            "sub": format!("system:serviceaccount:{}:{}", spec.namespace, spec.account.name),
        });
        jwt::sign(&self.signing, &claims)
    }

    /// Whom a token stands for, and for which of `audiences` it is. `None`: it is not one of this issuer's.
    pub(super) async fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
        objects: &dyn Objects,
        now: Timestamp,
    ) -> Result<Option<(UserInfo, Vec<String>)>, AuthenticationError> {
        let Some(claims) = jwt::unverified_claims(token) else { return Ok(None) };
        let issuer = claims.get("iss").and_then(Value::as_str);
        if issuer == Some(legacy_token::ISSUER) {
            return self.authenticate_legacy(token, &claims, audiences, objects, now).await.map(Some);
        }
        if issuer != Some(&self.issuer) {
            return Ok(None);
        }
        self.verify(token, &claims, now)?;
        let for_us = intersection(&claims, audiences);
        if for_us.is_empty() {
            return Err(refused("token audiences are not ours"));
        }
        let user = bound_user(&claims, objects, now).await?;
        Ok(Some((user, for_us)))
    }

    /// The key that signs.
    pub(super) fn signing_key(&self) -> &SigningKey {
        &self.signing
    }

    /// Checks a signature and remembers it if it is good; gives the token's digest.
    pub(super) fn check_signature(&self, token: &str) -> Result<[u8; 32], AuthenticationError> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        if !self.good.lock().contains(&digest) {
            if !jwt::verify(token, self.keys()) {
                return Err(refused("bad signature"));
            }
            let mut good = self.good.lock();
            if good.len() >= REMEMBERED_MAX {
                good.clear();
            }
            good.insert(digest);
        }
        Ok(digest)
    }

    fn verify(&self, token: &str, claims: &Value, now: Timestamp) -> Result<(), AuthenticationError> {
        let now = now.as_second();
        let time = |claim: &str| claims.get(claim).and_then(Value::as_i64);
        let digest = self.check_signature(token)?;
        // Whatever has this issuer has an end; tokens without one lie in Secrets and are checked against them.
        if time("exp").is_none_or(|end| now >= end) {
            self.good.lock().remove(&digest);
            return Err(refused("token has expired"));
        }
        let start = time("nbf").unwrap_or(0).max(time("iat").unwrap_or(0));
        if now + NOT_BEFORE_LEEWAY_SECONDS < start {
            return Err(refused("token is not valid yet"));
        }
        Ok(())
    }
}

pub(super) fn refused(why: &str) -> AuthenticationError {
    AuthenticationError(format!("service account token: {why}"))
}

/// `aud` may be one string or a list of them.
fn intersection(claims: &Value, audiences: &[String]) -> Vec<String> {
    let of_token: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    audiences.iter().filter(|audience| of_token.contains(&audience.as_str())).cloned().collect()
}

/// Looks up everything the token is bound to, and makes the identity.
async fn bound_user(
    claims: &Value,
    objects: &dyn Objects,
    now: Timestamp,
) -> Result<UserInfo, AuthenticationError> {
    let private = claims.get("kubernetes.io").ok_or_else(|| refused("not bound to a service account"))?;
    let text = |pointer: &str| private.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
    let (namespace, name, uid) =
        (text("/namespace"), text("/serviceaccount/name"), text("/serviceaccount/uid"));
    let subject = format!("system:serviceaccount:{namespace}:{name}");
    if claims.get("sub").and_then(Value::as_str) != Some(&subject) {
        return Err(refused("subject and service account differ"));
    }
    let bound = |kind: &'static str| {
        private.get(kind).map(|_| (kind, text(&format!("/{kind}/name")), text(&format!("/{kind}/uid"))))
    };
    alive(objects, "serviceaccounts", &namespace, &name, &uid, now).await?;
    let mut user = UserInfo::service_account(&namespace, &name, &uid);
    if let Some(id) = claims.get("jti").and_then(Value::as_str).filter(|id| !id.is_empty()) {
        add_extra(&mut user, "credential-id", format!("JTI={id}"));
    }
    if let Some((_, name, uid)) = bound("secret") {
        alive(objects, "secrets", &namespace, &name, &uid, now).await?;
    }
    let pod = bound("pod");
    if let Some((_, name, uid)) = &pod {
        alive(objects, "pods", &namespace, name, uid, now).await?;
        add_extra(&mut user, "pod-name", name.clone());
        add_extra(&mut user, "pod-uid", uid.clone());
    }
    if let Some((_, name, uid)) = bound("node") {
        // With a pod the node is only told, not a condition: the pod may outlive the node object for a while.
        if pod.is_none() {
            alive(objects, "nodes", "", &name, &uid, now).await?;
        }
        add_extra(&mut user, "node-name", name);
        if !uid.is_empty() {
            add_extra(&mut user, "node-uid", uid);
        }
    }
    Ok(user)
}

fn add_extra(user: &mut UserInfo, key: &str, value: String) {
    user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
}

/// The object exists, is the same one, and its deletion was not asked for long ago.
pub(super) async fn alive(
    objects: &dyn Objects,
    resource: &str,
    namespace: &str,
    name: &str,
    uid: &str,
    now: Timestamp,
) -> Result<(), AuthenticationError> {
    let failed = |_| refused("what it is bound to cannot be looked up");
    let matches = |object: &Value| {
        let meta = &object["metadata"];
        let deleted = meta["deletionTimestamp"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
        let gone = deleted.is_some_and(|at| now.as_second() > at.as_second() + DELETION_GRACE_SECONDS);
        meta["uid"].as_str() == Some(uid) && !gone
    };
    let cached = objects.get("", resource, namespace, name).await.map_err(failed)?;
    if cached.as_ref().is_some_and(matches) {
        return Ok(());
    }
    // A token is used right after its account was made; the cache may not know the account yet.
    let latest = objects.get_latest("", resource, namespace, name).await.map_err(failed)?;
    if latest.as_ref().is_some_and(matches) {
        Ok(())
    } else {
        Err(refused(&format!("{resource} {name:?} is gone or another")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::tests_support::{Fixed, pki};

    fn tokens(key: &str) -> ServiceAccountTokens {
        ServiceAccountTokens::new("https://kubernetes.default.svc", &[], key, &[]).expect("tokens")
    }

    fn spec() -> TokenSpec {
        let bound = |name: &str, uid: &str| Bound { name: name.into(), uid: uid.into() };
        TokenSpec {
            namespace: "ns".into(),
            account: bound("sa", "1"),
            audiences: vec!["https://kubernetes.default.svc".into()],
            seconds: 600,
            pod: Some(bound("pod", "2")),
            secret: None,
            node: Some(bound("node", "3")),
        }
    }

    fn objects() -> Fixed {
        let object = |uid: &str| json!({"metadata": {"uid": uid}});
        Fixed::new(&[("serviceaccounts", "ns", "sa", object("1")), ("pods", "ns", "pod", object("2"))])
    }

    async fn verdict(tokens: &ServiceAccountTokens, token: &str, objects: &Fixed, now: Timestamp) -> String {
        match tokens.authenticate(token, tokens.audiences(), objects, now).await {
            Ok(Some((user, _))) => user.name,
            Ok(None) => "not ours".into(),
            Err(error) => error.to_string().replace("service account token: ", ""),
        }
    }

    #[tokio::test]
    async fn good_late_early_and_for_others() {
        let (pki, now) = pki();
        let tokens = tokens(&pki.service_account_key_pem);
        let token = tokens.issue(&spec(), "id", now).expect("token");
        let at = |seconds: i64| Timestamp::from_second(now.as_second() + seconds).expect("in range");
        let name = "system:serviceaccount:ns:sa";
        assert_eq!(verdict(&tokens, &token, &objects(), now).await, name);
        assert_eq!(verdict(&tokens, &token, &objects(), at(599)).await, name);
        assert_eq!(verdict(&tokens, &token, &objects(), at(600)).await, "token has expired");
        assert_eq!(verdict(&tokens, &token, &objects(), at(-61)).await, "token is not valid yet");
        let other = tokens.authenticate(&token, &["vault".to_owned()], &objects(), now).await;
        assert!(other.is_err(), "for another audience");
        let (user, _) =
            tokens.authenticate(&token, tokens.audiences(), &objects(), now).await.unwrap().unwrap();
        assert_eq!(
            user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]
        );
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["pod"]);
        assert_eq!(user.extra["authentication.kubernetes.io/credential-id"], ["JTI=id"]);
    }

    #[tokio::test]
    async fn dies_with_what_it_is_bound_to() {
        let (pki, now) = pki();
        let tokens = tokens(&pki.service_account_key_pem);
        let token = tokens.issue(&spec(), "id", now).expect("token");
        let mut objects = objects();
        objects.set("pods", "ns", "pod", Some(json!({"metadata": {"uid": "other"}})));
        assert_eq!(verdict(&tokens, &token, &objects, now).await, "pods \"pod\" is gone or another");
        let deleted = |at: i64| {
            let time = Timestamp::from_second(now.as_second() - at).expect("in range");
            Some(json!({"metadata": {"uid": "2", "deletionTimestamp": time.to_string()}}))
        };
        objects.set("pods", "ns", "pod", deleted(30));
        assert_eq!(verdict(&tokens, &token, &objects, now).await, "system:serviceaccount:ns:sa");
        objects.set("pods", "ns", "pod", deleted(61));
        assert_eq!(verdict(&tokens, &token, &objects, now).await, "pods \"pod\" is gone or another");
        objects.set("pods", "ns", "pod", Some(json!({"metadata": {"uid": "2"}})));
        objects.set("serviceaccounts", "ns", "sa", None);
        assert_eq!(
            verdict(&tokens, &token, &objects, now).await,
            "serviceaccounts \"sa\" is gone or another"
        );
    }

    #[tokio::test]
    async fn forgeries() {
        use base64::Engine;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let (pki, now) = pki();
        let tokens = tokens(&pki.service_account_key_pem);
        let token = tokens.issue(&spec(), "id", now).expect("token");
        let parts: Vec<&str> = token.split('.').collect();
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let mut claims = jwt::unverified_claims(&token).expect("claims");
        claims["sub"] = json!("system:serviceaccount:ns:admin");
        claims["kubernetes.io"]["serviceaccount"] = json!({"name": "admin", "uid": "9"});
        let claims = encode(&claims.to_string());
        let none = encode("{\"alg\":\"none\"}");
        let mac = encode("{\"alg\":\"HS256\"}");
        let critical = encode("{\"alg\":\"ES256\",\"crit\":[\"x\"]}");
        let foreign = super::tests::tokens(&isopod_pki_key()).issue(&spec(), "id", now).expect("token");
        let cases = [
            format!("{}.{claims}.{}", parts[0], parts[2]),
            format!("{none}.{}.", parts[1]),
            format!("{none}.{claims}."),
            format!("{mac}.{}.{}", parts[1], encode("secret")),
            format!("{critical}.{}.{}", parts[1], parts[2]),
            format!("{}.{}.{}", parts[0], parts[1], encode("short")),
            format!("{}AAAA", &token[..token.len() - 4]),
            foreign,
        ];
        for forged in cases {
            assert_eq!(verdict(&tokens, &forged, &objects(), now).await, "bad signature", "{forged}");
        }
        for nonsense in ["", "a.b", "a.b.c.d", "!.!.!", &"x".repeat(20_000)] {
            assert_eq!(verdict(&tokens, nonsense, &objects(), now).await, "not ours", "{nonsense}");
        }
    }

    fn isopod_pki_key() -> String {
        pki().0.service_account_key_pem
    }

    #[test]
    fn published_keys_name_the_algorithm() {
        let (pki, _) = pki();
        let tokens = tokens(&pki.service_account_key_pem);
        let set = tokens.key_set();
        assert_eq!(set["keys"][0]["kty"], "EC");
        assert_eq!(set["keys"][0]["alg"], "ES256");
        assert_eq!(set["keys"].as_array().map(Vec::len), Some(1));
        let document = tokens.discovery_document();
        assert_eq!(document["jwks_uri"], "https://kubernetes.default.svc/openid/v1/jwks");
        let same = ServiceAccountTokens::new(
            "i",
            &[],
            &pki.service_account_key_pem,
            std::slice::from_ref(&pki.service_account_public_key_pem),
        );
        assert_eq!(
            same.expect("tokens").key_set()["keys"].as_array().map(Vec::len),
            Some(1),
            "one key, listed once"
        );
    }
}
