//! Metrics under the names that dashboards for etcd use, in the process's default registry.

mod process;

use std::sync::LazyLock;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, exponential_buckets,
    register_histogram, register_int_counter, register_int_counter_vec, register_int_gauge,
    register_int_gauge_vec,
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
    LEADER_CHANGES = "etcd_server_leader_changes_seen_total", "Leaders seen by this member.";
    APPLIED = "etcd_server_proposals_applied_total", "Commands applied.";
    RECEIVED_BYTES = "etcd_network_client_grpc_received_bytes_total", "Bytes received from clients.";
    SENT_BYTES = "etcd_network_client_grpc_sent_bytes_total", "Bytes sent to clients.";
    HEALTH_SUCCESS = "etcd_server_health_success", "Health checks that found nothing.";
    HEALTH_FAILURES = "etcd_server_health_failures", "Health checks that found something.";
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

/// Time to write a checkpoint, which here is what a commit of the backend is to etcd.
pub(crate) static BACKEND_COMMIT: LazyLock<Histogram> = LazyLock::new(|| {
    let buckets = exponential_buckets(0.001, 2.0, 16).expect("constant");
    let options =
        HistogramOpts::new("etcd_disk_backend_commit_duration_seconds", "Seconds to write a checkpoint.")
            .buckets(buckets);
    register_histogram!(options).expect("a metric is registered once")
});

/// Time from the first byte of a batch to its being durable.
pub(crate) static WAL_FSYNC: LazyLock<Histogram> = LazyLock::new(|| {
    let buckets = exponential_buckets(0.0001, 2.0, 16).expect("constant");
    let options =
        HistogramOpts::new("etcd_disk_wal_fsync_duration_seconds", "Seconds to make a batch durable.")
            .buckets(buckets);
    register_histogram!(options).expect("a metric is registered once")
});

macro_rules! labelled {
    ($($name:ident: $kind:ident = $register:ident($metric:literal, $help:literal, $labels:expr);)*) => {
        $(static $name: LazyLock<$kind> = LazyLock::new(|| {
            $register!($metric, $help, $labels).expect("a metric is registered once")
        });)*
    };
}

labelled! {
    GRPC_STARTED: IntCounterVec = register_int_counter_vec(
        "grpc_server_started_total", "Calls begun.", &["grpc_type", "grpc_service", "grpc_method"]);
    GRPC_HANDLED: IntCounterVec = register_int_counter_vec(
        "grpc_server_handled_total", "Calls ended, by outcome.",
        &["grpc_type", "grpc_service", "grpc_method", "grpc_code"]);
    HEALTH_CHECK: IntGaugeVec = register_int_gauge_vec(
        "etcd_server_healthcheck", "Outcome of each check.", &["type", "name"]);
    HEALTH_CHECKS: IntCounterVec = register_int_counter_vec(
        "etcd_server_healthchecks_total", "Checks made.", &["type", "name", "status"]);
    SERVER_VERSION: IntGaugeVec = register_int_gauge_vec(
        "etcd_server_version", "The version, as a label.", &["server_version"]);
}

/// The service and the method in a path.
fn split(path: &str) -> (&str, &str) {
    path.trim_start_matches('/').split_once('/').unwrap_or((path, ""))
}

/// Counts a call that begins.
pub(crate) fn grpc_started(kind: &str, path: &str) {
    let (service, method) = split(path);
    GRPC_STARTED.with_label_values(&[kind, service, method]).inc();
}

/// Counts a call that has ended.
pub(crate) fn grpc_handled(kind: &str, path: &str, code: isopod_kv::Code) {
    let (service, method) = split(path);
    let code = match code {
        isopod_kv::Code::Ok => "OK".to_owned(),
        isopod_kv::Code::Cancelled => "Canceled".to_owned(),
        code => format!("{code:?}"),
    };
    GRPC_HANDLED.with_label_values(&[kind, service, method, &code]).inc();
}

/// Counts a health check.
pub(crate) fn health(good: bool) {
    if good { HEALTH_SUCCESS.inc() } else { HEALTH_FAILURES.inc() }
}

/// Counts one check of those that a path names.
pub(crate) fn health_check(kind: &str, name: &str, good: bool) {
    HEALTH_CHECK.with_label_values(&[kind, name]).set(i64::from(good));
    let status = if good { "success" } else { "error" };
    HEALTH_CHECKS.with_label_values(&[kind, name, status]).inc();
}

/// Shows every metric from the start, and not only once something has happened.
pub(crate) fn announce() {
    for counter in [&FAILED, &LEADER_CHANGES, &APPLIED, &RECEIVED_BYTES, &SENT_BYTES, &HEALTH_FAILURES] {
        LazyLock::force(counter);
    }
    for counter in [&COMMITTED, &PUTS, &DELETES, &RANGES, &TXNS, &HEALTH_SUCCESS] {
        LazyLock::force(counter);
    }
    LazyLock::force(&WATCHERS);
    LazyLock::force(&BACKEND_COMMIT);
    LazyLock::force(&WAL_FSYNC);
}

/// What is only looked at when somebody asks.
pub(crate) fn scrape() {
    process::look();
    SERVER_VERSION.with_label_values(&[crate::engine::VERSION]).set(1);
}
