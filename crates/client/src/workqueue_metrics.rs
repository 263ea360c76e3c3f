//! The `workqueue_*` metrics, named and bucketed as upstream's.

use std::sync::LazyLock;

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    exponential_buckets, histogram_opts, register_gauge_vec, register_histogram_vec,
    register_int_counter_vec, register_int_gauge_vec,
};

const LABELS: &[&str] = &["name"];
const REGISTERED_ONCE: &str = "registered once, by this static";

static DEPTH: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!("workqueue_depth", "Current depth of workqueue", LABELS).expect(REGISTERED_ONCE)
});
static ADDS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("workqueue_adds_total", "Adds handled by workqueue", LABELS)
        .expect(REGISTERED_ONCE)
});
static RETRIES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("workqueue_retries_total", "Retries handled by workqueue", LABELS)
        .expect(REGISTERED_ONCE)
});
static UNFINISHED: LazyLock<GaugeVec> = LazyLock::new(|| {
    register_gauge_vec!("workqueue_unfinished_work_seconds", "Seconds of work in progress, summed", LABELS)
        .expect(REGISTERED_ONCE)
});
static LONGEST: LazyLock<GaugeVec> = LazyLock::new(|| {
    register_gauge_vec!(
        "workqueue_longest_running_processor_seconds",
        "Seconds the longest work in progress has run",
        LABELS
    )
    .expect(REGISTERED_ONCE)
});
static QUEUE_DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    seconds("workqueue_queue_duration_seconds", "Seconds an item waits before it is worked on")
});
static WORK_DURATION: LazyLock<HistogramVec> =
    LazyLock::new(|| seconds("workqueue_work_duration_seconds", "Seconds the work on an item takes"));

fn seconds(name: &str, help: &str) -> HistogramVec {
    let buckets = exponential_buckets(10e-9, 10.0, 10).expect("start and factor are in range");
    register_histogram_vec!(histogram_opts!(name, help, buckets), LABELS).expect(REGISTERED_ONCE)
}

/// The metrics of one queue.
pub(crate) struct Metrics {
    pub(crate) depth: IntGauge,
    pub(crate) adds: IntCounter,
    pub(crate) retries: IntCounter,
    pub(crate) unfinished: Gauge,
    pub(crate) longest: Gauge,
    pub(crate) queue_duration: Histogram,
    pub(crate) work_duration: Histogram,
}

impl Metrics {
    pub(crate) fn new(name: &str) -> Self {
        let name = &[name];
        Self {
            depth: DEPTH.with_label_values(name),
            adds: ADDS.with_label_values(name),
            retries: RETRIES.with_label_values(name),
            unfinished: UNFINISHED.with_label_values(name),
            longest: LONGEST.with_label_values(name),
            queue_duration: QUEUE_DURATION.with_label_values(name),
            work_duration: WORK_DURATION.with_label_values(name),
        }
    }
}
