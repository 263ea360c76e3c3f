//! One node in one process: store, API server with its real authorisation, built-in runtime, kubelet. Only the
//! pod network is made up: pods get addresses that lead nowhere.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use isopod_api::identity::UserInfo;
use isopod_apiserver::ApiServer;
use isopod_client::{Clock, SystemClock};
use isopod_cri::v1::{ExecSyncRequest, ExecSyncResponse};
use isopod_cri::{Error, PodNetwork, PodNetworkRequest, RuntimeService};
use isopod_kubelet::{Config, Tls};
use isopod_pki::tls::{Clients, ServingCertificate};
use isopod_runtime::Runtime;
use isopod_runtime::images::ImportOptions;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, ServiceAccount};
use kube::api::{DeleteParams, LogParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub const IMAGE: &str = "docker.io/library/busybox:test";
pub const NODE: &str = "n1";
/// Far below the default, so that a test can reach it.
pub const POD_PIDS_MAX: i64 = 100;

struct Addresses(AtomicU8);

#[async_trait::async_trait]
impl PodNetwork for Addresses {
    async fn attach(&self, _: PodNetworkRequest) -> Result<Vec<IpAddr>, Error> {
        let n = self.0.fetch_add(1, Ordering::SeqCst);
        Ok(vec![IpAddr::from([10, 99, 0, n])])
    }
    async fn detach(&self, _: PodNetworkRequest) -> Result<(), Error> {
        Ok(())
    }
}

/// A kubelet that runs.
pub struct Running {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), isopod_kubelet::Error>>,
    pub runtime: Runtime,
}

pub struct Cluster {
    pub client: Client,
    pub api: Arc<ApiServer>,
    pub dir: tempfile::TempDir,
    /// Of the API server.
    pub port: u16,
    pki: isopod_pki::Pki,
    cgroup: String,
    stop: CancellationToken,
    pub kubelet: Option<Running>,
}

impl Cluster {
    pub async fn start() -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(std::env::var("TEST_LOG").unwrap_or_else(|_| "error".into()))
            .with_writer(std::io::stderr)
            .try_init();
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let local: IpAddr = [127, 0, 0, 1].into();
        let pki = isopod_pki::ensure(
            &isopod_pki::Config {
                directory: dir.path().join("pki"),
                node_name: NODE.into(),
                server_names: vec!["localhost".into()],
                node_addresses: vec![local],
                service_address: [10, 43, 0, 1].into(),
                cluster_domain: "cluster.local".into(),
            },
            SystemClock.now(),
        )
        .unwrap();
        let listener = tokio::net::TcpListener::bind((local, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let store = isopod_etcd::open(isopod_etcd::Config::new(dir.path().join("etcd"))).unwrap();
        let api = ApiServer::new(api_config(&pki, local, port), store).await.unwrap();
        let serving = ServingCertificate::new(&pki.apiserver).unwrap();
        let clients = Clients::Optional { hint_pem: pki.client_ca.certificate_pem().to_owned() };
        let tls = isopod_pki::tls::server_config(serving, &clients, &["h2", "http/1.1"]).unwrap();
        let stop = CancellationToken::new();
        let (server, token) = (api.clone(), stop.clone());
        tokio::spawn(async move { server.serve(listener, tls, token).await });
        api.start().await.unwrap();
        let client = isopod_client::from_tls(
            &format!("https://127.0.0.1:{port}"),
            pki.serving_ca.certificate_pem(),
            &pki.admin.certificate_pem,
            &pki.admin.key_pem,
        )
        .unwrap();
        let name = dir.path().file_name().unwrap().to_string_lossy().trim_start_matches('.').to_owned();
        let cgroup = format!("/isopod-test-{name}");
        let mut cluster = Self { client, api, dir, port, pki, cgroup, stop, kubelet: None };
        cluster.account("default").await;
        cluster.start_kubelet().await;
        cluster
    }

    async fn account(&self, namespace: &str) {
        // What the controllers make in a whole cluster.
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        api.create(&PostParams::default(), &account).await.unwrap();
        let root: ConfigMap = serde_json::from_value(
            json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "PEM"}}),
        )
        .unwrap();
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        api.create(&PostParams::default(), &root).await.unwrap();
    }

    pub fn static_pods(&self) -> std::path::PathBuf {
        self.dir.path().join("static")
    }

    pub async fn start_kubelet(&mut self) {
        let runtime = Runtime::open(runtime_config(self.dir.path())).await.unwrap();
        let archive = isopod_testkit::busybox(IMAGE).unwrap().write(self.dir.path()).unwrap();
        runtime.images().import(&archive, &ImportOptions::default()).unwrap();
        let tls = Tls {
            serving: ServingCertificate::new(&self.pki.kubelet_serving).unwrap(),
            client_ca_pem: self.pki.client_ca.certificate_pem().to_owned(),
        };
        let mut config = Config::new(NODE, [127, 0, 0, 1].into(), self.dir.path().to_owned(), tls);
        config.port = 0;
        config.bind_address = [127, 0, 0, 1].into();
        config.run_dir = self.dir.path().join("run");
        config.cgroup_root.clone_from(&self.cgroup);
        config.static_pod_dir = Some(self.static_pods());
        config.pod_pids_limit = POD_PIDS_MAX;
        config.cluster_dns = vec![[10, 43, 0, 10].into()];
        // The machine that runs the tests may be fuller than a node should be.
        config.eviction.nodefs_available_percent = 0;
        config.eviction.imagefs_available_percent = 0;
        let client =
            self.api.in_process(UserInfo::authenticated(format!("system:node:{NODE}"), &["system:nodes"]));
        let stop = CancellationToken::new();
        let (r, token) = (Arc::new(runtime.clone()), stop.clone());
        let task = tokio::spawn(async move {
            isopod_kubelet::run(config, client, r.clone(), r.clone(), r, Arc::new(|_| {}), token).await
        });
        self.kubelet = Some(Running { stop, task, runtime });
        self.eventually("node ready", || async {
            let nodes: Api<Node> = Api::all(self.client.clone());
            let node = nodes.get(NODE).await.map_err(|e| e.to_string())?;
            let conditions = node.status.unwrap_or_default().conditions.unwrap_or_default();
            let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
            ready.then_some(()).ok_or_else(|| format!("{conditions:?}"))
        })
        .await;
    }

    pub async fn stop_kubelet(&mut self) {
        let k = self.kubelet.take().expect("it runs");
        k.stop.cancel();
        k.task.await.unwrap().unwrap();
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Creates a pod of the given spec, bound to the node.
    pub async fn pod(&self, name: &str, spec: Value) -> Pod {
        let mut pod = json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec});
        pod["spec"]["nodeName"] = json!(NODE);
        for list in ["containers", "initContainers"] {
            for c in pod["spec"][list].as_array_mut().into_iter().flatten() {
                if c.get("image").is_none() {
                    c["image"] = json!(IMAGE);
                }
            }
        }
        let pod: Pod = serde_json::from_value(pod).unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap()
    }

    pub async fn get(&self, name: &str) -> Result<Value, String> {
        let pod = self.pods().get(name).await.map_err(|e| e.to_string())?;
        serde_json::to_value(pod).map_err(|e| e.to_string())
    }

    /// Waits until a field of the pod, by JSON pointer, has a value.
    pub async fn field(&self, name: &str, pointer: &str, want: Value) -> Value {
        self.eventually(&format!("{name} {pointer} = {want}"), || async {
            let pod = self.get(name).await?;
            match pod.pointer(pointer) {
                Some(v) if *v == want => Ok(pod),
                _ => Err(format!("{:#}", pod["status"])),
            }
        })
        .await
    }

    pub async fn phase(&self, name: &str, want: &str) -> Value {
        self.field(name, "/status/phase", json!(want)).await
    }

    pub async fn log(&self, name: &str, params: LogParams) -> String {
        self.pods().logs(name, &params).await.unwrap_or_else(|e| format!("error: {e}"))
    }

    pub async fn delete(&self, name: &str, grace: u32) {
        self.pods().delete(name, &DeleteParams::default().grace_period(grace)).await.unwrap();
        self.gone(name).await;
    }

    pub async fn gone(&self, name: &str) {
        self.eventually(&format!("{name} gone"), || async {
            match self.get(name).await {
                Err(e) if e.contains("not found") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    pub async fn secret(&self, name: &str, data: Value) {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), "default");
        let object: Secret =
            serde_json::from_value(json!({"metadata": {"name": name}, "stringData": data})).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
    }

    pub async fn config_map(&self, name: &str, data: Value) {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), "default");
        let object: ConfigMap =
            serde_json::from_value(json!({"metadata": {"name": name}, "data": data})).unwrap();
        if api.get_opt(name).await.unwrap().is_some() {
            api.replace(name, &PostParams::default(), &object).await.unwrap();
        } else {
            api.create(&PostParams::default(), &object).await.unwrap();
        }
    }

    /// Runs a script in the container of a pod, straight in the runtime.
    pub async fn exec(&self, pod: &Value, script: &str) -> Result<ExecSyncResponse, Error> {
        let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap();
        let container_id = id.split_once("://").unwrap().1.to_owned();
        let cmd = vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()];
        let runtime = &self.kubelet.as_ref().unwrap().runtime;
        runtime.exec_sync(ExecSyncRequest { container_id, cmd, timeout: 20 }).await
    }

    fn write_pair(&self, name: &str, cert: &str, key: &str) -> (PathBuf, PathBuf) {
        let path = |kind: &str| self.dir.path().join(format!("{name}.{kind}"));
        std::fs::write(path("crt"), cert).unwrap();
        std::fs::write(path("key"), key).unwrap();
        (path("crt"), path("key"))
    }

    /// Certificate and key of a client that is known and may do nothing.
    pub fn stranger(&self, name: &str) -> (PathBuf, PathBuf) {
        let identity = isopod_pki::Identity::client(name, None);
        let leaf = self.pki.client_ca.issue(&identity, Duration::from_secs(3600), SystemClock.now()).unwrap();
        self.write_pair(name, &leaf.certificate_pem, &leaf.key_pem)
    }

    /// Certificate and key of the administrator.
    pub fn administrator(&self) -> (PathBuf, PathBuf) {
        self.write_pair("administrator", &self.pki.admin.certificate_pem, &self.pki.admin.key_pem)
    }

    /// A file of a pod's own control group.
    pub fn pod_cgroup_file(&self, controller: &str, uid: &str, file: &str) -> PathBuf {
        let root = Path::new("/sys/fs/cgroup");
        let root = match root.join("cgroup.controllers").exists() {
            true => root.to_owned(),
            false => root.join(controller),
        };
        let mut dirs = vec![root.join(self.cgroup.trim_start_matches('/'))];
        while let Some(dir) = dirs.pop() {
            if dir.file_name().unwrap().to_string_lossy() == format!("pod{uid}") {
                return dir.join(file);
            }
            let below = std::fs::read_dir(&dir).into_iter().flatten().filter_map(Result::ok);
            dirs.extend(below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        }
        panic!("pod {uid} has no control group");
    }

    /// Waits until the check succeeds; fails with what was last seen after a minute: machines may be busy.
    pub async fn eventually<T, F: Future<Output = Result<T, String>>>(
        &self,
        what: &str,
        mut check: impl FnMut() -> F,
    ) -> T {
        let mut last = String::new();
        let wait = async {
            loop {
                match check().await {
                    Ok(v) => return v,
                    Err(seen) => last = seen,
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(60), wait).await {
            Ok(v) => v,
            Err(_) => panic!("{what}: {last}"),
        }
    }

    pub async fn end(mut self) {
        if self.kubelet.is_some() {
            self.stop_kubelet().await;
        }
        self.stop.cancel();
        self.api.stop();
    }

    pub fn purge(dir: &Path) {
        let c = runtime_config(dir);
        if let Err(e) = isopod_runtime::purge(&c.root, &c.state) {
            eprintln!("purge: {e}");
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mut points: Vec<&str> = mounts
            .lines()
            .filter_map(|l| l.split(' ').nth(1))
            .filter(|p| Path::new(p).starts_with(dir))
            .collect();
        points.sort_by_key(|p| std::cmp::Reverse(p.len()));
        for p in points {
            let _ = nix::mount::umount2(p, nix::mount::MntFlags::MNT_DETACH);
        }
        let name = dir.file_name().unwrap().to_string_lossy().trim_start_matches('.').to_owned();
        for c in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().filter_map(Result::ok) {
            remove_cgroup(&c.path().join(format!("isopod-test-{name}")));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        Self::purge(self.dir.path());
    }
}

/// TCP ports that this process listens on.
pub fn listening() -> Vec<u16> {
    let own: Vec<String> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|e| std::fs::read_link(e.unwrap().path()).ok())
        .filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned))
        .collect();
    let mut ports = Vec::new();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        for line in std::fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // State 0A is LISTEN.
            if fields[3] == "0A" && own.iter().any(|inode| inode == fields[9]) {
                let port = fields[1].rsplit(':').next().unwrap();
                ports.push(u16::from_str_radix(port, 16).unwrap());
            }
        }
    }
    ports
}

fn remove_cgroup(dir: &Path) {
    for e in std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
        if e.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroup(&e.path());
        }
    }
    let _ = std::fs::remove_dir(dir);
}

fn api_config(pki: &isopod_pki::Pki, address: IpAddr, port: u16) -> isopod_apiserver::Config {
    let tokens = isopod_apiserver::authn::ServiceAccountTokens::new(
        "https://kubernetes.default.svc.cluster.local",
        &[],
        &pki.service_account_key_pem,
        std::slice::from_ref(&pki.service_account_public_key_pem),
    )
    .unwrap();
    let mut api = isopod_apiserver::Config::new(address, port, "10.43.0.0/16".parse().unwrap());
    let tls = isopod_pki::tls::client_config(
        pki.serving_ca.certificate_pem(),
        Some(&pki.apiserver_kubelet_client),
        &["http/1.1"],
    );
    api.kubelet_tls = Some(tls.unwrap());
    api.authentication.client_ca_pem = pki.client_ca.certificate_pem().to_owned();
    api.authentication.service_accounts = Some(Arc::new(tokens));
    api
}

fn runtime_config(dir: &Path) -> isopod_runtime::Config {
    isopod_runtime::Config {
        root: dir.join("runtime"),
        state: dir.join("state"),
        network: Arc::new(Addresses(AtomicU8::new(2))),
        shim_exe: std::env::current_exe().unwrap(),
        shim_args: vec!["shim".into()],
        oci_runtime: None,
        insecure_registries: Vec::new(),
        streaming_url: "http://127.0.0.1:1".into(),
    }
}
