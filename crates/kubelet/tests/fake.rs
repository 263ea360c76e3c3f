//! The kubelet on a runtime that fails on demand and has no events: back-off, retries, credentials, and finding
//! changes by comparing lists.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a test")]

#[path = "fake/runtime.rs"]
mod runtime;

use std::sync::Arc;
use std::time::Duration;

use isopod_api::identity::UserInfo;
use isopod_apiserver::ApiServer;
use isopod_cri::TcpDial;
use isopod_kubelet::{Config, Tls};
use isopod_pki::tls::ServingCertificate;
use k8s_openapi::api::core::v1::{Event, Pod, Secret, ServiceAccount};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use runtime::Fake;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

struct Node {
    client: Client,
    fake: Arc<Fake>,
    api: Arc<ApiServer>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), isopod_kubelet::Error>>,
    cgroup: String,
    _dir: tempfile::TempDir,
}

impl Node {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let local = [127, 0, 0, 1].into();
        let pki_config = isopod_pki::Config {
            directory: dir.path().join("pki"),
            node_name: "n1".into(),
            server_names: Vec::new(),
            node_addresses: vec![local],
            service_address: [10, 43, 0, 1].into(),
            cluster_domain: "cluster.local".into(),
        };
        let now = isopod_client::Clock::now(&isopod_client::SystemClock);
        let pki = isopod_pki::ensure(&pki_config, now).unwrap();
        let store = isopod_etcd::open(isopod_etcd::Config::new(dir.path().join("etcd"))).unwrap();
        let config = isopod_apiserver::Config::new(local, 6443, "10.43.0.0/16".parse().unwrap());
        let api = ApiServer::new(config, store).await.unwrap();
        api.start().await.unwrap();
        let client = api.in_process(UserInfo::authenticated("admin", &["system:masters"]));
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        Api::namespaced(client.clone(), "default").create(&PostParams::default(), &account).await.unwrap();
        let tls = Tls {
            serving: ServingCertificate::new(&pki.kubelet_serving).unwrap(),
            client_ca_pem: pki.client_ca.certificate_pem().to_owned(),
        };
        let mut config = Config::new("n1", local, dir.path().to_owned(), tls);
        config.port = 0;
        config.run_dir = dir.path().join("run");
        let name = dir.path().file_name().unwrap().to_string_lossy().trim_start_matches('.').to_owned();
        config.cgroup_root = format!("/isopod-test-{name}");
        config.eviction.nodefs_available_percent = 0;
        config.eviction.imagefs_available_percent = 0;
        let cgroup = config.cgroup_root.trim_start_matches('/').to_owned();
        let fake = Arc::new(Fake::default());
        let stop = CancellationToken::new();
        let identity = UserInfo::authenticated("system:node:n1", &["system:nodes"]);
        let task = tokio::spawn(isopod_kubelet::run(
            config,
            api.in_process(identity),
            fake.clone(),
            fake.clone(),
            Arc::new(TcpDial),
            Arc::new(|_| {}),
            stop.clone(),
        ));
        Self { client, fake, api, stop, task, cgroup, _dir: dir }
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn pod(&self, name: &str, mut spec: Value) {
        spec["nodeName"] = json!("n1");
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        pod.spec.as_mut().unwrap().automount_service_account_token = Some(false);
        self.pods().create(&PostParams::default(), &pod).await.unwrap();
    }

    async fn until(&self, name: &str, pointer: &str, want: &str) {
        self.eventually(&format!("{name} {pointer} {want}"), || async {
            let pod = self.pods().get_opt(name).await.map_err(|e| e.to_string())?;
            let value = serde_json::to_value(&pod).unwrap();
            match value.pointer(pointer).and_then(Value::as_str).unwrap_or_default() {
                found if found == want => Ok(()),
                _ => Err(format!("{:#}", value["status"])),
            }
        })
        .await;
    }

    async fn events(&self, reason: &str) -> Vec<String> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let list = api.list(&ListParams::default()).await.unwrap();
        let list = list.items.into_iter().filter(|e| e.reason.as_deref() == Some(reason));
        list.filter_map(|e| e.message).collect()
    }

    async fn eventually<F: Future<Output = Result<(), String>>>(
        &self,
        what: &str,
        mut check: impl FnMut() -> F,
    ) {
        let mut last = String::new();
        let wait = async {
            while let Err(seen) = check().await {
                last = seen;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(60), wait).await.is_err() {
            panic!("{what}: {last}");
        }
    }

    async fn end(mut self) {
        self.stop.cancel();
        (&mut self.task).await.unwrap().unwrap();
        self.api.stop();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for c in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().filter_map(Result::ok) {
            remove_cgroup(&c.path().join(&self.cgroup));
        }
    }
}

fn remove_cgroup(dir: &std::path::Path) {
    for e in std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
        if e.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroup(&e.path());
        }
    }
    let _ = std::fs::remove_dir(dir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_that_fails() {
    let node = Node::start().await;
    let waiting = "/status/containerStatuses/0/state/waiting/reason";
    let image = "reg.example.com/private/app:1";

    // Without credentials the pull fails, and is put off.
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "a", "image": image}]});
    node.pod("none", spec.clone()).await;
    node.until("none", waiting, "ErrImagePull").await;
    node.until("none", waiting, "ImagePullBackOff").await;
    let told = node.events("Failed").await;
    assert!(told.contains(&"Error: ErrImagePull".to_owned()), "{told:?}");
    assert!(told.iter().any(|m| m == &format!("Failed to pull image {image:?}: unauthorized")), "{told:?}");

    // With credentials it succeeds; a sandbox that fails once is tried again.
    let config = json!({"auths": {"reg.example.com": {"username": "u", "password": "p"}}}).to_string();
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {"name": "reg"}, "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": config},
    }))
    .unwrap();
    Api::namespaced(node.client.clone(), "default").create(&PostParams::default(), &secret).await.unwrap();
    node.fake.fail("run_pod_sandbox", 1);
    let mut with = spec;
    with["imagePullSecrets"] = json!([{"name": "reg"}]);
    with["restartPolicy"] = json!("Never");
    node.pod("with", with).await;
    node.until("with", "/status/phase", "Running").await;
    let told = node.events("FailedCreatePodSandBox").await;
    assert_eq!(told, ["Failed to create pod sandbox: run_pod_sandbox is told to fail"]);

    // Nobody tells of the end of the container; it is found all the same.
    node.fake.exit("a", 0);
    node.until("with", "/status/phase", "Succeeded").await;

    // A stop that fails is tried again, and the pod stays in the API until it succeeded.
    let spec =
        json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "b", "image": "public:1"}]});
    node.pod("sticky", spec).await;
    node.until("sticky", "/status/phase", "Running").await;
    node.fake.fail("stop_container", 1);
    node.pods().delete("sticky", &DeleteParams::default()).await.unwrap();
    node.eventually("sticky is gone", || async {
        match node.pods().get_opt("sticky").await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(node.fake.count("stop_container") >= 2);

    for name in ["none", "with"] {
        node.pods().delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    }
    let fake = node.fake.clone();
    node.eventually("runtime is empty", || async {
        let state = fake.0.lock().unwrap();
        let left = state.sandboxes.len() + state.containers.len();
        if left == 0 { Ok(()) } else { Err(format!("{:?}", state.calls)) }
    })
    .await;
    node.end().await;
}
