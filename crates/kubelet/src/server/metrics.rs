//! `/metrics` and its three sisters, in the Prometheus text format.

use std::fmt::Write as _;
use std::sync::Arc;

use http::{Response, StatusCode};
use isopod_cri::v1;
use prometheus::{Encoder, TextEncoder};

use super::{Body, answer, stats};
use crate::kubelet::Kubelet;
use crate::pods::runs;

const KIND: &str = "text/plain; version=0.0.4; charset=utf-8";

fn text(body: String) -> Response<Body> {
    answer(StatusCode::OK, KIND, body.into())
}

/// The process's own metrics.
pub(super) fn own() -> Response<Body> {
    let mut out = Vec::new();
    match TextEncoder::new().encode(&prometheus::gather(), &mut out) {
        Ok(()) => answer(StatusCode::OK, KIND, out.into()),
        Err(e) => super::plain(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    }
}

/// A family of samples under construction.
struct Family(String);

impl Family {
    fn new(name: &str, kind: &str, help: &str) -> Self {
        Self(format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"))
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64, millis: Option<i64>) {
        self.0.push_str(name);
        if !labels.is_empty() {
            let list: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
            let _ = write!(self.0, "{{{}}}", list.join(","));
        }
        let _ = write!(self.0, " {value}");
        if let Some(ms) = millis {
            let _ = write!(self.0, " {ms}");
        }
        self.0.push('\n');
    }
}

fn escape(v: &str) -> String {
    v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[allow(clippy::cast_precision_loss, reason = "metrics are floats by definition")]
fn float(v: Option<&v1::UInt64Value>) -> Option<f64> {
    v.map(|v| v.value as f64)
}

fn seconds(v: Option<&v1::UInt64Value>) -> Option<f64> {
    float(v).map(|v| v / 1e9)
}

/// `/metrics/resource`: what the metrics server reads.
pub(super) async fn resource(kubelet: &Arc<Kubelet>) -> Response<Body> {
    let now = kubelet.now();
    let usage = stats::node_use(now);
    let stats = stats::by_pod(kubelet).await;
    let ms = Some(now.as_millisecond());
    let family = |name: &str, kind: &str, help: &str| Family::new(name, kind, &format!("[STABLE] {help}"));
    let names = [
        "node_cpu_usage_seconds_total",
        "node_memory_working_set_bytes",
        "container_cpu_usage_seconds_total",
        "container_memory_working_set_bytes",
        "container_start_time_seconds",
        "pod_cpu_usage_seconds_total",
        "pod_memory_working_set_bytes",
    ];
    let mut f = [
        family(names[0], "counter", "Cumulative cpu time consumed by the node in core-seconds"),
        family(names[1], "gauge", "Current working set of the node in bytes"),
        family(names[2], "counter", "Cumulative cpu time consumed by the container in core-seconds"),
        family(names[3], "gauge", "Current working set of the container in bytes"),
        family(names[4], "gauge", "Start time of the container since unix epoch in seconds"),
        family(names[5], "counter", "Cumulative cpu time consumed by the pod in core-seconds"),
        family(names[6], "gauge", "Current working set of the pod in bytes"),
    ];
    #[allow(clippy::cast_precision_loss, reason = "metrics are floats by definition")]
    let (cpu, set) = (usage.cpu_nanos as f64 / 1e9, usage.working_set as f64);
    f[0].sample(names[0], &[], cpu, ms);
    f[1].sample(names[1], &[], set, ms);
    for p in kubelet.pods.list() {
        let Some((sandbox, containers)) = stats.get(&p.uid) else { continue };
        let (pod, view) = (p.pod(), p.view());
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for c in containers {
            let container = c.attributes.as_ref().and_then(|a| a.metadata.as_ref()).map_or("", |m| &m.name);
            let labels = [("container", container), ("namespace", namespace), ("pod", name)];
            let cpu = c.cpu.as_ref().and_then(|c| seconds(c.usage_core_nano_seconds.as_ref()));
            let memory = c.memory.as_ref().and_then(|m| float(m.working_set_bytes.as_ref()));
            let started = view.observed.latest(container).and_then(|o| o.started_at);
            #[allow(clippy::cast_precision_loss, reason = "metrics are floats by definition")]
            let started = started.map(|t| t.as_millisecond() as f64 / 1e3);
            for (i, v, at) in [(2, cpu, ms), (3, memory, ms), (4, started, None)] {
                if let Some(v) = v {
                    f[i].sample(names[i], &labels, v, at);
                }
            }
        }
        let Some(linux) = sandbox.as_ref().and_then(|s| s.linux.as_ref()) else { continue };
        let labels = [("namespace", namespace), ("pod", name)];
        let cpu = linux.cpu.as_ref().and_then(|c| seconds(c.usage_core_nano_seconds.as_ref()));
        let memory = linux.memory.as_ref().and_then(|m| float(m.working_set_bytes.as_ref()));
        for (i, v) in [(5, cpu), (6, memory)] {
            if let Some(v) = v {
                f[i].sample(names[i], &labels, v, ms);
            }
        }
    }
    let mut out: String = f.into_iter().map(|f| f.0).collect();
    let mut error = family(
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    error.sample("resource_scrape_error", &[], 0.0, None);
    out.push_str(&error.0);
    text(out)
}

/// `/metrics/cadvisor`: the container metrics that dashboards use most.
pub(super) async fn cadvisor(kubelet: &Arc<Kubelet>) -> Response<Body> {
    let stats = stats::by_pod(kubelet).await;
    let ms = Some(kubelet.now().as_millisecond());
    let names = [
        ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds."),
        ("container_memory_working_set_bytes", "gauge", "Current working set in bytes."),
        ("container_memory_usage_bytes", "gauge", "Current memory usage in bytes."),
        ("container_memory_rss", "gauge", "Size of RSS in bytes."),
        (
            "container_fs_usage_bytes",
            "gauge",
            "Number of bytes that are consumed by the container on this filesystem.",
        ),
    ];
    let mut f: Vec<Family> = names.iter().map(|(n, k, h)| Family::new(n, k, h)).collect();
    for p in kubelet.pods.list() {
        let Some((_, containers)) = stats.get(&p.uid) else { continue };
        let pod = p.pod();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for c in containers {
            let attributes = c.attributes.clone().unwrap_or_default();
            let container = attributes.metadata.unwrap_or_default().name;
            let labels = [
                ("container", container.as_str()),
                ("id", attributes.id.as_str()),
                ("namespace", namespace),
                ("pod", name),
            ];
            let memory = c.memory.as_ref();
            let values = [
                c.cpu.as_ref().and_then(|c| seconds(c.usage_core_nano_seconds.as_ref())),
                memory.and_then(|m| float(m.working_set_bytes.as_ref())),
                memory.and_then(|m| float(m.usage_bytes.as_ref())),
                memory.and_then(|m| float(m.rss_bytes.as_ref())),
                c.writable_layer.as_ref().and_then(|w| float(w.used_bytes.as_ref())),
            ];
            for (i, v) in values.into_iter().enumerate() {
                if let Some(v) = v {
                    f[i].sample(names[i].0, &labels, v, ms);
                }
            }
        }
    }
    text(f.into_iter().map(|f| f.0).collect())
}

/// `/metrics/probes`: what is ready and started, by container.
pub(super) fn probes(kubelet: &Arc<Kubelet>) -> Response<Body> {
    let name = "prober_container_ready";
    let mut f =
        Family::new(name, "gauge", "1 if the container's readiness probe (or the lack of one) says ready");
    for p in kubelet.pods.list().iter().filter(|p| runs(p)) {
        let (pod, view) = (p.pod(), p.view());
        let who = pod.metadata.name.as_deref().unwrap_or_default();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for s in view.status.container_statuses.iter().flatten() {
            let labels = [("container", s.name.as_str()), ("namespace", namespace), ("pod", who)];
            f.sample(name, &labels, f64::from(u8::from(s.ready)), None);
        }
    }
    text(f.0)
}
