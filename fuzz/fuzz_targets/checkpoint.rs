//! A checkpoint of any content: opening the store refuses it, and does not panic.
#![no_main]

use std::sync::Arc;

use isopod_etcd::storage::{SimStorage, Storage};
use isopod_etcd::{Config, open_in};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let storage = SimStorage::default();
    let mut file = storage.create("checkpoint-0000000000000001").expect("a directory in memory takes files");
    file.write_at(0, data).expect("a file in memory takes bytes");
    let opened = open_in(Arc::new(storage), Config::new("unused"));
    assert!(opened.is_err(), "a checkpoint without a log is no store");
});
