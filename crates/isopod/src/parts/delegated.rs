//! Authentication and authorisation by the API server, for the servers of parts that run apart.

use anyhow::{Context, Result, anyhow};
use http::HeaderMap;
use isopod_api::identity::{GROUP_AUTHENTICATED, UserInfo};
use isopod_client::{Clock, SystemClock};
use isopod_pki::tls::ClientTrust;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::PostParams;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};
use x509_parser::prelude::{FromDer, X509Certificate};

/// How long answers are remembered, as upstream.
const REMEMBERED: Duration = Duration::from_secs(10);
/// How long the API server's CA of clients is.
const CA_REMEMBERED: Duration = Duration::from_secs(60);
/// Answers remembered; when there are more, all are forgotten.
const ENTRIES_MAX: usize = 1024;

/// Answers of the API server, for a short time.
struct Recent<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K: Eq + Hash, V: Clone> Recent<K, V> {
    fn get(&self, key: &K, life: Duration) -> Option<V> {
        self.0.lock().get(key).filter(|(_, at)| at.elapsed() < life).map(|(value, _)| value.clone())
    }

    fn put(&self, key: K, value: V) {
        let mut map = self.0.lock();
        if map.len() >= ENTRIES_MAX {
            map.clear();
        }
        map.insert(key, (value, Instant::now()));
    }
}

/// Asks the API server who somebody is and what he may do.
pub(crate) struct Delegated {
    client: kube::Client,
    /// Given by a flag; else that of the API server counts.
    trust: Option<Arc<ClientTrust>>,
    servers_trust: Recent<(), Arc<ClientTrust>>,
    tokens: Recent<[u8; 32], Option<UserInfo>>,
    decisions: Recent<(String, Vec<String>, String, String), bool>,
}

impl Delegated {
    /// `ca_pem` signs client certificates; without it the API server is asked who does.
    pub(crate) fn new(client: kube::Client, ca_pem: Option<String>) -> Result<Self> {
        let trust = ca_pem.map(|pem| ClientTrust::new(&pem)).transpose().context("--client-ca-file")?;
        Ok(Delegated {
            client,
            trust: trust.map(Arc::new),
            servers_trust: Recent(Mutex::default()),
            tokens: Recent(Mutex::default()),
            decisions: Recent(Mutex::default()),
        })
    }

    async fn trust(&self) -> Result<Arc<ClientTrust>> {
        if let Some(trust) = &self.trust {
            return Ok(Arc::clone(trust));
        }
        if let Some(trust) = self.servers_trust.get(&(), CA_REMEMBERED) {
            return Ok(trust);
        }
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), "kube-system");
        let map = maps.get("extension-apiserver-authentication").await?;
        let pem = map.data.and_then(|mut data| data.remove("client-ca-file"));
        let trust = Arc::new(ClientTrust::new(&pem.context("the API server knows no client certificates")?)?);
        self.servers_trust.put((), Arc::clone(&trust));
        Ok(trust)
    }

    /// Who asks; the error is for the log alone.
    pub(crate) async fn authenticate(
        &self,
        chain: &[CertificateDer<'static>],
        headers: &HeaderMap,
    ) -> Result<UserInfo, String> {
        if !chain.is_empty() {
            let trust = self.trust().await.map_err(|e| format!("{e:#}"))?;
            let now = u64::try_from(SystemClock.now().as_second()).unwrap_or(0);
            trust.verify(chain, now).map_err(|e| e.to_string())?;
            return subject(&chain[0]).map_err(|e| e.to_string());
        }
        let header = headers.get(http::header::AUTHORIZATION).and_then(|h| h.to_str().ok());
        let token = header
            .and_then(|h| h.split_once(' '))
            .filter(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty())
            .map(|(_, token)| token.trim())
            .ok_or("neither certificate nor token")?;
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let known = match self.tokens.get(&key, REMEMBERED) {
            Some(known) => known,
            None => {
                let known = self.review(token).await.map_err(|e| e.to_string())?;
                self.tokens.put(key, known.clone());
                known
            }
        };
        known.ok_or_else(|| "token not accepted".to_owned())
    }

    async fn review(&self, token: &str) -> Result<Option<UserInfo>, kube::Error> {
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: None };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let review = TokenReview { spec, ..TokenReview::default() };
        let status = api.create(&PostParams::default(), &review).await?.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true));
        Ok(user.map(|user| UserInfo {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        }))
    }

    /// Whether somebody may read a path. If the API server cannot be asked, nobody may.
    pub(crate) async fn authorise(&self, user: &UserInfo, verb: &str, path: &str) -> bool {
        let question = (user.name.clone(), user.groups.clone(), verb.to_owned(), path.to_owned());
        if let Some(decision) = self.decisions.get(&question, REMEMBERED) {
            return decision;
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                groups: Some(user.groups.clone()),
                uid: Some(user.uid.clone()).filter(|u| !u.is_empty()),
                extra: Some(user.extra.clone()).filter(|e| !e.is_empty()),
                non_resource_attributes: Some(NonResourceAttributes {
                    verb: Some(verb.to_owned()),
                    path: Some(path.to_owned()),
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &review).await {
            Ok(answer) => {
                let allowed = answer.status.is_some_and(|status| status.allowed);
                self.decisions.put(question, allowed);
                allowed
            }
            Err(error) => {
                tracing::warn!(%error, "the API server could not be asked about a right");
                false
            }
        }
    }
}

/// User and groups of a client certificate.
fn subject(certificate: &CertificateDer<'_>) -> Result<UserInfo> {
    let (_, parsed) = X509Certificate::from_der(certificate.as_ref())?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next().and_then(|n| n.as_str().ok()).filter(|n| !n.is_empty());
    let name = name.ok_or_else(|| anyhow!("a certificate without a common name"))?;
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    groups.push(GROUP_AUTHENTICATED.to_owned());
    Ok(UserInfo { name: name.to_owned(), groups, ..UserInfo::default() })
}
