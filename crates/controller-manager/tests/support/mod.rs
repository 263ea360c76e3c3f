//! A whole control plane in one process: store, API server with its real authorisation, and the control loops under
//! the service accounts they have in a cluster.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use isopod_api::identity::UserInfo;
use isopod_apiserver::ApiServer;
use isopod_client::Informers;
use isopod_controller_manager::{Clients, Config, run};
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub struct Cluster {
    pub client: Client,
    server: Arc<ApiServer>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _data: tempfile::TempDir,
}

fn user(name: &str, groups: &[&str]) -> UserInfo {
    UserInfo::authenticated(name, groups)
}

/// The identity of a controller, as the binary gives it.
fn identity(name: &str) -> UserInfo {
    if name == "kube-controller-manager" {
        return user("system:kube-controller-manager", &[]);
    }
    user(
        &format!("system:serviceaccount:kube-system:{name}"),
        &["system:serviceaccounts", "system:serviceaccounts:kube-system"],
    )
}

impl Cluster {
    pub async fn start(change: impl FnOnce(&mut Config)) -> Self {
        // Shown with `--nocapture` and by failures; the level keeps successful runs quiet.
        let _ = tracing_subscriber::fmt()
            .with_env_filter("warn,isopod_controller_manager=debug,isopod_client=debug")
            .with_test_writer()
            .try_init();
        let data = tempfile::tempdir().unwrap();
        let store = isopod_etcd::open(isopod_etcd::Config::new(data.path().join("etcd"))).unwrap();
        let config = isopod_apiserver::Config::new(
            "127.0.0.1".parse().unwrap(),
            6443,
            "10.43.0.0/16".parse().unwrap(),
        );
        let server = ApiServer::new(config, store).await.unwrap();
        server.start().await.unwrap();
        let stop = CancellationToken::new();
        let apiserver = server.clone();
        let clients: Clients = Arc::new(move |name| apiserver.in_process(identity(name)));
        let informers = Informers::new(clients("kube-controller-manager"), stop.clone());
        let mut config = Config { root_ca: Some("PEM".to_owned()), ..Config::default() };
        change(&mut config);
        let token = stop.clone();
        let task = tokio::spawn(async move { run(config, clients, informers, token).await.unwrap() });
        let client = server.in_process(user("admin", &["system:masters"]));
        Self { client, server, stop, task, _data: data }
    }

    pub async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
        self.server.stop();
    }

    pub fn api(
        &self,
        api_version: &str,
        kind: &str,
        plural: &str,
        namespace: Option<&str>,
    ) -> Api<DynamicObject> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// Waits for the account that pods of the namespace run under.
    pub async fn account(&self, namespace: &str) {
        let accounts = self.api("v1", "ServiceAccount", "serviceaccounts", Some(namespace));
        eventually("default account", || async {
            if list(&accounts).await.is_empty() { Err("none yet".to_owned()) } else { Ok(()) }
        })
        .await;
    }

    pub async fn create(&self, plural: &str, object: Value) -> DynamicObject {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let (version, kind, namespace) = (text("/apiVersion"), text("/kind"), text("/metadata/namespace"));
        let api = self.api(version, kind, plural, Some(namespace).filter(|ns| !ns.is_empty()));
        let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap()
    }
}

/// All objects, as JSON.
pub async fn list(api: &Api<DynamicObject>) -> Vec<Value> {
    let items = api.list(&ListParams::default()).await.unwrap().items;
    items.into_iter().map(|item| serde_json::to_value(item).unwrap()).collect()
}

/// Waits until a condition holds; fails with what was last seen after 20 seconds.
pub async fn eventually<F: Future<Output = Result<(), String>>>(what: &str, mut check: impl FnMut() -> F) {
    let mut last = String::new();
    let wait = async {
        loop {
            match check().await {
                Ok(()) => return,
                Err(seen) => last = seen,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(20), wait).await.is_err() {
        panic!("{what}: {last}");
    }
}
