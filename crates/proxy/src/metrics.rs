//! Metrics, under upstream's names, in the process's default registry.

use prometheus::{
    Gauge, Histogram, IntCounter, exponential_buckets, register_gauge, register_histogram,
    register_int_counter,
};
use std::sync::LazyLock;

/// All metrics of the proxy.
pub(crate) struct Metrics {
    pub(crate) sync_seconds: Histogram,
    pub(crate) last_sync: Gauge,
    pub(crate) sync_failures: IntCounter,
    pub(crate) service_changes: IntCounter,
    pub(crate) endpoint_changes: IntCounter,
    pub(crate) conntrack_deleted: IntCounter,
}

/// The process's metrics of the proxy.
pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    let counter =
        |name: &str, help: &str| register_int_counter!(name, help).expect("a metric registered once");
    let buckets = exponential_buckets(0.001, 2.0, 15).expect("valid buckets");
    Metrics {
        sync_seconds: register_histogram!(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "Time to apply one transaction of rules",
            buckets
        )
        .expect("a metric registered once"),
        last_sync: register_gauge!(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "When rules were last applied with success"
        )
        .expect("a metric registered once"),
        sync_failures: counter(
            "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
            "Transactions that nft refused",
        ),
        service_changes: counter("kubeproxy_sync_proxy_rules_service_changes_total", "Changes of Services"),
        endpoint_changes: counter(
            "kubeproxy_sync_proxy_rules_endpoint_changes_total",
            "Changes of EndpointSlices",
        ),
        conntrack_deleted: counter(
            "kubeproxy_conntrack_reconciler_deleted_entries_total",
            "Tracked connections deleted because their endpoint is gone",
        ),
    }
});
