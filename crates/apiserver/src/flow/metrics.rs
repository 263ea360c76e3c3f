//! `apiserver_flowcontrol_*`, under upstream's names. Labels are names of stored objects, which administrators make.

use std::sync::LazyLock;
use std::time::Duration;

use isopod_rules::flowcontrol::level::Seats;
use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, histogram_opts, opts,
};

use crate::metrics::register;

const BOTH: &[&str] = &["priority_level", "flow_schema"];

fn gauge(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(IntGaugeVec::new(opts!(name, help), labels))
}

fn seconds(name: &str, help: &str, labels: &[&str]) -> HistogramVec {
    let buckets = vec![0.0, 0.005, 0.02, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
    register(HistogramVec::new(histogram_opts!(name, help, buckets), labels))
}

struct All {
    dispatched: IntCounterVec,
    rejected: IntCounterVec,
    waiting: IntGaugeVec,
    running: IntGaugeVec,
    wait: HistogramVec,
    execution: HistogramVec,
    nominal: IntGaugeVec,
    lower: IntGaugeVec,
    upper: IntGaugeVec,
}

static ALL: LazyLock<All> = LazyLock::new(|| All {
    dispatched: register(IntCounterVec::new(
        opts!(
            "apiserver_flowcontrol_dispatched_requests_total",
            "Requests that were started, by flow schema."
        ),
        BOTH,
    )),
    rejected: register(IntCounterVec::new(
        opts!(
            "apiserver_flowcontrol_rejected_requests_total",
            "Requests that were refused, by flow schema and reason."
        ),
        &["priority_level", "flow_schema", "reason"],
    )),
    waiting: gauge("apiserver_flowcontrol_current_inqueue_requests", "Requests that wait in queues.", BOTH),
    running: gauge("apiserver_flowcontrol_current_executing_requests", "Requests that run.", BOTH),
    wait: seconds(
        "apiserver_flowcontrol_request_wait_duration_seconds",
        "How long requests waited in queues.",
        &["priority_level", "flow_schema", "execute"],
    ),
    execution: seconds(
        "apiserver_flowcontrol_request_execution_seconds",
        "How long requests had their seats.",
        &["priority_level", "flow_schema", "type"],
    ),
    nominal: gauge(
        "apiserver_flowcontrol_nominal_limit_seats",
        "Seats of a priority level.",
        &["priority_level"],
    ),
    lower: gauge(
        "apiserver_flowcontrol_lower_limit_seats",
        "Seats that a priority level does not lend.",
        &["priority_level"],
    ),
    upper: gauge(
        "apiserver_flowcontrol_upper_limit_seats",
        "Seats that a priority level may have with those it borrows.",
        &["priority_level"],
    ),
});

/// The metrics of one flow schema, found once.
pub(super) struct SchemaMetrics {
    names: [String; 2],
    dispatched: IntCounter,
    waiting: IntGauge,
    running: IntGauge,
    execution: [Histogram; 2],
}

impl SchemaMetrics {
    pub(super) fn of(level: &str, schema: &str) -> SchemaMetrics {
        let both = [level, schema];
        let execution =
            ["regular", "watch"].map(|kind| ALL.execution.with_label_values(&[level, schema, kind]));
        SchemaMetrics {
            names: both.map(str::to_owned),
            dispatched: ALL.dispatched.with_label_values(&both),
            waiting: ALL.waiting.with_label_values(&both),
            running: ALL.running.with_label_values(&both),
            execution,
        }
    }

    pub(super) fn rejected(&self, reason: &str) {
        ALL.rejected.with_label_values(&[&*self.names[0], &*self.names[1], reason]).inc();
    }

    pub(super) fn entered_queue(&self) {
        self.waiting.inc();
    }

    pub(super) fn left_queue(&self) {
        self.waiting.dec();
    }

    pub(super) fn waited(&self, time: Duration, executed: bool) {
        let executed = if executed { "true" } else { "false" };
        let labels = [&*self.names[0], &*self.names[1], executed];
        ALL.wait.with_label_values(&labels).observe(time.as_secs_f64());
    }

    pub(super) fn started(&self) {
        self.dispatched.inc();
        self.running.inc();
    }

    pub(super) fn ended(&self, took: Duration, watch: bool) {
        self.running.dec();
        self.execution[usize::from(watch)].observe(took.as_secs_f64());
    }
}

/// The metrics of one priority level.
pub(super) struct LevelMetrics(String);

impl LevelMetrics {
    pub(super) fn of(level: &str) -> LevelMetrics {
        LevelMetrics(level.to_owned())
    }

    pub(super) fn seats(&self, seats: Seats) {
        let name = &[&*self.0];
        ALL.nominal.with_label_values(name).set(seats.nominal.into());
        ALL.lower.with_label_values(name).set(seats.reserved.into());
        ALL.upper.with_label_values(name).set(seats.upper.into());
    }
}
