//! What happens around containers: the server's death, the shim's death, memory, events, logs, other clients.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use futures::StreamExt;
use isopod_cri::v1::*;
use isopod_cri::{ImageService, RuntimeService};
use isopod_runtime::Runtime;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{IMAGE, Node, container};

#[tokio::test(flavor = "multi_thread")]
async fn containers_outlive_the_server() {
    let node = Node::new().await;
    let sandbox = node.run_sandbox(&node.sandbox("pod")).await;
    let stays = node.create(&sandbox, container("stays", "exec sleep 1000")).await;
    let ends = node.create(&sandbox, container("ends", "echo before; exec sleep 1000")).await;
    node.start(&stays).await;
    node.start(&ends).await;
    let pid = node.exec(&stays, "cat /proc/1/stat").await.0;
    // A second runtime on the same directories is what a restarted server has.
    node.runtime.close();
    let again = Runtime::open(node.config.clone()).await.unwrap();
    let status = |id: &str| {
        let (again, container_id) = (again.clone(), id.to_owned());
        async move {
            let request = ContainerStatusRequest { container_id, verbose: false };
            again.container_status(request).await.unwrap().status.unwrap()
        }
    };
    assert_eq!(status(&stays).await.state, ContainerState::ContainerRunning as i32);
    let request = ExecSyncRequest {
        container_id: stays.clone(),
        cmd: vec!["cat".into(), "/proc/1/stat".into()],
        timeout: 5,
    };
    let same = String::from_utf8(again.exec_sync(request).await.unwrap().stdout).unwrap();
    assert_eq!(same.split(' ').nth(21), pid.split(' ').nth(21), "the same process since the same time");
    again.stop_container(StopContainerRequest { container_id: ends.clone(), timeout: 0 }).await.unwrap();
    assert_eq!(status(&ends).await.exit_code, 137);
    assert_eq!(node.log("ends.log")[0], "stdout F before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_shim_is_noticed() {
    let node = Node::new().await;
    let sandbox = node.run_sandbox(&node.sandbox("pod")).await;
    let id = node.create(&sandbox, container("main", "exec sleep 1000")).await;
    node.start(&id).await;
    let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: true };
    let info = node.runtime.pod_sandbox_status(request.clone()).await.unwrap().info;
    let record: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    let shim = i32::try_from(record["shim_pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
    let status = node.wait_exit(&id).await;
    assert_eq!((status.exit_code, status.message.as_str()), (137, "the shim of the pod died"));
    let limit = std::time::Duration::from_secs(20);
    let not_ready = async {
        loop {
            let status = node.runtime.pod_sandbox_status(request.clone()).await.unwrap().status.unwrap();
            if status.state == PodSandboxState::SandboxNotready as i32 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(limit, not_ready).await.expect("the sandbox is not ready any more");
    node.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: sandbox }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_memory() {
    let node = Node::new().await;
    let sandbox = node.run_sandbox(&node.sandbox("pod")).await;
    let mut config = container("hog", "tail /dev/zero");
    config.linux.as_mut().unwrap().resources = Some(LinuxContainerResources {
        memory_limit_in_bytes: 32 << 20,
        cpu_shares: 512,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        oom_score_adj: 1000,
        ..LinuxContainerResources::default()
    });
    let id = node.create(&sandbox, config).await;
    node.start(&id).await;
    let status = node.wait_exit(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_limits_and_events() {
    let node = Node::new().await;
    let mut events = node.runtime.get_container_events(GetEventsRequest {}).await.unwrap();
    let sandbox = node.run_sandbox(&node.sandbox("pod")).await;
    let mut config = container("main", "exec sleep 1000");
    config.linux.as_mut().unwrap().resources = Some(LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        ..LinuxContainerResources::default()
    });
    let id = node.create(&sandbox, config).await;
    node.start(&id).await;
    node.exec(&id, "dd if=/dev/zero of=/tmp/file bs=64k count=16 2>/dev/null").await;
    let request = ContainerStatsRequest { container_id: id.clone() };
    let stats = node.runtime.container_stats(request).await.unwrap().stats.unwrap();
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
    assert!(stats.memory.unwrap().working_set_bytes.unwrap().value > 0);
    assert!(stats.writable_layer.unwrap().used_bytes.unwrap().value >= 1 << 20);
    let request = PodSandboxStatsRequest { pod_sandbox_id: sandbox.clone() };
    let stats = node.runtime.pod_sandbox_stats(request).await.unwrap().stats.unwrap().linux.unwrap();
    assert_eq!(stats.containers.len(), 1);
    assert!(stats.process.unwrap().process_count.unwrap().value >= 1);
    node.runtime
        .update_container_resources(UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(LinuxContainerResources {
                memory_limit_in_bytes: 96 << 20,
                cpu_shares: 100,
                ..LinuxContainerResources::default()
            }),
            ..UpdateContainerResourcesRequest::default()
        })
        .await
        .unwrap();
    let resources = node.status(&id).await.resources.unwrap().linux.unwrap();
    assert_eq!((resources.memory_limit_in_bytes, resources.cpu_shares), (96 << 20, 100));
    let request = StopContainerRequest { container_id: id.clone(), timeout: 0 };
    node.runtime.stop_container(request).await.unwrap();
    node.runtime.remove_container(RemoveContainerRequest { container_id: id.clone() }).await.unwrap();
    let mut kinds = Vec::new();
    while kinds.len() < 4 {
        let event = events.next().await.unwrap().unwrap();
        if event.container_id == id {
            kinds.push(event.container_event_type);
        } else {
            assert_eq!(event.container_id, sandbox);
        }
    }
    assert_eq!(kinds, [0, 1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_namespace_and_rotated_logs() {
    let node = Node::new().await;
    let mut config = node.sandbox("pod");
    config.linux.as_mut().unwrap().security_context = Some(LinuxSandboxSecurityContext {
        namespace_options: Some(NamespaceOption {
            pid: NamespaceMode::Pod as i32,
            ..NamespaceOption::default()
        }),
        ..LinuxSandboxSecurityContext::default()
    });
    let sandbox = node.run_sandbox(&config).await;
    let shared = |mut config: ContainerConfig| {
        let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.namespace_options.as_mut().unwrap().pid = NamespaceMode::Pod as i32;
        config
    };
    let first = node
        .create(&sandbox, shared(container("first", "while read line; do echo $line; done; exec sleep 1000")))
        .await;
    let second = node.create(&sandbox, shared(container("second", "sleep 1000 & exec sleep 1001"))).await;
    node.start(&first).await;
    node.start(&second).await;
    // Each shell has become, or started, what it is to.
    node.until_exec(&first, "ps | busybox grep -c '[s]leep 100'", "3\n").await;
    let (ps, _, _) = node.exec(&first, "cat /proc/1/comm; ps | busybox grep -c '[s]leep 100'; ls /proc/1/root/ 2>&1 | busybox grep -c denied").await;
    assert_eq!(ps, "pause\n3\n1\n");
    let stop = StopContainerRequest { container_id: second.clone(), timeout: 0 };
    node.runtime.stop_container(stop).await.unwrap();
    let gone = async { while node.exec(&first, "ps | busybox grep -c '[s]leep 100'").await.0 != "1\n" {} };
    tokio::time::timeout(std::time::Duration::from_secs(20), gone)
        .await
        .expect("children end with their container");
    let log = node.dir.path().join("log");
    node.exec(&first, "echo one > /proc/$(busybox pidof sleep)/fd/1").await;
    node.until("the line is in the log", || node.log("first.log") == ["stdout F one"]).await;
    std::fs::rename(log.join("first.log"), log.join("first.log.1")).unwrap();
    let request = ReopenContainerLogRequest { container_id: first.clone() };
    node.runtime.reopen_container_log(request).await.unwrap();
    node.exec(&first, "echo two > /proc/$(busybox pidof sleep)/fd/1").await;
    let written = async {
        while node.log("first.log") != ["stdout F two"] {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), written).await.expect("the new log is written");
    assert_eq!(node.log("first.log.1"), ["stdout F one"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_groups_and_read_only_roots() {
    let node = Node::new().await;
    let sandbox = node.run_sandbox(&node.sandbox("pod")).await;
    let run = async |name: &str, change: &dyn Fn(&mut LinuxContainerSecurityContext), script: &str| {
        let mut config = container(name, script);
        change(config.linux.as_mut().unwrap().security_context.as_mut().unwrap());
        let id = node.create(&sandbox, config).await;
        node.start(&id).await;
        node.wait_exit(&id).await;
        node.log(&format!("{name}.log")).join("|").replace("stdout F ", "")
    };
    let out = run(
        "user",
        &|s| s.run_as_username = "web".into(),
        "id; touch /x 2>/dev/null || echo denied; echo x > /dev/stdout",
    )
    .await;
    assert_eq!(out, "uid=1000(web) gid=1001(web) groups=4(logs),1001(web)|denied|x");
    let out = run(
        "ids",
        &|s| {
            s.run_as_user = Some(Int64Value { value: 5000 });
            s.run_as_group = Some(Int64Value { value: 6000 });
            s.supplemental_groups = vec![7000];
            s.no_new_privs = true;
        },
        "id; busybox grep NoNewPrivs /proc/self/status; busybox grep Seccomp: /proc/self/status; busybox grep CapEff /proc/self/status",
    )
    .await;
    assert_eq!(
        out,
        "uid=5000 gid=6000 groups=6000,7000|NoNewPrivs:\t1|Seccomp:\t2|CapEff:\t0000000000000000"
    );
    let out = run(
        "ro",
        &|s| s.readonly_rootfs = true,
        "touch /x 2>/dev/null || echo denied; touch /dev/shm/x && echo shm",
    )
    .await;
    assert_eq!(out, "denied|shm");
    let out = run("privileged", &|s| s.privileged = true, "mount -t tmpfs none /tmp && echo mounted; busybox grep Seccomp: /proc/self/status; test -w /proc/sys && echo sys").await;
    assert_eq!(out, "mounted|Seccomp:\t0|sys");
    let out = run("plain", &|_| {}, "mount -t tmpfs none /tmp 2>/dev/null || echo denied; mknod /tmp/sda b 8 0 2>/dev/null; cat /tmp/sda 2>/dev/null || echo denied").await;
    assert_eq!(out, "denied|denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_over_grpc() {
    let node = Node::new().await;
    let socket = node.dir.path().join("cri.sock");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (runtime, path) = (node.runtime.clone(), socket.clone());
    let server =
        tokio::spawn(async move { runtime.serve_socket(&path, async { drop(stopped.await) }).await });
    let client = isopod_cri::grpc::connect(&format!("unix://{}", socket.display())).unwrap();
    let limit = std::time::Duration::from_secs(20);
    let version = async {
        loop {
            if let Ok(version) = client.version(VersionRequest::default()).await {
                return version;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let version = tokio::time::timeout(limit, version).await.unwrap();
    assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("isopod", "v1"));
    let images = client.list_images(ListImagesRequest::default()).await.unwrap().images;
    assert_eq!(images[0].repo_tags, [IMAGE]);
    let request = ContainerStatusRequest { container_id: "nothing-here".into(), verbose: false };
    assert!(client.container_status(request).await.unwrap_err().is_not_found());
    let mut events = client.get_container_events(GetEventsRequest {}).await.unwrap();
    let request = RunPodSandboxRequest { config: Some(node.sandbox("pod")), runtime_handler: String::new() };
    let sandbox = client.run_pod_sandbox(request).await.unwrap().pod_sandbox_id;
    assert_eq!(events.next().await.unwrap().unwrap().container_id, sandbox);
    let request =
        RemoveImageRequest { image: Some(ImageSpec { image: IMAGE.into(), ..ImageSpec::default() }) };
    client.remove_image(request).await.unwrap();
    assert!(client.list_images(ListImagesRequest::default()).await.unwrap().images.is_empty());
    drop(events);
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
}
