//! The running engine on a disk that fails.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use isopod_etcd::storage::{Fault, SimStorage};
use isopod_etcd::{Config, Engine, open_in};
use isopod_kv::{Code, DeleteRangeRequest, Error, PutRequest, RangeRequest};

fn engine(storage: &SimStorage) -> Arc<Engine> {
    open_in(Arc::new(storage.clone()), Config::new("sim")).unwrap()
}

async fn value(engine: &Engine, key: &'static str) -> Option<Vec<u8>> {
    engine.range(&RangeRequest::key(key)).await.unwrap().kvs.first().map(|kv| kv.value.to_vec())
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_recovers_by_itself() {
    let storage = SimStorage::new(1);
    let engine = engine(&storage);
    engine.put(PutRequest::new("a", "1")).await.unwrap();
    storage.set_fault(Some(Fault::Full { left: 10 }));
    assert_eq!(engine.put(PutRequest::new("a", "2")).await, Err(Error::NoSpace));
    assert_eq!(engine.delete_range(DeleteRangeRequest::key("a")).await, Err(Error::NoSpace));
    assert!(!engine.is_healthy());
    assert_eq!(engine.status().errors.len(), 1);
    assert_eq!(value(&engine, "a").await.unwrap(), b"1");
    storage.set_fault(None);
    engine.put(PutRequest::new("b", "3")).await.unwrap();
    assert!(engine.is_healthy());
    engine.stop().await;
    // Power is lost now: what was refused must not come back, what was answered must.
    storage.crash();
    let engine = self::engine(&storage);
    assert_eq!(value(&engine, "a").await.unwrap(), b"1");
    assert_eq!(value(&engine, "b").await.unwrap(), b"3");
}

#[tokio::test]
async fn a_failed_sync_ends_writing_until_a_restart() {
    let storage = SimStorage::new(2);
    let engine = engine(&storage);
    engine.put(PutRequest::new("a", "1")).await.unwrap();
    storage.set_fault(Some(Fault::SyncFails));
    assert_eq!(engine.put(PutRequest::new("a", "2")).await.unwrap_err().code(), Code::Unavailable);
    // The disk works again, but what it holds is not known.
    assert_eq!(engine.put(PutRequest::new("a", "3")).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(value(&engine, "a").await.unwrap(), b"1");
    assert!(!engine.is_healthy());
    engine.stop().await;
    let engine = self::engine(&storage);
    engine.put(PutRequest::new("a", "4")).await.unwrap();
    assert_eq!(value(&engine, "a").await.unwrap(), b"4");
}

#[tokio::test]
async fn a_failed_checkpoint_loses_nothing_and_is_reported() {
    let storage = SimStorage::new(3);
    let engine = engine(&storage);
    engine.put(PutRequest::new("a", "1")).await.unwrap();
    storage.set_fault(Some(Fault::Full { left: 0 }));
    assert_eq!(engine.checkpoint().await.unwrap_err().code(), Code::Internal);
    storage.set_fault(None);
    engine.checkpoint().await.unwrap();
    engine.put(PutRequest::new("b", "2")).await.unwrap();
    engine.stop().await;
    storage.crash();
    let engine = self::engine(&storage);
    assert_eq!(value(&engine, "a").await.unwrap(), b"1");
    assert_eq!(value(&engine, "b").await.unwrap(), b"2");
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    use isopod_etcd::storage::Storage;
    let storage = SimStorage::new(4);
    let engine = engine(&storage);
    engine.put(PutRequest::new("a", "1")).await.unwrap();
    engine.stop().await;
    let name = storage.list().unwrap().remove(0);
    let mut prelude = storage.content(&name).unwrap()[..12].to_vec();
    prelude[8] = 9;
    let crc = crc32c::crc32c(&prelude);
    prelude.extend_from_slice(&crc.to_le_bytes());
    storage.open(&name).unwrap().write_at(0, &prelude).unwrap();
    let error = open_in(Arc::new(storage.clone()), Config::new("sim")).err().unwrap();
    assert_eq!(
        error.to_string(),
        format!("sim/{name} has format version 9, this program reads versions up to 2; use a newer one")
    );
}
