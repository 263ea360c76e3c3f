//! Real containers: needs root, and leaves nothing behind.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use isopod_cri::v1::*;
use isopod_cri::{Code, RuntimeService};
use support::{Node, container};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_from_start_to_end() {
    let node = Node::new().await;
    let sandbox = node.run_sandbox(&node.sandbox("pod")).await;
    let mut config = container("main", "echo out; echo err >&2; echo $FROM_IMAGE $EXTRA $HOME; exit 7");
    config.envs.push(KeyValue { key: "EXTRA".into(), value: b"given".to_vec() });
    let id = node.create(&sandbox, config).await;
    assert_eq!(node.status(&id).await.state, ContainerState::ContainerCreated as i32);
    node.start(&id).await;
    let status = node.wait_exit(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
    assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at);
    let mut log = node.log("main.log");
    log.sort();
    assert_eq!(log, ["stderr F err", "stdout F out", "stdout F yes given /root"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_sees() {
    let node = Node::new().await;
    let sandbox = node.run_sandbox(&node.sandbox("pod")).await;
    let id = node.create(&sandbox, container("main", "exec sleep 1000")).await;
    node.start(&id).await;
    let exec = async |script: &str| {
        let (out, err, code) = node.exec(&id, script).await;
        assert_eq!((err.as_str(), code), ("", 0), "{script}");
        out
    };
    // The shell has become its command.
    node.until_exec(&id, "cat /proc/1/comm", "sleep\n").await;
    assert_eq!(exec("hostname; cat /etc/hostname").await, "pod\npod\n");
    assert_eq!(
        exec("cat /etc/resolv.conf").await,
        "search default.svc.cluster.local\nnameserver 10.43.0.10\noptions ndots:5\n"
    );
    assert_eq!(
        exec("pwd; cat /etc/second; ls /etc/gone 2>/dev/null || echo gone").await,
        "/work/dir\nsecond\ngone\n"
    );
    assert_eq!(
        exec("cat /proc/1/comm; ls /proc/self/fd | wc -l; ls /proc/1/fd | wc -l").await,
        "sleep\n4\n3\n"
    );
    // The default filter holds for further processes too.
    assert_eq!(exec("grep -h Seccomp: /proc/1/status /proc/self/status 2>/dev/null || busybox grep -h Seccomp: /proc/1/status /proc/self/status").await, "Seccomp:\t2\nSeccomp:\t2\n");
    assert_eq!(
        exec("busybox grep -h CapEff /proc/1/status /proc/self/status").await,
        "CapEff:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n"
    );
    assert_eq!(exec("touch /proc/sys/kernel/x 2>/dev/null || echo denied; cat /proc/keys; unshare -n true 2>/dev/null || echo denied").await, "denied\ndenied\n");
    let (_, _, code) = node.exec(&id, "kill -9 $$").await;
    assert_eq!(code, 137);
    let request = ExecSyncRequest { container_id: id.clone(), cmd: vec!["nothere".into()], timeout: 10 };
    let error = node.runtime.exec_sync(request).await.unwrap_err();
    assert!(error.message.contains("executable file not found in $PATH"), "{error}");
    let request =
        ExecSyncRequest { container_id: id.clone(), cmd: vec!["sleep".into(), "77".into()], timeout: 1 };
    assert_eq!(node.runtime.exec_sync(request).await.unwrap_err().code, Code::DeadlineExceeded);
    node.until_exec(&id, "ps | busybox grep -c '[s]leep 77' || true", "0\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_remove_and_start_errors() {
    let node = Node::new().await;
    let sandbox = node.run_sandbox(&node.sandbox("pod")).await;
    // A signal that comes before the trap is set is lost, since the shell is the first process.
    let trap = async |name: &str, on_term: &str| {
        let script = format!("trap '{on_term}' TERM; echo ready; while :; do sleep 0.05; done");
        let id = node.create(&sandbox, container(name, &script)).await;
        node.start(&id).await;
        node.until("the trap is set", || node.log(&format!("{name}.log")) == ["stdout F ready"]).await;
        id
    };
    let id = trap("term", "exit 3").await;
    let stop = |id: &str, timeout| StopContainerRequest { container_id: id.to_owned(), timeout };
    node.runtime.stop_container(stop(&id, 60)).await.unwrap();
    assert_eq!(node.status(&id).await.exit_code, 3);
    node.runtime.stop_container(stop(&id, 60)).await.unwrap();
    let id = trap("kill", "").await;
    node.runtime.stop_container(stop(&id, 1)).await.unwrap();
    assert_eq!(node.status(&id).await.exit_code, 137);
    let remove = |id: &str| RemoveContainerRequest { container_id: id.to_owned() };
    node.runtime.remove_container(remove(&id)).await.unwrap();
    node.runtime.remove_container(remove(&id)).await.unwrap();
    let mut config = container("wrong", "");
    config.command = vec!["/no/such/program".into()];
    let id = node.create(&sandbox, config).await;
    let error =
        node.runtime.start_container(StartContainerRequest { container_id: id.clone() }).await.unwrap_err();
    assert!(error.message.contains("no such file or directory"), "{error}");
    let status = node.status(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    let request = StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    node.runtime.stop_pod_sandbox(request.clone()).await.unwrap();
    node.runtime.stop_pod_sandbox(request).await.unwrap();
    let request = RemovePodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    node.runtime.remove_pod_sandbox(request.clone()).await.unwrap();
    node.runtime.remove_pod_sandbox(request).await.unwrap();
    assert!(
        node.runtime.list_containers(ListContainersRequest::default()).await.unwrap().containers.is_empty()
    );
}
