//! Metrics of the control loops. Queue metrics come with the queues.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec};

static SYNC_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let options = HistogramOpts::new(
        "isopod_controller_sync_duration_seconds",
        "Time from taking a key off the queue to the end of its plan, by controller and result.",
    )
    .buckets(prometheus::exponential_buckets(0.0001, 4.0, 9).expect("constants are in range"));
    let metric = HistogramVec::new(options, &["controller", "result"]).expect("constants are valid");
    // A second registration means that the process holds two sets of control loops; they share the metric.
    let _ = prometheus::register(Box::new(metric.clone()));
    metric
});

pub(crate) fn observe(controller: &str, took: Duration, failed: bool) {
    let result = if failed { "error" } else { "success" };
    SYNC_SECONDS.with_label_values(&[controller, result]).observe(took.as_secs_f64());
}
