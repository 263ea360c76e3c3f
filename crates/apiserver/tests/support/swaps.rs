//! The same tests on other stores: a test binary runs itself again with its servers on isopod's own store, on three
//! members of it, or on an etcd of Debian's behind gRPC.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use isopod_apiserver::Config;
use isopod_kv::{Store, grpc};

use super::members::Members;
use super::memory_store::MemoryStore;

/// Names the store of a run: `embedded`, or the URLs of an etcd's members. Without it a store in memory is used.
const STORE: &str = "ISOPOD_TEST_STORE";
/// Name part of the tests that start such a run, and that are left out of it.
const AGAIN: &str = "again_on_";
/// How long an etcd may take to answer.
const START: Duration = Duration::from_secs(30);

/// A store without anything in it under the configuration's prefix, which is changed where the store is shared.
pub async fn fresh_store(config: &mut Config) -> Arc<dyn Store> {
    match std::env::var(STORE).as_deref() {
        Err(_) => MemoryStore::new(),
        Ok("embedded") => {
            // Inside the temporary directory of the run that started this one, which is removed with it.
            let directory = tempfile::tempdir().unwrap().keep();
            let settings = isopod_etcd::Config { fsync: false, ..isopod_etcd::Config::new(directory) };
            isopod_etcd::open(settings).unwrap()
        }
        Ok(url) => {
            static NEXT: AtomicU64 = AtomicU64::new(0);
            let next = NEXT.fetch_add(1, Ordering::Relaxed);
            config.storage_prefix = format!("test-{}-{next}", std::process::id());
            // Each test begins at another member where there are several.
            let mut urls: Vec<String> = url.split(',').map(str::to_owned).collect();
            let count = urls.len();
            urls.rotate_left(next as usize % count);
            grpc::connect(&urls, None).unwrap()
        }
    }
}

/// Runs this binary's tests on isopod's own store, in process.
pub fn again_on_embedded() {
    let directory = tempfile::tempdir().unwrap();
    again("embedded", directory.path());
}

/// Runs this binary's tests on three members of isopod's own store, behind gRPC.
pub fn again_on_three_members() {
    let directory = tempfile::tempdir().unwrap();
    let members = Members::start(directory.path());
    again(&members.urls, directory.path());
}

/// Runs this binary's tests on Debian's etcd 3.4.
pub fn again_on_etcd_3_4() {
    again_on_etcd(Path::new("/usr/bin/etcd"));
}

/// Runs this binary's tests on the etcd 3.5 of a later Debian, which `scripts/install-deps` unpacks.
pub fn again_on_etcd_3_5() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    again_on_etcd(&root.join("target/tools/etcd-3.5/usr/bin/etcd"));
}

fn again_on_etcd(path: &Path) {
    let directory = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(path, directory.path());
    again(&etcd.url, directory.path());
}

fn again(store: &str, temporary: &Path) {
    let output = Command::new(std::env::current_exe().unwrap())
        .env(STORE, store)
        .env("TMPDIR", temporary)
        .args(["--skip", AGAIN])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "on {store}:\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("running 0 tests"), "no test ran on {store}");
}

/// A running etcd, ended with the value.
struct Etcd {
    process: Child,
    url: String,
}

impl Etcd {
    fn start(path: &Path, directory: &Path) -> Etcd {
        // Another program may take a port between its choice and its use: then others are tried.
        for _ in 0..5 {
            let [client, peer] = [free_url(), free_url()];
            let process = Command::new(path)
                .args(["--name", "m", "--log-level", "error", "--data-dir"])
                .arg(directory.join("etcd"))
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &format!("m={peer}")])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| panic!("{}: {error}; run scripts/install-deps test", path.display()));
            let mut etcd = Etcd { process, url: client };
            if etcd.answers() {
                return etcd;
            }
        }
        panic!("{} does not start", path.display());
    }

    fn answers(&mut self) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let deadline = Instant::now() + START;
        while Instant::now() < deadline && self.process.try_wait().unwrap().is_none() {
            let status =
                async { grpc::connect(std::slice::from_ref(&self.url), None).unwrap().status().await };
            if runtime.block_on(status).is_ok() {
                return true;
            }
            #[allow(clippy::disallowed_methods, reason = "this thread has nothing else to do")]
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_url() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}
