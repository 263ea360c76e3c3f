//! Metrics, by upstream's names.

use isopod_scheduling::{Outcome, Queue};
use prometheus::{
    Histogram, HistogramVec, IntCounterVec, IntGaugeVec, register_histogram, register_histogram_vec,
    register_int_counter_vec, register_int_gauge_vec,
};
use std::sync::LazyLock;
use std::time::Duration;

const ONCE: &str = "registered once, by this static";

static ATTEMPTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "scheduler_schedule_attempts_total",
        "Attempts to schedule pods, by result",
        &["result", "profile"]
    )
    .expect(ONCE)
});
static DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    register_histogram_vec!(
        "scheduler_scheduling_attempt_duration_seconds",
        "Time of the decision",
        &["result", "profile"],
        prometheus::exponential_buckets(0.000_01, 4.0, 10).expect("positive")
    )
    .expect(ONCE)
});
static BINDING: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!(
        "scheduler_binding_duration_seconds",
        "Time from the decision's begin to the binding's acceptance",
        prometheus::exponential_buckets(0.000_1, 4.0, 10).expect("positive")
    )
    .expect(ONCE)
});
static PENDING: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!("scheduler_pending_pods", "Pods that await a node, by queue", &["queue"])
        .expect(ONCE)
});

pub(crate) fn attempt(outcome: &Outcome, profile: &str, took: Duration) {
    let result = match outcome {
        Outcome::Bind { .. } => "scheduled",
        Outcome::Unschedulable(_) => "unschedulable",
    };
    ATTEMPTS.with_label_values(&[result, profile]).inc();
    DURATION.with_label_values(&[result, profile]).observe(took.as_secs_f64());
}

pub(crate) fn bound(took: Duration) {
    BINDING.observe(took.as_secs_f64());
}

pub(crate) fn pending(queue: &Queue) {
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let (active, gated) = (queue.active_len(), queue.gated_len());
    PENDING.with_label_values(&["active"]).set(count(active));
    PENDING.with_label_values(&["gated"]).set(count(gated));
    PENDING.with_label_values(&["unschedulable"]).set(count(queue.len() - active - gated));
}
