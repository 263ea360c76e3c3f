//! Metrics under the names that dashboards for etcd use, in the process's default registry.

use std::sync::LazyLock;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntGauge, exponential_buckets, register_histogram,
    register_int_counter, register_int_gauge,
};

macro_rules! counters {
    ($($name:ident = $metric:literal, $help:literal;)*) => {
        $(pub(crate) static $name: LazyLock<IntCounter> = LazyLock::new(|| {
            register_int_counter!($metric, $help).expect("a metric is registered once")
        });)*
    };
}

macro_rules! gauges {
    ($($name:ident = $metric:literal, $help:literal;)*) => {
        $(pub(crate) static $name: LazyLock<IntGauge> = LazyLock::new(|| {
            register_int_gauge!($metric, $help).expect("a metric is registered once")
        });)*
    };
}

counters! {
    COMMITTED = "etcd_server_proposals_committed_total", "Commands made durable.";
    FAILED = "etcd_server_proposals_failed_total", "Commands refused by the log.";
    PUTS = "etcd_mvcc_put_total", "Puts seen by this member.";
    DELETES = "etcd_mvcc_delete_total", "Deletes seen by this member.";
    RANGES = "etcd_mvcc_range_total", "Ranges seen by this member.";
    TXNS = "etcd_mvcc_txn_total", "Transactions seen by this member.";
}

gauges! {
    HAS_LEADER = "etcd_server_has_leader", "Whether a leader exists.";
    IS_LEADER = "etcd_server_is_leader", "Whether this member is the leader.";
    PENDING = "etcd_server_proposals_pending", "Commands waiting for the log.";
    DB_SIZE = "etcd_mvcc_db_total_size_in_bytes", "Bytes of log and checkpoint.";
    DB_SIZE_IN_USE = "etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of keys and values with their history.";
    KEYS = "etcd_debugging_mvcc_keys_total", "Keys.";
    REVISION = "etcd_debugging_mvcc_current_revision", "The current revision.";
    WATCHERS = "etcd_debugging_mvcc_watcher_total", "Watchers.";
}

/// Time from the first byte of a batch to its being durable.
pub(crate) static WAL_FSYNC: LazyLock<Histogram> = LazyLock::new(|| {
    let buckets = exponential_buckets(0.0001, 2.0, 16).expect("constant");
    let options =
        HistogramOpts::new("etcd_disk_wal_fsync_duration_seconds", "Seconds to make a batch durable.")
            .buckets(buckets);
    register_histogram!(options).expect("a metric is registered once")
});
