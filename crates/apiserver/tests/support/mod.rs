//! What the integration tests share: a server on a store (in memory unless [`swaps`] says otherwise), and a client
//! that sees raw answers.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

pub mod members;
pub mod memory_store;
pub mod swaps;

use std::sync::Arc;

use async_trait::async_trait;
use http_body_util::BodyExt as _;
use isopod_api::Value;
use isopod_api::identity::UserInfo;
use isopod_apiserver::authn::ServiceAccountTokens;
use isopod_apiserver::layers::{
    Attributes, AuthenticationError, Authenticator, Authorizer, Decision, Layers, PeerCertificates,
};
use isopod_apiserver::{ApiServer, Config};
use isopod_kv::Store;

/// Allows everything.
pub struct AllowAll;

#[async_trait]
impl Authorizer for AllowAll {
    fn name(&self) -> &'static str {
        "AllowAll"
    }
    async fn authorize(&self, _: &UserInfo, _: &Attributes) -> Decision {
        Decision::Allow(String::new())
    }
}

/// Takes everybody for an administrator.
pub struct Everyone;

#[async_trait]
impl Authenticator for Everyone {
    fn name(&self) -> &'static str {
        "Everyone"
    }
    async fn authenticate(
        &self,
        _: &http::request::Parts,
        _: &PeerCertificates,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        Ok(Some(UserInfo::authenticated("everyone", &["system:masters"])))
    }
}

/// A started server that allows everything, without admission plugins.
pub async fn server() -> Arc<ApiServer> {
    server_with(|_| {}).await
}

/// The same with other layers.
pub async fn server_with(change: impl FnOnce(&mut Layers)) -> Arc<ApiServer> {
    let mut config = config();
    let store = swaps::fresh_store(&mut config).await;
    server_of(config, store, change).await
}

/// The same on a store at hand.
pub async fn server_on(
    store: Arc<memory_store::MemoryStore>,
    change: impl FnOnce(&mut Layers),
) -> Arc<ApiServer> {
    server_of(config(), store, change).await
}

/// The configuration of test servers.
pub fn config() -> Config {
    Config::new("127.0.0.1".parse().unwrap(), 6443, "10.43.0.0/16".parse().unwrap())
}

/// The same with a configuration.
pub async fn server_of(
    config: Config,
    store: Arc<dyn Store>,
    change: impl FnOnce(&mut Layers),
) -> Arc<ApiServer> {
    let server = ApiServer::with_layers(config, store, |mut layers| {
        layers.authorizers = vec![Arc::new(AllowAll)];
        layers.admission.clear();
        change(&mut layers);
        layers
    })
    .await
    .unwrap();
    server.start().await.unwrap();
    server
}

/// A started server with all its own layers, and service account tokens.
pub async fn guarded_server() -> Arc<ApiServer> {
    guarded_server_with(|_| {}).await
}

/// The same, configured otherwise.
pub async fn guarded_server_with(change: impl FnOnce(&mut Config)) -> Arc<ApiServer> {
    let directory = tempfile::tempdir().unwrap();
    let keys = isopod_pki::Config {
        directory: directory.path().to_owned(),
        node_name: "node-1".into(),
        server_names: Vec::new(),
        node_addresses: Vec::new(),
        service_address: [10, 43, 0, 1].into(),
        cluster_domain: "cluster.local".into(),
    };
    let pki = isopod_pki::ensure(&keys, isopod_client::Clock::now(&isopod_client::SystemClock)).unwrap();
    let key = &pki.service_account_key_pem;
    let tokens = ServiceAccountTokens::new("https://kubernetes.default.svc", &[], key, &[]).unwrap();
    let mut config = Config::new("127.0.0.1".parse().unwrap(), 6443, "10.43.0.0/16".parse().unwrap());
    config.authentication.service_accounts = Some(Arc::new(tokens));
    change(&mut config);
    let store = swaps::fresh_store(&mut config).await;
    let server = ApiServer::new(config, store).await.unwrap();
    server.start().await.unwrap();
    server
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub body: Value,
    pub bytes: Vec<u8>,
}

/// A caller in the process.
#[derive(Clone)]
pub struct Caller(pub kube::Client);

impl Caller {
    pub fn new(server: &Arc<ApiServer>) -> Caller {
        Caller(server.in_process(UserInfo::authenticated("tester", &["system:masters"])))
    }

    pub fn of(server: &Arc<ApiServer>, name: &str, groups: &[&str]) -> Caller {
        Caller(server.in_process(UserInfo::authenticated(name, groups)))
    }

    pub async fn send(&self, method: &str, uri: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (key, value) in headers {
            request = request.header(*key, *value);
        }
        let request = request.body(kube::client::Body::from(body)).unwrap();
        let response = self.0.send(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes().to_vec();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { code: parts.status.as_u16(), headers: parts.headers, body, bytes }
    }

    pub async fn get(&self, uri: &str) -> Answer {
        self.send("GET", uri, &[], Vec::new()).await
    }
    pub async fn post(&self, uri: &str, body: &Value) -> Answer {
        self.send("POST", uri, &[("content-type", "application/json")], body.to_string().into_bytes()).await
    }
    pub async fn put(&self, uri: &str, body: &Value) -> Answer {
        self.send("PUT", uri, &[("content-type", "application/json")], body.to_string().into_bytes()).await
    }
    pub async fn patch(&self, uri: &str, kind: &str, body: &Value) -> Answer {
        let media = format!("application/{kind}");
        self.send("PATCH", uri, &[("content-type", &media)], body.to_string().into_bytes()).await
    }
    pub async fn apply(&self, uri: &str, manager: &str, body: &Value) -> Answer {
        let uri = format!("{uri}{}fieldManager={manager}", if uri.contains('?') { '&' } else { '?' });
        let media = [("content-type", "application/apply-patch+yaml")];
        self.send("PATCH", &uri, &media, body.to_string().into_bytes()).await
    }
    pub async fn delete(&self, uri: &str, body: &Value) -> Answer {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.send("DELETE", uri, &[("content-type", "application/json")], body).await
    }
}
