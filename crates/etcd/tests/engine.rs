//! The engine on a real directory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use futures::StreamExt;
use isopod_etcd::{Config, Engine, OpenError, open};
use isopod_kv::{
    CompactionRequest, Compare, DeleteRangeRequest, Error, LeaseGrantRequest, PutRequest, RangeRequest,
    TxnRequest, WatchCreateRequest,
};

fn config(dir: &tempfile::TempDir) -> Config {
    Config::new(dir.path())
}

async fn put(engine: &Engine, key: &str, value: &str) -> i64 {
    let request = PutRequest::new(key.to_owned(), value.to_owned());
    engine.put(request).await.expect("a put").header.expect("a header").revision
}

async fn get(engine: &Engine, key: &str) -> Option<String> {
    let response = engine.range(&RangeRequest::key(key.to_owned())).await.expect("a range");
    response.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned())
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(config(&dir)).unwrap();
    let (cluster, member) = (engine.cluster_id(), engine.member_id());
    assert_eq!(put(&engine, "a", "1").await, 2);
    assert_eq!(put(&engine, "b", "2").await, 3);
    engine.delete_range(DeleteRangeRequest::key("a")).await.unwrap();
    let lease = engine.lease_grant(LeaseGrantRequest { ttl: 100, id: 7 }).await.unwrap();
    assert_eq!((lease.id, lease.ttl), (7, 100));
    engine.put(PutRequest { lease: 7, ..PutRequest::new("c", "3") }).await.unwrap();
    assert!(matches!(open(config(&dir)), Err(OpenError::Locked { .. })));
    engine.stop().await;
    assert_eq!(engine.put(PutRequest::new("d", "4")).await, Err(Error::Stopped));
    drop(engine);
    for round in 0..3 {
        let engine = open(config(&dir)).unwrap();
        assert_eq!((engine.cluster_id(), engine.member_id()), (cluster, member));
        assert_eq!(engine.revision(), 5 + round);
        assert_eq!(get(&engine, "a").await, None);
        assert_eq!(get(&engine, "b").await.as_deref(), Some("2"));
        assert_eq!(engine.lease_leases().leases.len(), 1);
        let old = engine.range(&RangeRequest { revision: 2, ..RangeRequest::key("a") }).await.unwrap();
        assert_eq!(old.kvs[0].value, "1");
        assert_eq!(put(&engine, "n", "x").await, 6 + round);
        if round > 0 {
            engine.checkpoint().await.unwrap();
        }
        engine.stop().await;
    }
}

#[tokio::test]
async fn a_watch_follows_from_a_revision_and_reports_progress() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(config(&dir)).unwrap();
    put(&engine, "/a/1", "1").await;
    put(&engine, "/b/1", "1").await;
    let mut watch =
        engine.watch(&WatchCreateRequest { prev_kv: true, ..WatchCreateRequest::prefix("/a/", 2) });
    let response = watch.next().await.unwrap().unwrap();
    assert_eq!((response.events.len(), response.header.unwrap().revision), (1, 3));
    put(&engine, "/b/1", "2").await;
    watch.request_progress();
    let response = watch.next().await.unwrap().unwrap();
    assert_eq!((response.events.len(), response.header.unwrap().revision), (0, 4));
    put(&engine, "/a/1", "2").await;
    let response = watch.next().await.unwrap().unwrap();
    let event = &response.events[0];
    assert_eq!(event.kv.as_ref().unwrap().value, "2");
    assert_eq!(event.prev_kv.as_ref().unwrap().value, "1");
    engine.compact(CompactionRequest { revision: 5, physical: true }).await.unwrap();
    let mut late = engine.watch(&WatchCreateRequest::prefix("/a/", 3));
    assert_eq!(late.next().await.unwrap(), Err(Error::Compacted));
    assert_eq!(late.compact_revision(), 5);
    assert!(late.next().await.is_none());
    engine.stop().await;
    assert_eq!(watch.next().await.unwrap(), Err(Error::Stopped));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_share_the_log_and_none_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(config(&dir)).unwrap();
    let mut watch = engine.watch(&WatchCreateRequest::prefix("/k/", 0));
    let writers: Vec<_> = (0..50)
        .map(|writer| {
            let engine = engine.clone();
            tokio::spawn(async move {
                for round in 0..20 {
                    put(&engine, &format!("/k/{writer}"), &round.to_string()).await;
                }
            })
        })
        .collect();
    let mut seen = 0;
    let mut last = 0;
    while seen < 1000 {
        let response = watch.next().await.unwrap().unwrap();
        for event in &response.events {
            let revision = event.kv.as_ref().unwrap().mod_revision;
            assert!(revision > last, "events come in order, each once");
            last = revision;
            seen += 1;
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(engine.revision(), 1001);
}

#[tokio::test]
async fn an_expired_lease_takes_its_keys() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(config(&dir)).unwrap();
    let lease = engine.lease_grant(LeaseGrantRequest { ttl: 1, id: 0 }).await.unwrap();
    engine.put(PutRequest { lease: lease.id, ..PutRequest::new("a", "1") }).await.unwrap();
    let mut watch = engine.watch(&WatchCreateRequest::key("a", 0));
    let response = watch.next().await.unwrap().unwrap();
    assert_eq!(response.events[0].r#type, 1);
    assert_eq!(engine.lease_keep_alive(lease.id).await, Err(Error::LeaseNotFound));
}

#[tokio::test]
async fn a_quota_stops_writes_until_space_is_made_and_the_alarm_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(Config { quota_bytes: 20_000, ..config(&dir) }).unwrap();
    let big = |key: String| PutRequest::new(key, vec![0u8; 5000]);
    for n in 0..3 {
        engine.put(big(format!("k{n}"))).await.unwrap();
    }
    assert_eq!(engine.put(big("k9".into())).await, Err(Error::NoSpace));
    assert_eq!(engine.put(PutRequest::new("small", "x")).await, Err(Error::NoSpace));
    assert_eq!(engine.status().errors.len(), 1);
    engine.delete_range(DeleteRangeRequest::prefix("k")).await.unwrap();
    let revision = engine.revision();
    engine.compact(CompactionRequest { revision, physical: true }).await.unwrap();
    let alarm = isopod_kv::AlarmRequest { action: 2, member_id: 0, alarm: 1 };
    engine.alarm(alarm).await.unwrap();
    engine.put(big("k1".into())).await.unwrap();
}

#[tokio::test]
async fn an_alarm_may_clear_itself_once_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Config { quota_bytes: 20_000, clear_no_space: true, ..config(&dir) };
    let engine = open(settings).unwrap();
    let big = |key: String| PutRequest::new(key, vec![0u8; 5200]);
    for n in 0..3 {
        engine.put(big(format!("k{n}"))).await.unwrap();
    }
    let larger = PutRequest::new("k9", vec![0u8; 9000]);
    assert_eq!(engine.put(larger).await, Err(Error::NoSpace));
    // A little space is not enough: the alarm would come and go.
    assert_eq!(engine.put(PutRequest::new("small", "x")).await, Err(Error::NoSpace));
    engine.delete_range(DeleteRangeRequest::prefix("k")).await.unwrap();
    let revision = engine.revision();
    engine.compact(CompactionRequest { revision, physical: true }).await.unwrap();
    engine.put(big("k1".into())).await.unwrap();
    assert!(engine.status().errors.is_empty());
}

#[tokio::test]
async fn limits_are_enforced() {
    let dir = tempfile::tempdir().unwrap();
    let engine: Arc<Engine> = open(config(&dir)).unwrap();
    assert_eq!(engine.put(PutRequest::new("a", vec![0u8; 2 << 20])).await, Err(Error::RequestTooLarge));
    let puts = (0..129).map(|n| PutRequest::new(format!("k{n}"), "x").into()).collect();
    assert_eq!(engine.txn(TxnRequest::new(vec![], puts, vec![])).await, Err(Error::TooManyOps));
    let both = vec![PutRequest::new("k", "x").into(), DeleteRangeRequest::prefix("k").into()];
    assert_eq!(engine.txn(TxnRequest::new(vec![], both, vec![])).await, Err(Error::DuplicateKey));
    let guarded = |revision| {
        TxnRequest::new(
            vec![Compare::mod_revision_is("k", revision)],
            vec![PutRequest::new("k", "x").into()],
            vec![],
        )
    };
    assert!(engine.txn(guarded(0)).await.unwrap().succeeded);
    assert!(!engine.txn(guarded(0)).await.unwrap().succeeded);
    assert!(engine.txn(guarded(2)).await.unwrap().succeeded);
}
