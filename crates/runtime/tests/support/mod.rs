#![allow(dead_code, reason = "each test file uses a part of it")]
//! A runtime in a directory of its own, and images made of Debian's static busybox.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use isopod_cri::v1::*;
use isopod_cri::{NoPodNetwork, RuntimeService};
use isopod_runtime::images::ImportOptions;
use isopod_runtime::{Config, Runtime};
use sha2::{Digest, Sha256};

pub(crate) const IMAGE: &str = "docker.io/library/busybox:test";

/// A runtime that is purged when the test ends, however it ends.
pub(crate) struct Node {
    pub(crate) runtime: Runtime,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: Config,
    pub(crate) cgroup: String,
}

impl Node {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let config = config(dir.path());
        let runtime = Runtime::open(config.clone()).await.unwrap();
        let archive = dir.path().join("busybox.tar");
        std::fs::write(&archive, docker_archive(IMAGE)).unwrap();
        assert_eq!(runtime.images().import(&archive, &ImportOptions::default()).unwrap(), [IMAGE]);
        let cgroup = format!(
            "/isopod-test-{}",
            dir.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.')
        );
        Self { runtime, dir, config, cgroup }
    }

    pub(crate) fn sandbox(&self, name: &str) -> PodSandboxConfig {
        sandbox_in(self.dir.path(), &self.cgroup, name)
    }

    pub(crate) async fn run_sandbox(&self, config: &PodSandboxConfig) -> String {
        std::fs::create_dir_all(&config.log_directory).unwrap();
        let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        self.runtime.run_pod_sandbox(request).await.unwrap().pod_sandbox_id
    }

    pub(crate) async fn create(&self, sandbox: &str, config: ContainerConfig) -> String {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: None,
        };
        self.runtime.create_container(request).await.unwrap().container_id
    }

    pub(crate) async fn start(&self, id: &str) {
        self.runtime.start_container(StartContainerRequest { container_id: id.to_owned() }).await.unwrap();
    }

    pub(crate) async fn status(&self, id: &str) -> ContainerStatus {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        self.runtime.container_status(request).await.unwrap().status.unwrap()
    }

    pub(crate) async fn wait_exit(&self, id: &str) -> ContainerStatus {
        let limit = std::time::Duration::from_secs(20);
        let wait = async {
            loop {
                let status = self.status(id).await;
                if status.state == ContainerState::ContainerExited as i32 {
                    return status;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(limit, wait).await.expect("the container ends")
    }

    /// Waits until something is so; fails after 20 seconds.
    pub(crate) async fn until(&self, what: &str, mut check: impl FnMut() -> bool) {
        let wait = async {
            while !check() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.expect(what);
    }

    /// Runs a script in a container until it prints what is wanted; fails with what it printed last.
    pub(crate) async fn until_exec(&self, id: &str, script: &str, wanted: &str) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let out = self.exec(id, script).await.0;
            if out == wanted {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{script}: {out:?}, not {wanted:?}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn exec(&self, id: &str, script: &str) -> (String, String, i32) {
        let request = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: vec!["sh".into(), "-c".into(), script.into()],
            timeout: 60,
        };
        let response = self.runtime.exec_sync(request).await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(response.stdout), text(response.stderr), response.exit_code)
    }

    /// Lines of a log without their times.
    pub(crate) fn log(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join("log").join(name)).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }
}

pub(crate) fn sandbox_in(dir: &Path, cgroup: &str, name: &str) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: dir.join("log").display().to_string(),
        dns_config: Some(DnsConfig {
            servers: vec!["10.43.0.10".to_owned()],
            searches: vec!["default.svc.cluster.local".to_owned()],
            options: vec!["ndots:5".to_owned()],
        }),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: format!("{cgroup}/{name}"),
            ..LinuxPodSandboxConfig::default()
        }),
        ..PodSandboxConfig::default()
    }
}

pub(crate) fn config(dir: &Path) -> Config {
    Config {
        root: dir.join("root"),
        state: dir.join("state"),
        network: Arc::new(NoPodNetwork),
        shim_exe: PathBuf::from(env!("CARGO_BIN_EXE_isopod-shim")),
        shim_args: Vec::new(),
        oci_runtime: None,
        insecure_registries: Vec::new(),
        streaming_url: "http://runtime".to_owned(),
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(e) = isopod_runtime::purge(&self.config.root, &self.config.state) {
            eprintln!("purge: {e}");
        }
        if let Ok(cgroups) = isopod_runtime::cgroup::Cgroups::detect() {
            let _ = cgroups.remove(&self.cgroup);
        }
    }
}

pub(crate) fn container(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(ImageSpec { image: IMAGE.to_owned(), ..ImageSpec::default() }),
        command: vec!["sh".into(), "-c".into(), script.into()],
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(NamespaceOption {
                    pid: NamespaceMode::Container as i32,
                    ..NamespaceOption::default()
                }),
                seccomp: Some(SecurityProfile {
                    profile_type: security_profile::ProfileType::RuntimeDefault as i32,
                    localhost_ref: String::new(),
                }),
                masked_paths: vec!["/proc/kcore".into(), "/proc/keys".into(), "/sys/firmware".into()],
                readonly_paths: vec!["/proc/sys".into(), "/proc/bus".into()],
                ..LinuxContainerSecurityContext::default()
            }),
            ..LinuxContainerConfig::default()
        }),
        ..ContainerConfig::default()
    }
}

fn tar_entry(
    builder: &mut tar::Builder<Vec<u8>>,
    kind: tar::EntryType,
    path: &str,
    mode: u32,
    link: &str,
    data: &[u8],
) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(data.len() as u64);
    if link.is_empty() {
        builder.append_data(&mut header, path, data).unwrap();
    } else {
        builder.append_link(&mut header, path, link).unwrap();
    }
}

/// Busybox with a user, and a whiteout in a second layer: two layers and the configuration.
pub(crate) fn image_parts() -> (Vec<u8>, Vec<u8>, String) {
    use tar::EntryType::{Directory, Regular, Symlink};
    let busybox = std::fs::read("/bin/busybox").expect("Debian's busybox-static is installed");
    let mut first = tar::Builder::new(Vec::new());
    for dir in ["bin", "etc", "tmp", "home/web"] {
        tar_entry(&mut first, Directory, dir, if dir == "tmp" { 0o1777 } else { 0o755 }, "", b"");
    }
    tar_entry(&mut first, Regular, "bin/busybox", 0o755, "", &busybox);
    for applet in
        "sh cat echo sleep id ls mount mknod chroot true false kill stty tty cp tar wc env ps hostname nc stat unshare touch dd tail head seq printf"
            .split(' ')
    {
        tar_entry(&mut first, Symlink, &format!("bin/{applet}"), 0o777, "busybox", b"");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001:web:/home/web:/bin/sh\n";
    tar_entry(&mut first, Regular, "etc/passwd", 0o644, "", passwd.as_bytes());
    tar_entry(&mut first, Regular, "etc/group", 0o644, "", b"root:x:0:\nweb:x:1001:\nlogs:x:4:web\n");
    tar_entry(&mut first, Regular, "etc/gone", 0o644, "", b"x");
    tar_entry(&mut first, Symlink, "link", 0o777, "/tmp", b"");
    let first = first.into_inner().unwrap();
    let mut second = tar::Builder::new(Vec::new());
    tar_entry(&mut second, Regular, "etc/.wh.gone", 0o644, "", b"");
    tar_entry(&mut second, Regular, "etc/second", 0o644, "", b"second\n");
    let second = second.into_inner().unwrap();
    let digest = |bytes: &[u8]| format!("{:x}", Sha256::digest(bytes));
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": ["sh"], "WorkingDir": "/work/dir"},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&first)), format!("sha256:{}", digest(&second))]},
    })
    .to_string();
    (first, second, config)
}

/// An image as a docker archive.
pub(crate) fn docker_archive(tag: &str) -> Vec<u8> {
    use tar::EntryType::Regular;
    let (first, second, config) = image_parts();
    let digest = |bytes: &[u8]| format!("{:x}", Sha256::digest(bytes));
    let name = format!("{}.json", digest(config.as_bytes()));
    let manifest = serde_json::json!([
        {"Config": name, "RepoTags": [tag], "Layers": ["1/layer.tar", "2/layer.tar"]}
    ])
    .to_string();
    let mut archive = tar::Builder::new(Vec::new());
    for (path, data) in [
        (name.as_str(), config.as_bytes()),
        ("1/layer.tar", &first),
        ("2/layer.tar", &second),
        ("manifest.json", manifest.as_bytes()),
    ] {
        tar_entry(&mut archive, Regular, path, 0o644, "", data);
    }
    archive.into_inner().unwrap()
}
