//! Health: of the proxy (`/healthz`, `/livez`), and of Services with a health check node port.
//!
//! A load balancer asks a node's health check port whether the node has endpoints of the Service; the answers are
//! upstream's.

use crate::config::Config;
use crate::http::{self, Answer, Handler, answer};
use isopod_client::{Clock, SystemClock};
use parking_lot::Mutex;
use prometheus::Encoder;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long changes may wait before the proxy counts as unhealthy.
const STUCK_AFTER: Duration = Duration::from_secs(60);

const JSON: &str = "application/json";

#[derive(Debug, Default)]
struct State {
    /// When the first change that is not yet applied came.
    waiting_since: Option<jiff::Timestamp>,
    last_updated: Option<jiff::Timestamp>,
    node_eligible: bool,
    /// By Service: its health check port, and the number of its endpoints here.
    services: BTreeMap<String, (u16, usize)>,
    servers: BTreeMap<u16, CancellationToken>,
}

/// What the proxy tells of itself.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<State>);

impl Health {
    /// Changes came that have to be applied.
    pub(crate) fn queued(&self) {
        let now = SystemClock.now();
        self.0.lock().waiting_since.get_or_insert(now);
    }

    /// All changes so far are applied.
    pub(crate) fn synced(&self) {
        let mut state = self.0.lock();
        state.waiting_since = None;
        state.last_updated = Some(SystemClock.now());
    }

    /// Whether load balancers may send traffic to the node.
    pub(crate) fn set_node_eligible(&self, eligible: bool) {
        self.0.lock().node_eligible = eligible;
    }

    /// The health check port of a Service, and its endpoints here; `None` when it has no such port.
    pub(crate) fn set_service(
        self: &Arc<Self>,
        name: &str,
        check: Option<(u16, usize)>,
        parent: &CancellationToken,
    ) {
        let mut state = self.0.lock();
        match check {
            Some(check) => state.services.insert(name.to_owned(), check),
            None => state.services.remove(name),
        };
        let wanted: Vec<u16> = state.services.values().map(|(port, _)| *port).collect();
        state.servers.retain(|port, stop| {
            let keep = wanted.contains(port);
            if !keep {
                stop.cancel();
            }
            keep
        });
        for port in wanted {
            state.servers.entry(port).or_insert_with(|| {
                let stop = parent.child_token();
                let health = self.clone();
                let handler: Handler = Arc::new(move |_| health.service_answer(port));
                let at = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
                tokio::spawn(http::serve(at, "health check node port", handler, stop.clone()));
                stop
            });
        }
    }

    fn alive(state: &State) -> bool {
        let limit = jiff::SignedDuration::try_from(STUCK_AFTER).expect("a short time");
        state.waiting_since.is_none_or(|since| SystemClock.now().duration_since(since) < limit)
    }

    /// `/healthz` (fit to receive traffic) and `/livez` (alive).
    fn answer(&self, live_only: bool) -> Answer {
        let state = self.0.lock();
        let healthy = Self::alive(&state) && (live_only || state.node_eligible);
        let now = SystemClock.now();
        let body = serde_json::json!({
            "lastUpdated": state.last_updated.unwrap_or(now).to_string(),
            "currentTime": now.to_string(),
            "nodeEligible": state.node_eligible,
        });
        answer(if healthy { 200 } else { 503 }, JSON, body.to_string())
    }

    fn service_answer(&self, port: u16) -> Answer {
        let state = self.0.lock();
        let Some((name, (_, count))) = state.services.iter().find(|(_, (p, _))| *p == port) else {
            return answer(404, JSON, "{}");
        };
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        let healthy = Self::alive(&state);
        let body = serde_json::json!({
            "service": {"namespace": namespace, "name": name},
            "localEndpoints": count,
            "serviceProxyHealthy": healthy,
        });
        let mut answer = answer(if *count > 0 && healthy { 200 } else { 503 }, JSON, body.to_string());
        answer.headers_mut().insert("X-Load-Balancing-Endpoint-Weight", (*count).into());
        answer
    }
}

/// Serves health and metrics until `shutdown`.
pub(crate) fn serve(
    config: &Config,
    health: Arc<Health>,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let mut servers = tokio::task::JoinSet::new();
    if let Some(at) = config.healthz_bind_address {
        let handler: Handler = Arc::new(move |path| match path {
            "/healthz" => health.answer(false),
            "/livez" => health.answer(true),
            _ => answer(404, "text/plain", "404 page not found\n"),
        });
        servers.spawn(http::serve(at, "healthz", handler, shutdown.clone()));
    }
    if let Some(at) = config.metrics_bind_address {
        let handler: Handler = Arc::new(|path| match path {
            "/metrics" => metrics(),
            "/healthz" => answer(200, "text/plain", "ok"),
            "/proxyMode" => answer(200, "text/plain", "nftables"),
            _ => answer(404, "text/plain", "404 page not found\n"),
        });
        servers.spawn(http::serve(at, "metrics", handler, shutdown));
    }
    async move { while servers.join_next().await.is_some() {} }
}

fn metrics() -> Answer {
    let mut text = Vec::new();
    let encoder = prometheus::TextEncoder::new();
    match encoder.encode(&prometheus::gather(), &mut text) {
        Ok(()) => answer(200, encoder.format_type(), text),
        Err(error) => answer(500, "text/plain", error.to_string()),
    }
}
