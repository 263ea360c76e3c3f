//! Snapshots: ours taken by etcd's tools, etcd's taken by ours.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod served;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use isopod_etcd::snapshot::{RestoreOptions, SnapshotError, hash_kv, restore, status};
use isopod_etcd::{Config, Engine, open, serve_peers};
use isopod_kv::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseTimeToLiveRequest, PutRequest,
    RangeRequest, RangeResponse, Store, WatchCreateRequest, grpc,
};
use served::Served;
use tokio_util::sync::CancellationToken;

/// Far beyond what a start takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Debian's etcd, ended with the test.
struct Etcd {
    child: Child,
    client: String,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Etcd {
    async fn start(data_dir: &Path) -> Etcd {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (client, peer) = (format!("http://{}", free()), format!("http://{}", free()));
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(data_dir)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's etcd-server is installed");
        let address = client.strip_prefix("http://").unwrap().to_owned();
        let etcd = Etcd { child, client };
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(&address).is_err() {
            assert!(Instant::now() < deadline, "etcd does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        etcd
    }

    fn store(&self) -> std::sync::Arc<dyn Store> {
        grpc::connect(std::slice::from_ref(&self.client), None).unwrap()
    }
}

fn etcdctl(args: &[&str]) -> String {
    let output = Command::new("etcdctl").env("ETCDCTL_API", "3").args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A history with everything in it: versions, a deletion, a lease, a compaction, large values, many keys.
async fn fill(store: &dyn Store) {
    let lease = store.lease_grant(LeaseGrantRequest { id: 77, ttl: 5000 }).await.unwrap().id;
    for round in 0..3 {
        for key in 0..200 {
            store.put(PutRequest::new(format!("k{key:03}"), format!("v{round}"))).await.unwrap();
        }
        let leased = PutRequest { lease, ..PutRequest::new("leased", vec![round; 9000]) };
        store.put(leased).await.unwrap();
        store.delete_range(DeleteRangeRequest::key(format!("k00{round}"))).await.unwrap();
    }
    store.compact(450).await.unwrap();
    store.put(PutRequest::new("k001", "again")).await.unwrap();
    store.delete_range(DeleteRangeRequest::key("k150")).await.unwrap();
}

async fn everything(store: &dyn Store, revision: i64) -> RangeResponse {
    let mut all = store.range(RangeRequest { revision, ..RangeRequest::prefix("") }).await.unwrap();
    all.header = None;
    all
}

/// Every change from a revision on.
async fn history(store: &dyn Store, from: i64, to: i64) -> Vec<isopod_kv::Event> {
    use futures::StreamExt;
    let mut watch = store
        .watch(WatchCreateRequest { prev_kv: true, ..WatchCreateRequest::prefix("", from) })
        .await
        .unwrap();
    let mut events = Vec::new();
    while events.last().is_none_or(|event: &isopod_kv::Event| event.kv.as_ref().unwrap().mod_revision < to) {
        let response = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap();
        events.extend(response.events);
    }
    events
}

/// Whether two stores hold the same, to whoever asks.
async fn assert_same(a: &dyn Store, b: &dyn Store) {
    let revision = a.status().await.unwrap().header.unwrap().revision;
    assert_eq!(b.status().await.unwrap().header.unwrap().revision, revision);
    for at in [0, revision - 1, 500, 450] {
        assert_eq!(everything(a, at).await, everything(b, at).await, "at revision {at}");
    }
    let old = RangeRequest { revision: 449, ..RangeRequest::key("k005") };
    assert_eq!(a.range(old.clone()).await, b.range(old).await);
    assert_eq!(history(a, 451, revision).await, history(b, 451, revision).await);
    let lease = LeaseTimeToLiveRequest { id: 77, keys: true };
    let leases =
        (a.lease_time_to_live(lease.clone()).await.unwrap(), b.lease_time_to_live(lease).await.unwrap());
    assert_eq!((leases.0.granted_ttl, leases.0.keys), (leases.1.granted_ttl, leases.1.keys));
}

fn options(snapshot: &Path, data_dir: &Path) -> RestoreOptions {
    RestoreOptions {
        snapshot: snapshot.to_owned(),
        skip_hash_check: false,
        bump_revision: 0,
        mark_compacted: false,
        cluster_token: "etcd-cluster".to_owned(),
        members: Vec::new(),
        config: Config::new(data_dir),
    }
}

fn open_restored(data_dir: &Path) -> std::sync::Arc<Engine> {
    open(Config::new(data_dir)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_moves_in() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&dir.path().join("etcd")).await;
    let store = etcd.store();
    fill(&*store).await;
    let ctl = |args: &[&str]| etcdctl(&[&["--endpoints", &etcd.client[..]], args].concat());
    ctl(&["user", "add", "root:secret"]);
    ctl(&["role", "add", "apps"]);
    ctl(&["role", "grant-permission", "apps", "readwrite", "k", "l"]);
    ctl(&["user", "grant-role", "root", "root"]);
    let file = dir.path().join("snapshot");
    let path = file.to_str().unwrap();
    ctl(&["snapshot", "save", path]);
    // The same numbers as etcd's own tool shows, but for the keys, which it counts differently since.
    let shown = etcdctl(&["snapshot", "status", path, "-w", "json"]);
    let found = status(&file).unwrap();
    assert!(shown.contains(&format!("\"hash\":{},\"revision\":{},", found.hash, found.revision)), "{shown}");
    assert!(shown.contains(&format!("\"totalSize\":{}", found.total_bytes)), "{shown} {found:?}");
    assert_eq!(found.total_keys, everything(&*store, 0).await.count as usize);
    let hash = hash_kv(&file, 0).unwrap();
    let shown = ctl(&["endpoint", "hashkv", "-w", "json"]);
    assert!(shown.contains(&format!("\"hash\":{},", hash.hash)), "{shown} {hash:?}");
    let data_dir = dir.path().join("ours");
    restore(&options(&file, &data_dir)).unwrap();
    let engine = open_restored(&data_dir);
    assert_same(&*store, &*engine).await;
    let served = Served::start_with(engine, dir).await;
    assert_eq!(
        served.etcdctl(&["role", "get", "apps"], "").await,
        "Role apps\nKV Read:\n\t[k, l) (prefix k)\nKV Write:\n\t[k, l) (prefix k)\n"
    );
    assert_eq!(served.etcdctl(&["auth", "enable"], "").await, "Authentication Enabled\n");
    assert_eq!(served.etcdctl(&["--user", "root:secret", "get", "k001"], "").await, "k001\nagain\n");
    let wrong = served.etcdctl(&["--user", "root:wrong", "get", "k001"], "").await;
    assert!(wrong.contains("authentication failed"), "{wrong}");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ours_moves_to_an_etcd_and_back() {
    let served = Served::start(None).await;
    fill(&*served.engine).await;
    let file = served.dir.path().join("snapshot");
    let path = file.to_str().unwrap();
    let saved = served.etcdctl(&["snapshot", "save", path], "").await;
    assert!(saved.contains("Snapshot saved"), "{saved}");
    let shown = etcdctl(&["snapshot", "status", path, "-w", "json"]);
    let found = status(&file).unwrap();
    assert!(shown.contains(&format!("\"hash\":{},\"revision\":{},", found.hash, found.revision)), "{shown}");
    let restored = served.dir.path().join("etcd");
    etcdctl(&["snapshot", "restore", path, "--data-dir", restored.to_str().unwrap()]);
    let etcd = Etcd::start(&restored).await;
    assert_same(&*etcd.store(), &*served.engine).await;
    let data_dir = served.dir.path().join("ours");
    restore(&options(&file, &data_dir)).unwrap();
    let engine = open_restored(&data_dir);
    assert_same(&*engine, &*served.engine).await;
    engine.stop().await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_becomes_a_cluster_of_three() {
    let served = Served::start(None).await;
    fill(&*served.engine).await;
    let file = served.dir.path().join("snapshot");
    served.etcdctl(&["snapshot", "save", file.to_str().unwrap()], "").await;
    let mut listeners = Vec::new();
    let mut members = Vec::new();
    for name in ["a", "b", "c"] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        members.push((name.to_owned(), vec![format!("http://{}", listener.local_addr().unwrap())]));
        listeners.push(listener);
    }
    let shutdown = CancellationToken::new();
    let (mut engines, mut tasks) = (Vec::new(), Vec::new());
    for ((name, urls), listener) in members.iter().zip(listeners) {
        let data_dir = served.dir.path().join(name);
        let config = Config { name: name.clone(), peer_urls: urls.clone(), ..Config::new(&data_dir) };
        let members = members.clone();
        restore(&RestoreOptions { members, config: config.clone(), ..options(&file, &data_dir) }).unwrap();
        let engine = open(config).unwrap();
        tasks.push(tokio::spawn(serve_peers(engine.clone(), vec![listener], None, shutdown.clone())));
        engines.push(engine);
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while let Err(error) = engines[0].put(PutRequest::new("new", "1")).await {
        assert!(tokio::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for engine in &engines {
        assert_eq!(engine.members().len(), 3);
        assert_eq!(engine.cluster_id(), engines[0].cluster_id());
        // A linearizable read, wherever it is asked.
        assert_eq!(engine.range(&RangeRequest::key("new")).await.unwrap().count, 1);
        assert_eq!(everything(&**engine, 600).await, everything(&*served.engine, 600).await);
    }
    shutdown.cancel();
    for task in tasks {
        task.await.unwrap();
    }
    for engine in &engines {
        engine.stop().await;
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raised_revision_ends_watches_of_before() {
    let served = Served::start(None).await;
    fill(&*served.engine).await;
    let before = served.engine.revision();
    let file = served.dir.path().join("snapshot");
    served.etcdctl(&["snapshot", "save", file.to_str().unwrap()], "").await;
    let data_dir = served.dir.path().join("ours");
    let raised = RestoreOptions { bump_revision: 1_000_000, ..options(&file, &data_dir) };
    assert!(matches!(restore(&raised), Err(SnapshotError::Options(_))));
    restore(&RestoreOptions { mark_compacted: true, ..raised }).unwrap();
    let engine = open_restored(&data_dir);
    assert_eq!(engine.revision(), before + 1_000_000);
    let old = engine.range(&RangeRequest { revision: before, ..RangeRequest::key("k001") }).await;
    assert_eq!(old.unwrap_err(), isopod_kv::Error::Compacted);
    assert_eq!(everything(&*engine, 0).await, everything(&*served.engine, 0).await);
    engine.compact(CompactionRequest { revision: 1, physical: false }).await.unwrap_err();
    engine.stop().await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_refused() {
    let served = Served::start(None).await;
    fill(&*served.engine).await;
    let file = served.dir.path().join("snapshot");
    served.etcdctl(&["snapshot", "save", file.to_str().unwrap()], "").await;
    let mut bytes = std::fs::read(&file).unwrap();
    let whole = hash_kv(&file, 0).unwrap();
    assert_eq!((whole.hash_revision, whole.compact_revision), (served.engine.revision(), 450));
    assert!(matches!(hash_kv(&file, 449), Err(SnapshotError::Revision(isopod_kv::Error::Compacted))));
    let data_dir = served.dir.path().join("ours");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    assert!(matches!(restore(&options(&file, &data_dir)), Err(SnapshotError::WrongHash { .. })));
    bytes.truncate(bytes.len() - 32);
    std::fs::write(&file, &bytes).unwrap();
    assert!(matches!(restore(&options(&file, &data_dir)), Err(SnapshotError::NoHash)));
    bytes.truncate(middle);
    std::fs::write(&file, &bytes).unwrap();
    let unchecked = RestoreOptions { skip_hash_check: true, ..options(&file, &data_dir) };
    assert!(matches!(restore(&unchecked), Err(SnapshotError::Damaged(_))));
    assert!(!data_dir.exists());
    served.stop().await;
}
