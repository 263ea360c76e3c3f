//! The kubelet's own metrics, under upstream's names.

use std::sync::LazyLock;

use isopod_podplan::probe::Kind;
use prometheus::{
    Histogram, IntCounterVec, IntGauge, histogram_opts, register_histogram, register_int_counter_vec,
    register_int_gauge,
};

const ONCE: &str = "registered once, by this static";

static PROBES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("prober_probe_total", "Probes by type and result", &["probe_type", "result"])
        .expect(ONCE)
});

/// Time from first sight of a pod to its first status with a running container.
pub(crate) static POD_START: LazyLock<Histogram> = LazyLock::new(|| {
    let buckets = vec![0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
    let opts = histogram_opts!(
        "kubelet_pod_start_duration_seconds",
        "Seconds from first sight of a pod to its containers running",
        buckets
    );
    register_histogram!(opts).expect(ONCE)
});

/// Pods with a running sandbox.
pub(crate) static RUNNING_PODS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("kubelet_running_pods", "Pods that have a running sandbox").expect(ONCE)
});

/// Evictions by what the node was short of.
pub(crate) static EVICTIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("kubelet_evictions", "Pods evicted, by signal", &["eviction_signal"])
        .expect(ONCE)
});

/// Counts a probe run.
pub(crate) fn probe(kind: Kind, passed: bool) {
    let result = if passed { "successful" } else { "failed" };
    PROBES.with_label_values(&[kind.name(), result]).inc();
}
