//! Mounts, the node's namespaces, devices.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use isopod_cri::v1::*;
use isopod_cri::{Code, RuntimeService};
use support::{Node, container};

#[tokio::test(flavor = "multi_thread")]
async fn mounts_of_every_kind() {
    let node = Node::new().await;
    let sandbox = node.run_sandbox(&node.sandbox("pod")).await;
    let host = node.dir.path().join("host");
    std::fs::create_dir_all(host.join("dir/below")).unwrap();
    std::fs::write(host.join("file"), "file\n").unwrap();
    std::fs::write(host.join("dir/inside"), "inside\n").unwrap();
    let mount = |target: &str, source: &str, readonly: bool| Mount {
        container_path: target.to_owned(),
        host_path: host.join(source).display().to_string(),
        readonly,
        ..Mount::default()
    };
    let mut config = container("main", "exec sleep 1000");
    config.mounts = vec![
        mount("/data/deep/below", "dir", false),
        mount("/data/ro", "dir", true),
        mount("/dev/termination-log", "file", false),
        mount("/etc/hosts", "file", false),
        // Through a symbolic link of the image, absolute as `/var/run` is.
        mount("/link/secret", "dir", true),
        mount("/made", "not-there-yet", false),
        Mount { recursive_read_only: true, ..mount("/data/rro", "dir", true) },
        Mount {
            propagation: MountPropagation::PropagationHostToContainer as i32,
            ..mount("/data/slave", "dir", false)
        },
    ];
    let id = node.create(&sandbox, config).await;
    node.start(&id).await;
    let exec = async |script: &str| node.exec(&id, script).await.0;
    assert_eq!(
        exec("cat /data/deep/below/inside /data/ro/inside /dev/termination-log /etc/hosts").await,
        "inside\ninside\nfile\nfile\n"
    );
    assert_eq!(exec("touch /data/deep/below/new && echo ok; touch /data/ro/x 2>/dev/null || echo denied; touch /data/rro/x 2>/dev/null || echo denied").await, "ok\ndenied\ndenied\n");
    assert_eq!(
        exec("echo message > /dev/termination-log; cat /link/secret/inside; ls /made").await,
        "inside\n"
    );
    assert_eq!(std::fs::read_to_string(host.join("file")).unwrap(), "message\n");
    assert!(host.join("dir/new").exists() && host.join("not-there-yet").is_dir());
    let mut config = container("bad", "true");
    config.mounts = vec![mount("/../../up", "dir", false)];
    let request = CreateContainerRequest {
        pod_sandbox_id: sandbox.clone(),
        config: Some(config),
        sandbox_config: None,
    };
    assert_eq!(node.runtime.create_container(request).await.unwrap_err().code, Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_namespaces_of_the_node() {
    let node = Node::new().await;
    let mut config = node.sandbox("pod");
    let all = NamespaceOption {
        network: NamespaceMode::Node as i32,
        pid: NamespaceMode::Node as i32,
        ipc: NamespaceMode::Node as i32,
        ..NamespaceOption::default()
    };
    config.hostname = String::new();
    config.linux.as_mut().unwrap().security_context =
        Some(LinuxSandboxSecurityContext { namespace_options: Some(all.clone()), ..Default::default() });
    let sandbox = node.run_sandbox(&config).await;
    let mut config = container("main", "sleep 1000 & exec sleep 1001");
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = Some(all);
    let id = node.create(&sandbox, config).await;
    node.start(&id).await;
    for kind in ["net", "pid", "ipc", "uts"] {
        let own = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        let (inside, _, _) = node.exec(&id, &format!("busybox readlink /proc/self/ns/{kind}")).await;
        assert_eq!(inside.trim(), own.to_str().unwrap(), "{kind}");
    }
    let request = StopContainerRequest { container_id: id.clone(), timeout: 0 };
    node.runtime.stop_container(request).await.unwrap();
    let cgroups = isopod_runtime::cgroup::Cgroups::detect().unwrap();
    let group = format!("{}/pod", node.cgroup);
    let empty = async {
        while !cgroups.pids(&group).is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), empty)
        .await
        .expect("children end with the container");
}

#[tokio::test(flavor = "multi_thread")]
async fn sysctls_devices_and_bad_requests() {
    let node = Node::new().await;
    let mut config = node.sandbox("pod");
    let linux = config.linux.as_mut().unwrap();
    linux.sysctls = [("net.ipv4.tcp_syncookies", "0"), ("kernel.shm_rmid_forced", "1")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let sandbox = node.run_sandbox(&config).await;
    let mut given = container("main", "exec sleep 1000");
    given.devices = vec![Device {
        container_path: "/dev/given".into(),
        host_path: "/dev/zero".into(),
        permissions: "r".into(),
    }];
    let id = node.create(&sandbox, given).await;
    node.start(&id).await;
    let script = "cat /proc/sys/net/ipv4/tcp_syncookies /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start; head -c 3 /dev/given | wc -c";
    assert_eq!(node.exec(&id, script).await.0, "0\n1\n0\n3\n");
    let run = async |change: &dyn Fn(&mut PodSandboxConfig)| {
        let mut config = node.sandbox("other");
        change(&mut config);
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        node.runtime.run_pod_sandbox(request).await.unwrap_err().message
    };
    let sysctl = |name: &'static str| {
        move |config: &mut PodSandboxConfig| {
            config.linux.as_mut().unwrap().sysctls = [(name.to_owned(), "1".to_owned())].into();
        }
    };
    assert_eq!(
        run(&sysctl("vm.swappiness")).await,
        "sysctl \"vm.swappiness\" is not of a namespace of the pod's own"
    );
    assert!(run(&sysctl("net.no.such")).await.contains("set sysctl net.no.such=1"));
    assert_eq!(run(&|config| config.metadata = None).await, "sandbox config has no metadata");
    let request = RunPodSandboxRequest { config: Some(node.sandbox("x")), runtime_handler: "gvisor".into() };
    let error = node.runtime.run_pod_sandbox(request).await.unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (Code::NotFound, "no runtime for \"gvisor\" is configured")
    );
    // What failed left nothing.
    let left = std::fs::read_dir(node.config.root.join("sandboxes")).unwrap().count();
    assert_eq!(left, 1);
}
