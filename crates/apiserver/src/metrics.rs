//! Metrics under upstream's names, in the process-wide default registry.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec, histogram_opts, opts};

use crate::request_info::RequestInfo;

static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let opts = opts!(
        "apiserver_request_total",
        "Counter of apiserver requests broken out for each verb, group, version, resource, subresource and code."
    );
    register(IntCounterVec::new(opts, &["verb", "group", "version", "resource", "subresource", "code"]))
});

static DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let opts = histogram_opts!(
        "apiserver_request_duration_seconds",
        "Response latency in seconds for each verb, group, version, resource and subresource.",
        vec![0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 60.0]
    );
    register(HistogramVec::new(opts, &["verb", "group", "version", "resource", "subresource"]))
});

static IN_FLIGHT: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let opts = opts!("apiserver_current_inflight_requests", "Requests being served, by kind.");
    register(IntGaugeVec::new(opts, &["request_kind"]))
});

static OBJECTS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let opts = opts!("apiserver_storage_objects", "Number of stored objects, by resource.");
    register(IntGaugeVec::new(opts, &["resource"]))
});

static WATCHERS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let opts = opts!("apiserver_longrunning_requests", "Watches being served, by resource.");
    register(IntGaugeVec::new(opts, &["resource"]))
});

pub(crate) fn register<C: prometheus::core::Collector + Clone + 'static>(made: prometheus::Result<C>) -> C {
    let metric = made.expect("the metric is described correctly");
    // A second server in one process (tests) shares the first one's registration.
    let _ = prometheus::default_registry().register(Box::new(metric.clone()));
    metric
}

/// The labels of a request; made of known names only, so that clients cannot make series.
#[derive(Debug)]
pub(crate) struct Label {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
}

impl Label {
    pub(crate) fn of(info: &RequestInfo) -> Label {
        let facts = isopod_api::facts::builtin().resource(&info.group, &info.version, &info.resource);
        let known = info.is_resource && facts.is_some();
        let text = |t: &str| if known { t.to_owned() } else { String::new() };
        let sub = facts.is_some_and(|f| f.subresources.iter().any(|s| s.name == info.subresource));
        let verb = if known { info.verb.to_uppercase() } else { "other".to_owned() };
        Label {
            verb,
            group: text(&info.group),
            version: text(&info.version),
            resource: text(&info.resource),
            subresource: if sub { info.subresource.clone() } else { String::new() },
        }
    }
}

/// Counts one answered request.
pub(crate) fn observe(label: &Label, code: u16, took: Duration) {
    let l = label;
    let code = code.to_string();
    let labels = [&*l.verb, &*l.group, &*l.version, &*l.resource, &*l.subresource];
    REQUESTS.with_label_values(&[labels[0], labels[1], labels[2], labels[3], labels[4], &code]).inc();
    if l.verb != "WATCH" {
        DURATION.with_label_values(&labels).observe(took.as_secs_f64());
    }
}

/// All metrics of the process as text.
pub(crate) fn render(server: &crate::ApiServer) -> String {
    let (reads, writes) = server.flow.in_flight();
    IN_FLIGHT.with_label_values(&["readOnly"]).set(i64::try_from(reads).unwrap_or(i64::MAX));
    IN_FLIGHT.with_label_values(&["mutating"]).set(i64::try_from(writes).unwrap_or(i64::MAX));
    for cache in server.registry().feed.caches() {
        if cache.is_ready() {
            let name = isopod_api::status::qualified(&cache.spec.group, &cache.spec.resource);
            let (objects, watchers) = cache.counts();
            OBJECTS.with_label_values(&[&name]).set(i64::try_from(objects).unwrap_or(i64::MAX));
            WATCHERS.with_label_values(&[&name]).set(i64::try_from(watchers).unwrap_or(i64::MAX));
        }
    }
    let families = prometheus::gather();
    prometheus::TextEncoder::new().encode_to_string(&families).unwrap_or_default()
}
