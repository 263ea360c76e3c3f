//! The parts as separate processes, with upstream's flag names.

use crate::{binary, turn};
use anyhow::{Context, Result, ensure};
use isopod_testkit::{Cluster, ClusterOptions, eventually, run, run_ok};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// Processes that end with the test.
pub(crate) struct Parts<'a> {
    cluster: &'a Cluster,
    running: Vec<Child>,
}

impl Drop for Parts<'_> {
    fn drop(&mut self) {
        for child in self.running.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl<'a> Parts<'a> {
    pub(crate) fn new(cluster: &'a Cluster) -> Self {
        Parts { cluster, running: Vec::new() }
    }
    fn at(&self, name: &str) -> PathBuf {
        self.cluster.directory.path().join(name)
    }
    pub(crate) fn pki(&self, name: &str) -> String {
        self.cluster.data_dir().join("pki").join(name).to_string_lossy().into_owned()
    }

    /// Starts a part by a symbolic link of its name.
    fn start(&mut self, name: &str, arguments: &[&str]) -> Result<()> {
        let link = self.at(name);
        std::os::unix::fs::symlink(binary(), &link)?;
        let log = std::fs::File::create(self.at(&format!("{name}.log")))?;
        let mut command = self.cluster.host.command(&link.to_string_lossy());
        let command = command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.running.push(command.spawn().with_context(|| format!("start {name}"))?);
        Ok(())
    }

    /// Starts the store, on data at hand or on none, and the API server with further flags.
    pub(crate) fn start_store_and_api(&mut self, data: Option<&str>, flags: &[&str]) -> Result<()> {
        let data = data.map_or_else(|| self.at("etcd-data").to_string_lossy().into_owned(), str::to_owned);
        let [ca, cert, key] = ["etcd/ca.crt", "etcd/server.crt", "etcd/server.key"].map(|f| self.pki(f));
        let url = "https://127.0.0.1:2379";
        self.start(
            "etcd",
            &[
                "--data-dir",
                &data,
                "--listen-client-urls",
                url,
                "--cert-file",
                &cert,
                "--key-file",
                &key,
                "--trusted-ca-file",
                &ca,
                "--client-cert-auth",
            ],
        )?;
        let [client, client_key] =
            ["apiserver-etcd-client.crt", "apiserver-etcd-client.key"].map(|f| self.pki(f));
        let [cert, key, clients] = ["apiserver.crt", "apiserver.key", "client-ca.crt"].map(|f| self.pki(f));
        let [private, public] = ["sa.key", "sa.pub"].map(|f| self.pki(f));
        let mut arguments = vec![
            "--etcd-servers",
            url,
            "--etcd-cafile",
            &ca,
            "--etcd-certfile",
            &client,
            "--etcd-keyfile",
            &client_key,
            "--tls-cert-file",
            &cert,
            "--tls-private-key-file",
            &key,
            "--client-ca-file",
            &clients,
            "--service-account-issuer",
            "https://kubernetes.default.svc.cluster.local",
            "--service-account-signing-key-file",
            &private,
            "--service-account-key-file",
            &public,
            "--service-cluster-ip-range",
            "10.43.0.0/16",
        ];
        arguments.extend(flags);
        self.start("kube-apiserver", &arguments)?;
        eventually("the API server is ready", MINUTE, || {
            self.cluster.kubectl(&["get", "--raw", "/readyz"]).is_ok()
        })
    }

    /// A kubeconfig made by kubectl, for the identity of a certificate.
    fn kubeconfig(&self, identity: &str) -> Result<String> {
        let path = self.at(&format!("{identity}.kubeconfig")).to_string_lossy().into_owned();
        let ca = format!("--certificate-authority={}", self.pki("serving-ca.crt"));
        let cert = format!("--client-certificate={}", self.pki(&format!("{identity}.crt")));
        let key = format!("--client-key={}", self.pki(&format!("{identity}.key")));
        for arguments in [
            &["set-cluster", "c", "--server=https://127.0.0.1:6443", "--embed-certs", ca.as_str()][..],
            &["set-credentials", "u", "--embed-certs", &cert, &key],
            &["set-context", "x", "--cluster=c", "--user=u"],
            &["use-context", "x"],
        ] {
            let mut command = self.cluster.host.command("kubectl");
            run_ok(command.arg("config").args(arguments).env("KUBECONFIG", &path))?;
        }
        Ok(path)
    }
}

#[test]
fn etcd_apiserver_controllers_and_scheduler_apart() -> Result<()> {
    let _turn = turn();
    // The certificates of a server that ran once; then every part is a process of its own.
    let options = ClusterOptions { flags: vec!["--disable-agent".into()] };
    let mut cluster = Cluster::start(binary(), &options)?;
    cluster.terminate()?;
    let mut parts = Parts::new(&cluster);
    parts.start_store_and_api(None, &[])?;
    let (manager, scheduler) = (parts.kubeconfig("controller-manager")?, parts.kubeconfig("scheduler")?);
    let ca = parts.pki("serving-ca.crt");
    parts.start(
        "kube-controller-manager",
        &[
            "--kubeconfig",
            &manager,
            "--leader-elect=true",
            "--use-service-account-credentials=true",
            "--allocate-node-cidrs=true",
            "--cluster-cidr",
            "10.42.0.0/16",
            "--root-ca-file",
            &ca,
        ],
    )?;
    parts.start("kube-scheduler", &["--kubeconfig", &scheduler, "--leader-elect=true"])?;
    let node = "{\"apiVersion\":\"v1\",\"kind\":\"Node\",\"metadata\":{\"name\":\"paper\"}}";
    ensure!(run(&mut cluster.kubectl_command(&["create", "-f", "-"]), Some(node))?.ok);
    let amounts = "{\"cpu\":\"4\",\"memory\":\"8Gi\",\"pods\":\"110\"}";
    let status = format!(
        "{{\"status\":{{\"allocatable\":{amounts},\"capacity\":{amounts},\"conditions\":[{{\"type\":\"Ready\",\"status\":\"True\"}}]}}}}"
    );
    cluster.kubectl(&["patch", "node", "paper", "--subresource=status", "--type=merge", "-p", &status])?;
    cluster.kubectl(&["create", "deployment", "apart", "--image=x", "--replicas=2"])?;
    eventually("the scheduler binds what the controllers made", MINUTE, || {
        let path = "jsonpath={.items[*].spec.nodeName}";
        cluster
            .kubectl(&["get", "pods", "-l", "app=apart", "-o", path])
            .is_ok_and(|nodes| nodes == "paper paper")
    })?;
    let leases = cluster.kubectl(&["-n", "kube-system", "get", "leases", "-o", "name"])?;
    for lease in ["kube-scheduler", "kube-controller-manager"] {
        ensure!(leases.contains(lease), "{leases}");
    }
    // Health is open, metrics are for whom the API server lets read them.
    for port in ["10257", "10259"] {
        let server = format!("https://127.0.0.1:{port}");
        let ask = |kubeconfig: &str, path: &str| {
            let mut command = cluster.host.command("kubectl");
            command.env("KUBECONFIG", kubeconfig).args(["--server", &server, "--insecure-skip-tls-verify"]);
            // Without any credentials kubectl would ask for some.
            let nobody = (kubeconfig == "/dev/null").then_some("--token=none");
            command.args(nobody);
            run(command.args(["get", "--raw", path]), None)
        };
        for path in ["/healthz", "/livez", "/readyz"] {
            let health = ask("/dev/null", path)?;
            ensure!(health.out == "ok", "{path}: {health:?}");
        }
        let refused = ask("/dev/null", "/metrics")?;
        ensure!(!refused.ok && refused.err.contains("logged in"), "{refused:?}");
        let strange = ask(&parts.kubeconfig("kubelet-client")?, "/metrics")?;
        ensure!(!strange.ok && strange.err.contains("orbidden"), "{strange:?}");
        let metrics = ask(&parts.kubeconfig("admin")?, "/metrics")?;
        ensure!(metrics.ok && metrics.out.contains("# TYPE"), "{metrics:?}");
    }
    // A client of etcd finds what the API server wrote where upstream would have written it.
    let [ca, cert, key] =
        ["etcd/ca.crt", "apiserver-etcd-client.crt", "apiserver-etcd-client.key"].map(|f| parts.pki(f));
    let mut etcdctl = cluster.host.command("etcdctl");
    etcdctl.env("ETCDCTL_API", "3").args([
        "--endpoints=https://127.0.0.1:2379",
        "--cacert",
        &ca,
        "--cert",
        &cert,
    ]);
    etcdctl.args(["--key", &key, "get", "--prefix", "--keys-only", "/registry/deployments/"]);
    ensure!(run_ok(&mut etcdctl)?.contains("/registry/deployments/default/apart"));
    Ok(())
}
