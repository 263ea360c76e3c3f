//! The server is killed at any moment; the next one finds everything, and leaves nothing behind.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::time::Duration;

use isopod_cri::RuntimeService;
use isopod_cri::v1::*;
use isopod_runtime::Runtime;
use support::{Node, container};

/// Says to the test below that it is the server to be killed, and where.
const DIRECTORY: &str = "ISOPOD_TEST_CRASH_DIRECTORY";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed() {
    let Ok(dir) = std::env::var(DIRECTORY) else { return };
    let runtime = Runtime::open(support::config(dir.as_ref())).await.unwrap();
    for round in 0.. {
        let config = support::sandbox_in(dir.as_ref(), "/isopod-test-crash", &format!("pod{round}"));
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        let pod_sandbox_id = runtime.run_pod_sandbox(request).await.unwrap().pod_sandbox_id;
        let request = CreateContainerRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
            config: Some(container("main", "exec sleep 1000")),
            sandbox_config: None,
        };
        let container_id = runtime.create_container(request).await.unwrap().container_id;
        runtime.start_container(StartContainerRequest { container_id }).await.unwrap();
        if round % 2 == 1 {
            runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).await.unwrap();
        }
    }
}

fn start_of(pid: i32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split(' ').nth(20).unwrap().to_owned()
}

async fn running(runtime: &Runtime) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for item in runtime.list_containers(ListContainersRequest::default()).await.unwrap().containers {
        if item.state == ContainerState::ContainerRunning as i32 {
            let request = ContainerStatusRequest { container_id: item.id.clone(), verbose: true };
            let info = runtime.container_status(request).await.unwrap().info;
            let record: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
            let pid = i32::try_from(record["pid"].as_i64().unwrap()).unwrap();
            found.push((item.id, start_of(pid)));
        }
    }
    found
}

fn entries(node: &Node, kind: &str) -> BTreeSet<OsString> {
    let dir = std::fs::read_dir(node.config.root.join(kind));
    dir.into_iter().flatten().map(|entry| entry.unwrap().file_name()).collect()
}

/// Whether the records say of any container that it was started and has not ended.
fn runs(node: &Node) -> bool {
    entries(node, "containers").iter().any(|id| {
        let record = node.config.root.join("containers").join(id).join("record.json");
        let record = std::fs::read(record).unwrap_or_default();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap_or_default();
        record["started_at"].as_i64().unwrap_or(0) > 0 && record["finished_at"] == 0
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again() {
    let node = Node::new().await;
    let dir = node.dir.path().display().to_string();
    std::fs::create_dir_all(node.dir.path().join("log")).unwrap();
    node.runtime.close();
    let mut before: Vec<(String, String)> = Vec::new();
    const ROUNDS: u64 = 12;
    for round in 0..ROUNDS {
        let known = entries(&node, "sandboxes");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_server_that_is_killed"])
            .env(DIRECTORY, &dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The server is at work; how far it comes from here differs from round to round, and so does the step
        // that the kill hits.
        node.until("a sandbox is made", || entries(&node, "sandboxes") != known).await;
        if round == ROUNDS - 1 {
            node.until("a container runs", || runs(&node)).await;
        } else {
            tokio::time::sleep(Duration::from_millis(round * 53)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let runtime = Runtime::open(node.config.clone()).await.unwrap();
        let now = running(&runtime).await;
        for known in &before {
            assert!(now.contains(known), "a container of an earlier round still runs, and was not restarted");
        }
        before = now;
        runtime.close();
    }
    assert!(!before.is_empty());
    let runtime = Runtime::open(node.config.clone()).await.unwrap();
    for sandbox in runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().items {
        runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: sandbox.id }).await.unwrap();
    }
    for sub in ["root/sandboxes", "root/containers", "state/s", "state/c", "state/netns"] {
        let left: Vec<_> = std::fs::read_dir(node.dir.path().join(sub)).unwrap().collect();
        assert!(left.is_empty(), "{sub}: {left:?}");
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    // The runtime that is open has a directory in memory.
    let left: Vec<&str> = mounts.lines().filter(|l| l.contains(&dir) && !l.contains("/state/c ")).collect();
    assert!(left.is_empty(), "{left:#?}");
    let cgroups = isopod_runtime::cgroup::Cgroups::detect().unwrap();
    assert!(cgroups.pids("/isopod-test-crash").is_empty());
    cgroups.remove("/isopod-test-crash").unwrap();
}
