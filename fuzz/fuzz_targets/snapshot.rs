//! A snapshot of any content: it is read whole or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = isopod_etcd::snapshot::check(data);
});
