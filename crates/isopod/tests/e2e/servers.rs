//! Three servers as one control plane: any of them may be lost.

use crate::{BUSYBOX, binary, turn};
use anyhow::{Context, Result, ensure};
use isopod_testkit::{Cluster, ClusterOptions, Host, busybox, eventually};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Time in which an event of the cluster must show: leases last 15 s, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(90);

/// A server beside the first one.
struct Server {
    name: &'static str,
    host: Host,
    directory: PathBuf,
    process: Option<Child>,
}

impl Server {
    fn join(cluster: &mut Cluster, name: &'static str, token: &str) -> Result<Self> {
        let host = cluster.lan.host()?;
        let directory = cluster.directory.path().join(name);
        std::fs::create_dir(&directory)?;
        let mut server = Server { name, host, directory, process: None };
        let archive = busybox(BUSYBOX)?.write(cluster.directory.path())?;
        isopod_testkit::run_ok(server.isopod("image").arg("import").arg(archive))?;
        let first = format!("https://{}:6443", cluster.host.address);
        server.launch(&["--server", &first, "--token", token])?;
        Ok(server)
    }

    /// The binary with a subcommand, on this server's host and directories.
    fn isopod(&self, subcommand: &str) -> Command {
        let mut command = self.host.command(&binary().to_string_lossy());
        command.arg(subcommand).arg("--data-dir").arg(self.directory.join("data"));
        command.arg("--run-dir").arg(self.directory.join("run"));
        command.env("HOME", &self.directory).env_remove("KUBECONFIG").stdin(Stdio::null());
        command
    }

    fn launch(&mut self, flags: &[&str]) -> Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.directory.join("log"))?;
        let mut command = self.isopod("server");
        command.args(["--node-name", self.name]).args(flags).stdout(log.try_clone()?).stderr(log);
        self.process = Some(command.spawn().context("start a server")?);
        Ok(())
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.host.command("kubectl");
        command.env("KUBECONFIG", self.directory.join("data/admin.kubeconfig")).env("HOME", &self.directory);
        isopod_testkit::run_ok(command.arg("--request-timeout=5s").args(arguments))
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- {}\n{}", self.name, lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        self.kill();
        if let Err(error) = isopod_testkit::run_ok(self.isopod("down").arg("--purge")) {
            eprintln!("purge of a test server failed: {error:#}");
        }
    }
}

const NODES_READY: &str =
    "jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type==\"Ready\")].status} {end}";
const CONTAINERS: &str = "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[*].containerID} \
                          {.status.containerStatuses[*].restartCount}{\"\\n\"}{end}";

#[test]
fn any_of_three_servers_may_be_lost() -> Result<()> {
    let _turn = turn();
    // Alone at first, with data that must outlast everything.
    let mut cluster = Cluster::start(binary(), &ClusterOptions::default())?;
    cluster.import(&busybox(BUSYBOX)?.write(cluster.directory.path())?)?;
    cluster.kubectl(&["create", "configmap", "early", "--from-literal=key=value"])?;
    let refused =
        cluster.isopod(&["token"], &["create"]).expect_err("nobody can join a server that is alone");
    ensure!(format!("{refused:#}").contains("--cluster-init"), "{refused:#}");
    cluster.terminate()?;
    cluster.add_flag("--cluster-init");
    cluster.launch()?;
    cluster.wait_ready()?;

    let token = cluster.isopod(&["token"], &["create"])?;
    let mut second = Server::join(&mut cluster, "node-2", token.trim())?;
    let third = Server::join(&mut cluster, "node-3", token.trim())?;
    let all = "node-1=True node-2=True node-3=True ";
    eventually("three nodes are Ready", PATIENCE, || {
        cluster.kubectl(&["get", "nodes", "-o", NODES_READY]).is_ok_and(|nodes| nodes == all)
    })?;
    for server in [&second, &third] {
        let value = server.kubectl(&["get", "configmap", "early", "-o", "jsonpath={.data.key}"])?;
        ensure!(value == "value", "{}: {value}", server.name);
    }
    cluster.apply(
        &include_str!("manifests/spread.yaml")
            .replace("BUSYBOX", BUSYBOX)
            .replace("replicas: 2", "replicas: 3"),
    )?;
    cluster.kubectl(&["rollout", "status", "deployment/spread", "--timeout=60s"])?;
    let slice = ["get", "endpointslice", "kubernetes", "-o", "jsonpath={.endpoints[*].addresses[0]}"];
    eventually("all three serve the kubernetes Service", PATIENCE, || {
        cluster.kubectl(&slice).is_ok_and(|addresses| addresses.split(' ').count() == 3)
    })?;
    let before = cluster.kubectl(&["get", "pods", "-l", "app=spread", "-o", CONTAINERS])?;

    // The first server, which led all there is to lead, is gone. The others go on with what was stored, and with
    // scheduling and controllers once the leases have run out.
    cluster.kill()?;
    eventually("the second server answers", PATIENCE, || {
        second.kubectl(&["create", "configmap", "late", "--from-literal=key=value"]).is_ok()
    })?;
    second.kubectl(&[
        "create",
        "deployment",
        "later",
        &format!("--image={BUSYBOX}"),
        "--",
        "sleep",
        "3600",
    ])?;
    eventually("pods are made and scheduled", PATIENCE, || {
        let ready = ["get", "deployment", "later", "-o", "jsonpath={.status.readyReplicas}"];
        third.kubectl(&ready).is_ok_and(|ready| ready == "1")
    })?;

    cluster.launch()?;
    cluster.wait_ready()?;
    let value = cluster.kubectl(&["get", "configmap", "late", "-o", "jsonpath={.data.key}"])?;
    ensure!(value == "value", "the first server has what it missed: {value}");

    // Now the second one; the first must be a full member again, or nothing could be written.
    second.kill();
    eventually("the first and third go on", PATIENCE, || {
        third.kubectl(&["create", "configmap", "latest", "--from-literal=key=value"]).is_ok()
    })?;
    second.launch(&[])?;
    eventually("three nodes are Ready again", PATIENCE, || {
        third.kubectl(&["get", "nodes", "-o", NODES_READY]).is_ok_and(|nodes| nodes == all)
    })?;
    // Pods tolerate the loss of a node for five seconds here; those whose node came back in time are the same.
    let after = cluster.kubectl(&["get", "pods", "-l", "app=spread", "-o", CONTAINERS])?;
    for line in before.lines() {
        let name = line.split(' ').next().unwrap_or_default();
        if let Some(now) = after.lines().find(|now| now.starts_with(name)) {
            ensure!(now == line, "a container restarted: {line} is now {now}");
        }
    }
    let etcdctl = |arguments: &[&str]| {
        let pki = cluster.data_dir().join("pki");
        let mut command = cluster.host.command("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", "https://127.0.0.1:2379", "--cacert"]);
        command.arg(pki.join("etcd/ca.crt")).arg("--cert").arg(pki.join("apiserver-etcd-client.crt"));
        command.arg("--key").arg(pki.join("apiserver-etcd-client.key")).args(arguments);
        isopod_testkit::run_ok(&mut command)
    };
    let members = etcdctl(&["member", "list"])?;
    ensure!(members.lines().filter(|line| line.contains("started")).count() == 3, "{members}");
    Ok(())
}
