//! Images pulled from a registry, with credentials, and images of real programs.

use crate::{BUSYBOX, cluster, turn};
use anyhow::{Context, Result, ensure};
use isopod_testkit::{Cluster, Image, Packages, busybox, eventually, run_ok, until};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
/// The registry of these tests; it listens on loopback of the cluster's host.
const REGISTRY: &str = "127.0.0.1:5055";

/// Debian's docker-registry, with a user and a password.
struct Registry(Child);

impl Registry {
    fn start(cluster: &Cluster) -> Result<Self> {
        let directory = cluster.directory.path().join("registry");
        std::fs::create_dir_all(&directory)?;
        let hash = run_ok(cluster.host.command("htpasswd").args(["-Bbn", "puller", "open sesame"]))?;
        std::fs::write(directory.join("htpasswd"), hash)?;
        let at = directory.to_string_lossy();
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {at}/data}}}}\nhttp: {{addr: '{REGISTRY}'}}\nauth: {{htpasswd: {{realm: test, path: {at}/htpasswd}}}}\n"
        );
        let file = directory.join("config.yml");
        std::fs::write(&file, config)?;
        let child = cluster
            .host
            .command("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start docker-registry")?;
        let registry = Registry(child);
        until("the registry answers", MINUTE, || {
            run_ok(cluster.host.command("curl").args([
                "-s",
                "--max-time",
                "2",
                &format!("http://{REGISTRY}/v2/"),
            ]))
        })?;
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn pulls_with_credentials() -> Result<()> {
    let _turn = turn();
    let cluster = cluster()?;
    let _registry = Registry::start(&cluster)?;
    let archive = busybox("pushed:1")?.write(cluster.directory.path())?;
    run_ok(
        cluster
            .host
            .command("skopeo")
            .args([
                "--insecure-policy",
                "copy",
                "--dest-tls-verify=false",
                "--dest-creds",
                "puller:open sesame",
            ])
            .arg(format!("docker-archive:{}", archive.display()))
            .arg(format!("docker://{REGISTRY}/team/tool:1")),
    )?;
    let image = format!("{REGISTRY}/team/tool:1");
    cluster.kubectl(&["run", "refused", "--image", &image, "--command", "--", "sleep", "3600"])?;
    eventually("without credentials it is refused", MINUTE, || {
        let path = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
        let reason = cluster.kubectl(&["get", "pod", "refused", "-o", path]).unwrap_or_default();
        reason == "ErrImagePull" || reason == "ImagePullBackOff"
    })?;
    cluster.kubectl(&[
        "create",
        "secret",
        "docker-registry",
        "pull",
        &format!("--docker-server={REGISTRY}"),
        "--docker-username=puller",
        "--docker-password=open sesame",
    ])?;
    let overrides =
        "{\"spec\":{\"imagePullSecrets\":[{\"name\":\"pull\"}],\"terminationGracePeriodSeconds\":1}}";
    cluster.kubectl(&[
        "run",
        "pulled",
        "--image",
        &image,
        "--overrides",
        overrides,
        "--command",
        "--",
        "sleep",
        "3600",
    ])?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/pulled", "--timeout=60s"])?;
    let id = cluster.kubectl(&[
        "get",
        "pod",
        "pulled",
        "-o",
        "jsonpath={.status.containerStatuses[0].imageID}",
    ])?;
    ensure!(id.contains("sha256:"), "{id}");
    let events = cluster.kubectl(&["get", "events", "--field-selector", "involvedObject.name=pulled"])?;
    ensure!(events.contains("Pulling image") && events.contains("Successfully pulled image"), "{events}");
    Ok(())
}

/// An image of Debian's redis-server with the libraries it needs.
fn redis(directory: &Path) -> Result<std::path::PathBuf> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian");
    std::fs::create_dir_all(&cache)?;
    let packages = Packages::unpack(
        &cache,
        "redis",
        &[
            "redis-server",
            "redis-tools",
            "libjemalloc2",
            "liblua5.1-0",
            "liblzf1",
            "lua-cjson",
            "lua-bitop",
            "libatomic1",
            "libhiredis0.14",
            "libc6",
            "libgcc-s1",
            "libstdc++6",
            "libssl3",
            "libsystemd0",
            "libcap2",
            "libgcrypt20",
            "liblz4-1",
            "liblzma5",
            "libzstd1",
            "libgpg-error0",
        ],
    )?;
    let root = packages.root();
    let mut image = Image::new("test.local/redis:1").directory("tmp").directory("data");
    image = image.copy(&root.join("usr/bin/redis-check-rdb"), "/usr/bin/redis-server")?;
    image = image.copy(&root.join("usr/bin/redis-cli"), "/usr/bin/redis-cli")?;
    for binary in ["usr/bin/redis-check-rdb", "usr/bin/redis-cli"] {
        let paths = format!("{0}/usr/lib/x86_64-linux-gnu:{0}/lib/x86_64-linux-gnu", root.display());
        let listed =
            run_ok(std::process::Command::new("ldd").env("LD_LIBRARY_PATH", paths).arg(root.join(binary)))?;
        for library in listed.lines().filter_map(|l| l.split_whitespace().find(|w| w.starts_with('/'))) {
            let name = Path::new(library).file_name().context("a library")?.to_string_lossy().into_owned();
            let to = if name.starts_with("ld-linux") {
                format!("/lib64/{name}")
            } else {
                format!("/lib/x86_64-linux-gnu/{name}")
            };
            image = image.copy(&Path::new(library).canonicalize()?, &to)?;
        }
    }
    image.entrypoint = vec![
        "/usr/bin/redis-server".into(),
        "--protected-mode".into(),
        "no".into(),
        "--dir".into(),
        "/data".into(),
    ];
    image.env = vec!["PATH=/usr/bin".into()];
    image.write(directory)
}

#[test]
fn redis_serves_other_pods() -> Result<()> {
    let _turn = turn();
    let cluster = cluster()?;
    cluster.import(&redis(cluster.directory.path())?)?;
    cluster.kubectl(&["run", "redis", "--image", "test.local/redis:1", "--port", "6379", "--expose"])?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/redis", "--timeout=60s"])?;
    cluster.kubectl(&["run", "client", "--image", BUSYBOX, "--command", "--", "sleep", "3600"])?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/client", "--timeout=60s"])?;
    let script = "printf 'SET k v\\r\\nGET k\\r\\nQUIT\\r\\n' | timeout 5 nc redis 6379";
    until("redis answers by name", MINUTE, || {
        let answer = cluster.kubectl(&["exec", "client", "--", "sh", "-c", script])?;
        ensure!(answer.contains("+OK") && answer.contains("\nv\r"), "{answer:?}");
        Ok(())
    })?;
    let pong = cluster.kubectl(&["exec", "redis", "--", "redis-cli", "get", "k"])?;
    ensure!(pong.trim() == "v" || pong.trim() == "\"v\"", "{pong}");
    Ok(())
}
