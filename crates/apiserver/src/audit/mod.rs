//! The audit log: who did what, when, and how it ended.
//!
//! A request gets a [`Record`] if the policy wants it recorded; what happens to the request is noted there, and at
//! each stage an event is made and handed to the [`log`] writer, which never makes a request wait. The answer's
//! event is made when the answer is complete: for watches and streams when the last holder of the record lets go
//! of it, which is also what happens to a request whose client went away. The server's own writes, made outside of
//! any request, are not recorded; upstream records them as `system:apiserver`.

mod event;
pub mod log;
mod record;

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use http::HeaderMap;
use isopod_api::Value;
use isopod_api::identity::UserInfo;
use isopod_client::Clock;
use isopod_rules::audit::{Level, Policy, PolicyError, Stage, Subject};
use prometheus::{IntCounter, IntCounterVec, opts};

pub(crate) use record::Record;

use crate::request_info::RequestInfo;

/// Longest `Audit-ID` that is taken over from a client, as upstream.
const AUDIT_ID_BYTES_MAX: usize = 64;
/// Longest user agent that is recorded, as upstream.
const USER_AGENT_BYTES_MAX: usize = 1024;

/// What is recorded, and where.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// What is recorded.
    pub policy: Policy,
    /// Where.
    pub log: log::Config,
}

/// Why auditing cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The policy's file is neither YAML nor JSON.
    #[error("the audit policy is not YAML: {0}")]
    Yaml(String),
    /// The policy says nothing that can be followed.
    #[error("audit policy: {0}")]
    Policy(#[from] PolicyError),
    /// The log cannot be opened.
    #[error("the audit log {path:?} cannot be opened")]
    Open {
        /// Where.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        error: std::io::Error,
    },
}

/// Reads a policy's file: YAML or JSON.
///
/// # Errors
/// When it is not a policy.
pub fn parse_policy(text: &str) -> Result<Policy, Error> {
    let document: Value = serde_yaml_ng::from_str(text).map_err(|e| Error::Yaml(e.to_string()))?;
    Ok(Policy::parse(document)?)
}

/// Events made, those lost, and requests by level, under upstream's names.
static EVENTS: LazyLock<IntCounter> = LazyLock::new(|| {
    let opts = opts!(
        "apiserver_audit_event_total",
        "Counter of audit events generated and sent to the audit backend."
    );
    crate::metrics::register(IntCounter::with_opts(opts))
});
static ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let opts = opts!(
        "apiserver_audit_error_total",
        "Counter of audit events that failed to be recorded, by plugin."
    );
    crate::metrics::register(IntCounterVec::new(opts, &["plugin"]))
});
static LEVELS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let opts = opts!(
        "apiserver_audit_level_total",
        "Counter of policy levels for audit events, one for each request."
    );
    crate::metrics::register(IntCounterVec::new(opts, &["level"]))
});
/// The counters of the levels, found once.
static BY_LEVEL: LazyLock<[IntCounter; 4]> = LazyLock::new(|| {
    [Level::None, Level::Metadata, Level::Request, Level::RequestResponse]
        .map(|level| LEVELS.with_label_values(&[level.name()]))
});

/// Counts events that were made and could not be kept.
fn lost(events: u64) {
    ERRORS.with_label_values(&["log"]).inc_by(events);
}

/// The address a connection came from. Set as a request extension by the connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerAddress(pub SocketAddr);

/// Auditing of one server.
pub(crate) struct Audit {
    policy: Policy,
    writer: Arc<log::Writer>,
    clock: Arc<dyn Clock>,
}

impl Audit {
    /// Opens the log.
    pub(crate) fn new(config: &Config, clock: Arc<dyn Clock>) -> Result<Audit, Error> {
        let writer = Arc::new(log::Writer::open(&config.log, Arc::clone(&clock))?);
        // Shown from the start, also while nothing is lost.
        lost(0);
        Ok(Audit { policy: config.policy.clone(), writer, clock })
    }

    /// The record of a request, if the policy wants one; its `RequestReceived` event is made. `user` is `None`
    /// when authentication failed.
    pub(crate) fn begin(
        &self,
        id: &str,
        parts: &http::request::Parts,
        info: &RequestInfo,
        user: Option<&UserInfo>,
    ) -> Option<Arc<Record>> {
        let subject = Subject {
            user,
            verb: &info.verb,
            is_resource: info.is_resource,
            group: &info.group,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            path: &info.path,
        };
        let judgement = self.policy.judge(&subject);
        BY_LEVEL[judgement.level as usize].inc();
        if judgement.level == Level::None {
            return None;
        }
        let record = Record::new(judgement, id, parts, info, user, &self.writer, &self.clock);
        record.event(Stage::RequestReceived);
        Some(record)
    }

    /// Waits until what was recorded so far is written.
    pub(crate) fn flush(&self) {
        self.writer.flush();
    }
}

/// The id of a request: the client's own, if it sent a fit one.
pub(crate) fn id_of(headers: &HeaderMap) -> String {
    let sent = headers.get("audit-id").and_then(|v| v.to_str().ok());
    let fit = |id: &&str| {
        !id.is_empty()
            && id.len() <= AUDIT_ID_BYTES_MAX
            && id.bytes().all(|b| b.is_ascii_graphic() && b != b'"')
    };
    sent.filter(fit).map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned)
}

/// Where a request came from: what proxies say, then the address of the connection.
fn source_addresses(parts: &http::request::Parts) -> Vec<String> {
    let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let address = |text: &str| text.trim().parse::<std::net::IpAddr>().ok();
    let mut found: Vec<std::net::IpAddr> = header("x-forwarded-for").split(',').filter_map(address).collect();
    let real = address(header("x-real-ip")).filter(|a| found.first() != Some(a));
    found.extend(real);
    let peer = parts.extensions.get::<PeerAddress>().map(|p| p.0.ip().to_canonical());
    let peer = peer.filter(|a| found.last() != Some(a));
    found.extend(peer);
    found.iter().map(ToString::to_string).collect()
}

/// The start of the user agent.
fn user_agent(headers: &HeaderMap) -> String {
    let agent = headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    // Header values that are text are ASCII, so any byte is a boundary.
    match agent.get(..USER_AGENT_BYTES_MAX) {
        Some(start) if agent.len() > USER_AGENT_BYTES_MAX => format!("{start}...TRUNCATED"),
        _ => agent.to_owned(),
    }
}
