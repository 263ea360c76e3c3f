//! What a hostile container, or one with secrets, must not reach. Needs root.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::path::Path;

use isopod_cri::RuntimeService;
use isopod_cri::v1::*;
use isopod_runtime::Runtime;
use support::{Node, container};

const SECRET: &str = "correct-horse-battery-staple";

/// Files below `dir` that hold the text, by name or content.
fn holders(dir: &Path, text: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            holders(&path, text, found);
        } else if kind.is_file() {
            // What pins a namespace cannot be read.
            let bytes = std::fs::read(&path).unwrap_or_default();
            if bytes.windows(text.len()).any(|part| part == text.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_the_environment_stay_in_memory() {
    let node = Node::new().await;
    let sandbox = node.run_sandbox(&node.sandbox("pod")).await;
    let mut config = container("main", &format!(": {SECRET}; exec sleep 1000"));
    config.args = vec![SECRET.into()];
    config.envs.push(KeyValue { key: "PASSWORD".into(), value: SECRET.into() });
    let id = node.create(&sandbox, config).await;
    node.start(&id).await;
    let on_disk = || {
        let mut found = Vec::new();
        // The root file system is what the container itself writes.
        holders(&node.config.root.join("containers").join(&id), SECRET, &mut found);
        holders(&node.config.root.join("sandboxes"), SECRET, &mut found);
        found
    };
    assert_eq!(on_disk(), Vec::<String>::new());
    let resources = LinuxContainerResources { cpu_shares: 512, ..LinuxContainerResources::default() };
    let request = UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(resources),
        ..UpdateContainerResourcesRequest::default()
    };
    node.runtime.update_container_resources(request).await.unwrap();
    assert_eq!(on_disk(), Vec::<String>::new());
    let mut in_memory = Vec::new();
    holders(&node.config.state, SECRET, &mut in_memory);
    assert!(!in_memory.is_empty());
    for path in in_memory {
        let fs = nix::sys::statfs::statfs(Path::new(&path)).unwrap();
        assert_eq!(fs.filesystem_type(), nix::sys::statfs::TMPFS_MAGIC, "{path}");
    }
    // The next server finds the container, and processes run in it as before.
    node.runtime.close();
    let next = Runtime::open(node.config.clone()).await.unwrap();
    let cmd = vec!["sh".into(), "-c".into(), "echo $PASSWORD".into()];
    let request = ExecSyncRequest { container_id: id.clone(), cmd, timeout: 10 };
    assert_eq!(next.exec_sync(request).await.unwrap().stdout, format!("{SECRET}\n").into_bytes());
    let request = ContainerStatusRequest { container_id: id.clone(), verbose: false };
    let status = next.container_status(request).await.unwrap().status.unwrap();
    assert_eq!(status.state, ContainerState::ContainerRunning as i32);
    next.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: sandbox }).await.unwrap();
    let mut left = Vec::new();
    holders(&node.config.state, SECRET, &mut left);
    assert_eq!(left, Vec::<String>::new());
}

/// After a restart of the machine memory is empty: the container is known to have ended, by what is on disk.
#[tokio::test(flavor = "multi_thread")]
async fn containers_are_known_after_a_restart_of_the_machine() {
    let node = Node::new().await;
    let sandbox = node.run_sandbox(&node.sandbox("pod")).await;
    let mut config = container("main", "exit 3");
    config.labels.insert("io.kubernetes.container.name".into(), "main".into());
    let id = node.create(&sandbox, config).await;
    node.start(&id).await;
    node.wait_exit(&id).await;
    node.runtime.close();
    std::fs::remove_dir_all(node.config.state.join("c").join(&id)).unwrap();
    let next = Runtime::open(node.config.clone()).await.unwrap();
    let request = ContainerStatusRequest { container_id: id, verbose: false };
    let status = next.container_status(request).await.unwrap().status.unwrap();
    assert_eq!((status.exit_code, status.labels["io.kubernetes.container.name"].as_str()), (3, "main"));
}

async fn exec(node: &Node, id: &str) -> Result<String, String> {
    let cmd = vec!["/bin/busybox".into(), "pwd".into()];
    let request = ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: 10 };
    match node.runtime.exec_sync(request).await {
        Ok(answer) => Ok(String::from_utf8(answer.stdout).unwrap()),
        Err(e) => Err(e.message),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_working_directory_lies_inside_of_the_root() {
    let node = Node::new().await;
    let sandbox = node.run_sandbox(&node.sandbox("pod")).await;
    let id = node.create(&sandbox, container("main", "exec sleep 1000")).await;
    node.start(&id).await;
    assert_eq!(exec(&node, &id).await.unwrap(), "/work/dir\n");
    // A link inside of the root is followed, however it is written.
    node.exec(&id, "cd /; busybox rm -rf /work/dir; busybox ln -s ../../../tmp /work/dir").await;
    assert_eq!(exec(&node, &id).await.unwrap(), "/tmp\n");
    // Descriptors that the process happens to have while it is made lead outside. The first link is set by
    // the container's own process, since nothing runs there after it.
    for fd in 3..20 {
        let mut config = container(
            &format!("leak{fd}"),
            &format!(
                "cd /; busybox rm -rf /work/dir; busybox ln -s /proc/self/fd/{fd} /work/dir; : > /tmp/done; exec sleep 1000"
            ),
        );
        config.log_path = String::new();
        let id = node.create(&sandbox, config).await;
        node.start(&id).await;
        let upper = node.config.root.join("containers").join(&id).join("upper/tmp/done");
        node.until("the link is set", || upper.exists()).await;
        let error = exec(&node, &id).await.unwrap_err();
        assert!(error.contains("chdir to cwd"), "{fd}: {error}");
        let request = RemoveContainerRequest { container_id: id };
        node.runtime.remove_container(request).await.unwrap();
    }
    // And at the start of a container.
    for fd in 3..20 {
        let mut config = container(&format!("start{fd}"), "busybox pwd -P; ls");
        config.working_dir = format!("/proc/self/fd/{fd}");
        let id = node.create(&sandbox, config).await;
        let request = StartContainerRequest { container_id: id };
        let outcome = node.runtime.start_container(request).await;
        assert!(outcome.is_err(), "{fd}: {:?}", node.log(&format!("start{fd}.log")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_null_device_is_not_opened() {
    let node = Node::new().await;
    let sandbox = node.run_sandbox(&node.sandbox("pod")).await;
    for replace in
        ["busybox ln -s /etc/second /dev/null", "echo > /dev/null", "busybox mknod /dev/null c 1 5"]
    {
        let script = format!("busybox rm /dev/null; {replace}; : > /tmp/done; exec sleep 1000");
        let id = node.create(&sandbox, container("main", &script)).await;
        node.start(&id).await;
        let upper = node.config.root.join("containers").join(&id).join("upper/tmp/done");
        node.until("the device is replaced", || upper.exists()).await;
        let error = exec(&node, &id).await.unwrap_err();
        assert!(error.ends_with("open /dev/null: it is not the null device"), "{replace}: {error}");
        let request = RemoveContainerRequest { container_id: id };
        node.runtime.remove_container(request).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_was_replaced_is_not_mounted() {
    use std::os::unix::fs::MetadataExt;
    let node = Node::new().await;
    let sandbox = node.run_sandbox(&node.sandbox("pod")).await;
    let host = node.dir.path().join("host");
    for dir in ["checked", "other", "plain"] {
        std::fs::create_dir_all(host.join(dir)).unwrap();
        std::fs::write(host.join(dir).join("name"), format!("{dir}\n")).unwrap();
    }
    std::fs::write(host.join("file"), "file\n").unwrap();
    let identity = |name: &str| {
        let metadata = std::fs::metadata(host.join(name)).unwrap();
        (metadata.dev(), metadata.ino())
    };
    let config = |name: &str| {
        let mut config = container(name, "cat /c/name /f /p/name; exec sleep 1000");
        for (target, source) in [("/c", "checked"), ("/f", "file"), ("/p", "plain")] {
            config.mounts.push(Mount {
                container_path: target.into(),
                host_path: host.join(source).display().to_string(),
                propagation: MountPropagation::PropagationBidirectional as i32,
                ..Mount::default()
            });
        }
        let identities = serde_json::json!({"/c": identity("checked"), "/f": identity("file")});
        config.annotations.insert(isopod_cri::MOUNT_IDENTITIES.into(), identities.to_string());
        let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.privileged = true;
        config
    };
    // A mount of the node that propagates, as with systemd.
    let shared = nix::mount::MsFlags::MS_SHARED;
    let (bind, none) = (nix::mount::MsFlags::MS_BIND, None::<&str>);
    nix::mount::mount(Some(&host), &host, none, bind, none).unwrap();
    nix::mount::mount(none, &host, none, shared, none).unwrap();
    let unmount = Unmount(host.clone());
    let id = node.create(&sandbox, config("good")).await;
    node.start(&id).await;
    node.until("the container reads", || node.log("good.log").len() == 3).await;
    assert_eq!(node.log("good.log"), ["stdout F checked", "stdout F file", "stdout F plain"]);
    // Mounts made inside appear outside, of checked sources and of others; nothing else is left outside.
    for dir in ["c", "p"] {
        let (out, err, code) = node
            .exec(&id, &format!("busybox mkdir /{dir}/m; mount -t tmpfs t /{dir}/m && touch /{dir}/m/made"))
            .await;
        assert_eq!((out.as_str(), err.as_str(), code), ("", "", 0));
    }
    assert!(host.join("checked/m/made").exists() && host.join("plain/m/made").exists());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let staged: Vec<&str> = mounts
        .lines()
        .filter(|l| l.contains("/state/s/") && (l.contains("/m ") || l.contains("/m/")))
        .collect();
    assert!(staged.is_empty(), "{staged:#?}");
    for dir in ["c", "p"] {
        node.exec(&id, &format!("busybox umount /{dir}/m")).await;
    }
    assert!(!host.join("checked/m/made").exists());
    // Replaced between the check and the start: by a link to a directory, and by another file.
    let link = node.create(&sandbox, config("link")).await;
    let file = node.create(&sandbox, config("other")).await;
    std::fs::rename(host.join("checked"), host.join("away")).unwrap();
    std::os::unix::fs::symlink("other", host.join("checked")).unwrap();
    let start = async |id: &str| {
        let request = StartContainerRequest { container_id: id.to_owned() };
        node.runtime.start_container(request).await.map_err(|e| e.message)
    };
    let error = start(&link).await.unwrap_err();
    assert!(error.contains("host/checked was replaced after it was checked"), "{error}");
    std::fs::remove_file(host.join("checked")).unwrap();
    std::fs::rename(host.join("away"), host.join("checked")).unwrap();
    std::fs::rename(host.join("file"), host.join("old")).unwrap();
    std::fs::write(host.join("file"), "new").unwrap();
    let error = start(&file).await.unwrap_err();
    assert!(error.contains("host/file was replaced after it was checked"), "{error}");
    node.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: sandbox }).await.unwrap();
    drop(unmount);
}

/// Unmounts, also when the test fails.
struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}
