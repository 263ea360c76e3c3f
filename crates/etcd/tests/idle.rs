//! An idle store does nothing. (A file of its own, since it looks at all threads of the process.)
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use isopod_etcd::{AutoCompaction, Config, open};
use isopod_kv::{LeaseGrantRequest, PutRequest, WatchCreateRequest};

#[tokio::test]
async fn an_idle_store_neither_writes_nor_wakes_up() {
    let dir = tempfile::tempdir().unwrap();
    let auto_compaction = AutoCompaction::Periodic(Duration::from_secs(3600));
    let engine = open(Config { auto_compaction, ..Config::new(dir.path()) }).unwrap();
    engine.lease_grant(LeaseGrantRequest { ttl: 3600, id: 1 }).await.unwrap();
    engine.put(PutRequest { lease: 1, ..PutRequest::new("a", "1") }).await.unwrap();
    let _watch = engine.watch(&WatchCreateRequest::prefix("a", 0));
    // The thread may still be on its way to sleep.
    let mut last = activity(&dir);
    let mut quiet = 0;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = activity(&dir);
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
        if quiet == 10 {
            assert!(!last.0.is_empty(), "the thread was found");
            return;
        }
    }
    panic!("the store was never quiet for a second");
}

/// How often the log's thread has given up the processor by itself, and the bytes in the data directory.
fn activity(dir: &tempfile::TempDir) -> (String, u64) {
    let mut switches = String::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.trim() == "etcd-log" {
            let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
            switches.extend(status.lines().filter(|line| line.starts_with("voluntary")));
        }
    }
    let written = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().metadata().unwrap());
    (switches, written.map(|file| std::os::unix::fs::MetadataExt::mtime_nsec(&file) as u64).sum())
}
