//! Who asks, and whether they may: both decided by the cluster, with short memories so that the API server is
//! not asked for every request.

use std::collections::HashMap;
use std::hash::Hash;

use http::{HeaderMap, Method};
use isopod_api::identity::UserInfo;
use isopod_pki::tls::ClientTrust;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Error;

/// How long answers are remembered, as upstream's defaults.
const TOKEN_TTL: SignedDuration = SignedDuration::from_secs(120);
const ALLOWED_TTL: SignedDuration = SignedDuration::from_secs(300);
const DENIED_TTL: SignedDuration = SignedDuration::from_secs(30);
/// Entries remembered; a client that makes up tokens must not fill the memory.
const ENTRIES_MAX: usize = 4096;

/// A small map whose entries go after a time.
struct Recent<K, V>(Mutex<HashMap<K, (V, Timestamp)>>);

impl<K: Eq + Hash, V: Clone> Recent<K, V> {
    fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    fn get(&self, key: &K, now: Timestamp) -> Option<V> {
        self.0.lock().get(key).filter(|(_, until)| *until > now).map(|(v, _)| v.clone())
    }

    fn put(&self, key: K, value: V, now: Timestamp, ttl: SignedDuration) {
        let mut map = self.0.lock();
        if map.len() >= ENTRIES_MAX {
            map.retain(|_, (_, until)| *until > now);
        }
        if map.len() < ENTRIES_MAX {
            map.insert(key, (value, now.checked_add(ttl).unwrap_or(Timestamp::MAX)));
        }
    }
}

type Question = (String, Vec<String>, String, &'static str);

/// Authentication and authorisation of the kubelet's server.
pub(super) struct Authenticator {
    client: kube::Client,
    trust: ClientTrust,
    tokens: Recent<[u8; 32], UserInfo>,
    decisions: Recent<Question, bool>,
}

impl Authenticator {
    pub(super) fn new(client: kube::Client, ca_pem: &str) -> Result<Self, Error> {
        let trust = ClientTrust::new(ca_pem).map_err(|e| Error::Tls(e.to_string()))?;
        Ok(Self { client, trust, tokens: Recent::new(), decisions: Recent::new() })
    }

    /// Who asks; the error is for the log alone.
    pub(super) async fn authenticate(
        &self,
        chain: &[CertificateDer<'static>],
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<UserInfo, String> {
        if !chain.is_empty() {
            let seconds = u64::try_from(now.as_second()).unwrap_or(0);
            self.trust.verify(chain, seconds).map_err(|e| e.to_string())?;
            return subject(&chain[0]);
        }
        let header = headers.get(http::header::AUTHORIZATION).and_then(|h| h.to_str().ok());
        let token = header
            .and_then(|h| h.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, t)| t.trim())
            .filter(|t| !t.is_empty())
            .ok_or("neither certificate nor token")?;
        self.token(token, now).await
    }

    async fn token(&self, token: &str, now: Timestamp) -> Result<UserInfo, String> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(user) = self.tokens.get(&key, now) {
            return Ok(user);
        }
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), audiences: None },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await.map_err(|e| e.to_string())?;
        let status = answer.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            return Err(status.error.unwrap_or_else(|| "token not accepted".into()));
        }
        let user = status.user.unwrap_or_default();
        let user = UserInfo {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        };
        self.tokens.put(key, user.clone(), now, TOKEN_TTL);
        Ok(user)
    }

    /// Whether the user may do this to the node; the error is for the client.
    pub(super) async fn authorise(
        &self,
        user: &UserInfo,
        node: &str,
        method: &Method,
        path: &str,
        now: Timestamp,
    ) -> Result<(), String> {
        let verb = verb(method, path);
        let wanted = subresources(path);
        for subresource in &wanted {
            if self.allowed(user, node, verb, subresource, now).await? {
                return Ok(());
            }
        }
        Err(format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)={wanted:?})", user.name))
    }

    async fn allowed(
        &self,
        user: &UserInfo,
        node: &str,
        verb: &str,
        subresource: &'static str,
        now: Timestamp,
    ) -> Result<bool, String> {
        let question: Question = (user.name.clone(), user.groups.clone(), verb.to_owned(), subresource);
        if let Some(decision) = self.decisions.get(&question, now) {
            return Ok(decision);
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                groups: Some(user.groups.clone()),
                uid: Some(user.uid.clone()).filter(|u| !u.is_empty()),
                extra: Some(user.extra.clone()).filter(|e| !e.is_empty()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(node.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await.map_err(|e| {
            tracing::warn!(error = &e as &dyn std::error::Error, "SubjectAccessReview");
            "Authorization error: the API server could not be asked".to_owned()
        })?;
        let allowed = answer.status.is_some_and(|s| s.allowed);
        self.decisions.put(question, allowed, now, if allowed { ALLOWED_TTL } else { DENIED_TTL });
        Ok(allowed)
    }
}

/// User and groups of a client certificate.
fn subject(certificate: &CertificateDer<'_>) -> Result<UserInfo, String> {
    let (_, parsed) = X509Certificate::from_der(certificate.as_ref()).map_err(|e| e.to_string())?;
    let subject = parsed.subject();
    let name = subject
        .iter_common_name()
        .next()
        .and_then(|n| n.as_str().ok())
        .filter(|n| !n.is_empty())
        .ok_or("certificate without common name")?;
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    groups.push("system:authenticated".to_owned());
    Ok(UserInfo { name: name.to_owned(), groups, ..UserInfo::default() })
}

/// The verb. Streams are `create` whatever the method, since a WebSocket can only be opened by GET.
fn verb(method: &Method, path: &str) -> &'static str {
    let streams = ["exec", "attach", "portForward", "run"];
    let first = path.split('/').find(|p| !p.is_empty()).unwrap_or_default();
    if streams.contains(&first) {
        return "create";
    }
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// Subresources of `nodes` of which one must be allowed: the fine-grained ones first.
fn subresources(path: &str) -> Vec<&'static str> {
    let first = path.split('/').find(|p| !p.is_empty()).unwrap_or_default();
    match first {
        "stats" => vec!["stats"],
        "metrics" => vec!["metrics"],
        "logs" => vec!["log"],
        "healthz" => vec!["healthz", "proxy"],
        "configz" => vec!["configz", "proxy"],
        "pods" | "runningpods" => vec!["pods", "proxy"],
        _ => vec!["proxy"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes() {
        for (method, path, want) in [
            (Method::GET, "/exec/ns/p/c", ("create", vec!["proxy"])),
            (Method::GET, "/containerLogs/ns/p/c", ("get", vec!["proxy"])),
            (Method::GET, "/metrics/resource", ("get", vec!["metrics"])),
            (Method::POST, "/stats/summary", ("create", vec!["stats"])),
            (Method::GET, "/pods", ("get", vec!["pods", "proxy"])),
            (Method::GET, "//exec/x", ("create", vec!["proxy"])),
        ] {
            assert_eq!((verb(&method, path), subresources(path)), want, "{path}");
        }
    }

    #[test]
    fn memory_is_short_and_bounded() {
        let r: Recent<usize, bool> = Recent::new();
        let t = Timestamp::UNIX_EPOCH;
        for i in 0..ENTRIES_MAX + 5 {
            r.put(i, true, t, DENIED_TTL);
        }
        assert_eq!(r.0.lock().len(), ENTRIES_MAX);
        assert_eq!(r.get(&0, t), Some(true));
        assert_eq!(r.get(&0, t.checked_add(DENIED_TTL).unwrap()), None);
    }
}
