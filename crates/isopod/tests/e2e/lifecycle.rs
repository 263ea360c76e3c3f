//! `isopod up`, `demo`, `status`, `down`, as a new user types them.

use crate::{binary, turn};
use anyhow::{Result, ensure};
use isopod_testkit::{Cluster, ClusterOptions, run_ok};
use std::path::Path;

fn contains(text: &str, wanted: &str) -> Result<()> {
    ensure!(text.contains(wanted), "expected {wanted:?} in\n{text}");
    Ok(())
}

#[test]
fn up_demo_status_down_and_nothing_is_left() -> Result<()> {
    let _turn = turn();
    let cluster = Cluster::prepare(binary(), &ClusterOptions::default())?;
    let up = || cluster.isopod(&["up"], &["--node-name", "node-1"]);
    let first = up()?;
    for step in
        ["machine checked", "server started", "API server is ready", "node is Ready", "context \"isopod\""]
    {
        contains(&first, step)?;
    }
    contains(&up()?, "server runs already")?;
    let context = std::fs::read_to_string(cluster.directory.path().join(".kube/config"))?;
    contains(&context, "current-context: isopod")?;
    contains(&cluster.isopod(&["demo"], &[])?, "requests to the Service's cluster IP")?;
    let status = cluster.isopod(&["status"], &[])?;
    for wanted in ["server      pid", "v1.36", "[+]etcd ok", "node-1  Ready"] {
        contains(&status, wanted)?;
    }
    contains(&cluster.isopod(&["image"], &["list"])?, "isopod.local/demo:v1")?;
    contains(&cluster.isopod(&["check"], &[])?, "ok       ")?;
    // Stopped and started again, everything comes back.
    contains(&cluster.isopod(&["down"], &[])?, "server stopped")?;
    up()?;
    cluster.kubectl(&["rollout", "status", "deployment/isopod-demo", "--timeout=60s"])?;
    contains(&cluster.isopod(&["demo"], &["--delete"])?, "demo deleted")?;
    cluster.isopod(&["down", "--purge"], &[])?;
    nothing_is_left(&cluster)
}

fn nothing_is_left(cluster: &Cluster) -> Result<()> {
    let directory = cluster.directory.path().to_string_lossy().into_owned();
    for name in ["data", "run"] {
        ensure!(!cluster.directory.path().join(name).exists(), "{name} is left");
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!mounts.contains(&directory), "mounts are left");
    let processes = run_ok(std::process::Command::new("ps").args(["-eo", "args"]))?;
    ensure!(
        !processes.lines().any(|l| l.contains(&directory) && !l.starts_with("ps")),
        "processes are left:\n{processes}"
    );
    let tables = run_ok(cluster.host.command("nft").args(["list", "tables"]))?;
    ensure!(!tables.contains("isopod"), "tables are left: {tables}");
    let links = run_ok(cluster.host.command("ip").args(["-br", "link"]))?;
    ensure!(!links.contains("isopod"), "links are left: {links}");
    for controller in ["memory", "cpu", "pids"] {
        for group in ["isopod", "kubepods"] {
            let path = Path::new("/sys/fs/cgroup").join(controller).join(group);
            ensure!(!path.exists(), "{} is left", path.display());
        }
    }
    let context = std::fs::read_to_string(cluster.directory.path().join(".kube/config"))?;
    ensure!(!context.contains("server: https"), "the context is left:\n{context}");
    Ok(())
}
