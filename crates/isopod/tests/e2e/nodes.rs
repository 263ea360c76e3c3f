//! Two nodes: one stops, and its pods come up on the other.

use crate::{BUSYBOX, binary, turn};
use anyhow::{Context, Result, ensure};
use isopod_testkit::{Cluster, ClusterOptions, Host, busybox, eventually};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// A kubelet and kube-proxy of their own on another host.
struct Node {
    host: Host,
    directory: PathBuf,
    kubelet: Child,
    proxy: Child,
}

fn start_node(cluster: &mut Cluster, name: &str) -> Result<Node> {
    start_node_with(cluster, name, |_, _, _| Ok(()))
}

/// The same, with a change of its files: gets the directory and the server's URL.
fn start_node_with(
    cluster: &mut Cluster,
    name: &str,
    change: impl FnOnce(&Cluster, &Path, &str) -> Result<()>,
) -> Result<Node> {
    let host = cluster.lan.host()?;
    let directory = cluster.directory.path().join(name);
    let server = format!("https://{}:6443", cluster.host.address);
    cluster.isopod(
        &["node-files"],
        &[
            "--node-name",
            name,
            "--node-ip",
            &host.address.to_string(),
            "--server",
            &server,
            "--out",
            &directory.to_string_lossy(),
        ],
    )?;
    change(cluster, &directory, &server)?;
    let file = |f: &str| directory.join(f).to_string_lossy().into_owned();
    let mut image = host.command(&binary().to_string_lossy());
    image.args(["image", "--data-dir", &file("data"), "--run-dir", &file("run"), "import"]);
    let archive = busybox(BUSYBOX)?.write(cluster.directory.path())?;
    isopod_testkit::run_ok(image.arg(&archive))?;
    let log = std::fs::File::create(directory.join("kubelet.log"))?;
    let kubelet = host
        .command(&binary().to_string_lossy())
        .args(["kubelet", "--kubeconfig", &file("kubelet.kubeconfig"), "--hostname-override", name])
        .args([
            "--root-dir",
            &file("data"),
            "--run-dir",
            &file("run"),
            "--node-ip",
            &host.address.to_string(),
        ])
        .args(["--tls-cert-file", &file("kubelet.crt"), "--tls-private-key-file", &file("kubelet.key")])
        .args(["--client-ca-file", &file("client-ca.crt"), "--cluster-dns", "10.43.0.10"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start the kubelet")?;
    let log = std::fs::File::create(directory.join("kube-proxy.log"))?;
    let proxy = host
        .command(&binary().to_string_lossy())
        .args(["kube-proxy", "--kubeconfig", &file("kube-proxy.kubeconfig"), "--hostname-override", name])
        .args(["--cluster-cidr", "10.42.0.0/16"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start kube-proxy")?;
    Ok(Node { host, directory, kubelet, proxy })
}

impl Node {
    fn stop(&mut self) {
        for child in [&mut self.kubelet, &mut self.proxy] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.directory.join("kubelet.log")).unwrap_or_default());
        }
        self.stop();
        let mut command = self.host.command(&binary().to_string_lossy());
        command.args(["down", "--purge", "--data-dir"]).arg(self.directory.join("data"));
        command.arg("--run-dir").arg(self.directory.join("run")).env("HOME", &self.directory);
        if let Err(error) = isopod_testkit::run_ok(&mut command) {
            eprintln!("purge of a test node failed: {error:#}");
        }
    }
}

#[test]
fn the_pods_of_a_node_that_stops_come_up_elsewhere() -> Result<()> {
    let _turn = turn();
    // Shorter than the default of 50 s, as upstream's flag of that name allows.
    let options = ClusterOptions { flags: vec!["--node-monitor-grace-period=10s".into()] };
    let mut cluster = Cluster::start(binary(), &options)?;
    cluster.import(&busybox(BUSYBOX)?.write(cluster.directory.path())?)?;
    let mut node = start_node(&mut cluster, "node-2")?;
    let k = |cluster: &Cluster, arguments: &[&str]| cluster.kubectl(arguments);
    eventually("node-2 registers", Duration::from_secs(30), || {
        k(&cluster, &["get", "node", "node-2"]).is_ok()
    })?;
    k(&cluster, &["wait", "--for=condition=Ready", "node/node-2", "--timeout=60s"])?;
    k(&cluster, &["cordon", "node-1"])?;
    let manifest = include_str!("manifests/spread.yaml").replace("BUSYBOX", BUSYBOX);
    cluster.apply(&manifest)?;
    k(&cluster, &["rollout", "status", "deployment/spread", "--timeout=60s"])?;
    let nodes =
        || k(&cluster, &["get", "pods", "-l", "app=spread", "-o", "jsonpath={.items[*].spec.nodeName}"]);
    ensure!(nodes()? == "node-2 node-2", "both on the second node: {}", nodes()?);
    k(&cluster, &["uncordon", "node-1"])?;
    // From the first node through the Service to pods on the second.
    let address = k(&cluster, &["get", "service", "spread", "-o", "jsonpath={.spec.clusterIP}"])?;
    eventually("pods on another node answer", Duration::from_secs(30), || {
        let url = format!("http://{address}/");
        isopod_testkit::run_ok(cluster.host.command("curl").args(["-sf", "--max-time", "2", &url])).is_ok()
    })?;
    node.stop();
    k(&cluster, &["wait", "--for=condition=Ready=Unknown", "node/node-2", "--timeout=60s"])?;
    let taints = k(&cluster, &["get", "node", "node-2", "-o", "jsonpath={.spec.taints[*].key}"])?;
    ensure!(taints.contains("node.kubernetes.io/unreachable"), "{taints}");
    eventually("replacements run on the first node", Duration::from_secs(90), || {
        let path = "jsonpath={range .items[?(@.status.phase==\"Running\")]}{.spec.nodeName}{\"\\n\"}{end}";
        let running = k(&cluster, &["get", "pods", "-l", "app=spread", "-o", path]).unwrap_or_default();
        running.lines().filter(|l| *l == "node-1").count() == 2
    })?;
    Ok(())
}

/// A kubelet whose certificate is about to expire has another one by then, and goes on without a restart.
#[test]
fn a_kubelet_renews_its_certificate() -> Result<()> {
    const LIFE: Duration = Duration::from_secs(40);
    /// How long the API server remembers a certificate as good.
    const REMEMBERED: Duration = Duration::from_secs(60);
    let _turn = turn();
    let mut cluster = Cluster::start(binary(), &ClusterOptions { flags: vec!["--disable-agent".into()] })?;
    let start = isopod_client::Clock::now(&isopod_client::SystemClock);
    let node = start_node_with(&mut cluster, "node-2", |cluster, directory, server| {
        let pki = cluster.data_dir().join("pki");
        let clients =
            isopod_pki::Authority::from_files(&pki.join("client-ca.crt"), &pki.join("client-ca.key"))?;
        let user = "system:node:node-2";
        let leaf = clients.issue(&isopod_pki::Identity::client(user, Some("system:nodes")), LIFE, start)?;
        let ca = std::fs::read_to_string(pki.join("serving-ca.crt"))?;
        let credentials = isopod_pki::Credentials::Certificate(&leaf);
        let text = isopod_pki::kubeconfig("isopod", server, &ca, user, &credentials);
        Ok(isopod_pki::write_private(&directory.join("kubelet.kubeconfig"), text.as_bytes())?)
    })?;
    let kept = node.directory.join("data/kubelet/kubelet-client-current.pem");
    eventually("the certificate is renewed", LIFE, || kept.exists())?;
    let until = start + LIFE + REMEMBERED;
    eventually(
        "the node's lease is renewed after the first certificate's end",
        Duration::from_secs(180),
        || {
            let path = "jsonpath={.spec.renewTime}";
            let renewed = cluster.kubectl(&["-n", "kube-node-lease", "get", "lease", "node-2", "-o", path]);
            renewed.is_ok_and(|time| time.parse::<jiff::Timestamp>().is_ok_and(|time| time > until))
        },
    )
}
