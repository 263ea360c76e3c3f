//! Health, version and metrics over plain HTTP.
//!
//! `/health` is for balancers; `/livez` and `/readyz` say check by check whether a restart would help and whether
//! requests should come. The checks have etcd's names; two are our own: `log_writable` and `disk_space`.

use std::fmt::Write;
use std::time::Duration;

use hyper::{Method, Response, StatusCode, Uri, header};
use isopod_kv::{AlarmType, RangeRequest};
use prometheus::{Encoder, TextEncoder};
use tonic::body::Body;

use crate::engine::{Engine, VERSION};

/// How long a check may take: etcd's with its default election timeout.
const CHECK_TIMEOUT: Duration = Duration::from_secs(7);

/// A health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
    LogWritable,
    DiskSpace,
}

/// A full disk does not make a restart useful; a log in an unknown state does.
const LIVEZ: &[Check] = &[Check::SerializableRead, Check::LogWritable];
const READYZ: &[Check] = &[
    Check::DataCorruption,
    Check::SerializableRead,
    Check::LinearizableRead,
    Check::NonLearner,
    Check::LogWritable,
    Check::DiskSpace,
];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
            Check::LogWritable => "log_writable",
            Check::DiskSpace => "disk_space",
        }
    }

    async fn run(self, engine: &Engine) -> Result<(), String> {
        let shared = engine.shared();
        let fails = |bad: bool, reason: &str| if bad { Err(reason.to_owned()) } else { Ok(()) };
        match self {
            Check::DataCorruption => {
                fails(shared.state.read().has_alarm(AlarmType::Corrupt), "alarm activated: CORRUPT")
            }
            Check::SerializableRead => read(engine, true).await,
            Check::LinearizableRead => read(engine, false).await,
            Check::NonLearner => fails(engine.status().is_learner, "not supported for learner"),
            Check::LogWritable => fails(shared.is_log_failed(), "the log cannot be written"),
            Check::DiskSpace => fails(shared.is_disk_full(), "no space left for the log"),
        }
    }
}

async fn read(engine: &Engine, serializable: bool) -> Result<(), String> {
    let request = RangeRequest { serializable, count_only: true, ..RangeRequest::key(&b"\0"[..]) };
    match tokio::time::timeout(CHECK_TIMEOUT, engine.range(&request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("range error: {error}")),
        Err(_) => Err("range error: timed out".to_owned()),
    }
}

/// Answers a request that is not gRPC.
pub(super) async fn answer(engine: &Engine, method: Method, uri: Uri) -> Response<Body> {
    if !matches!(method, Method::GET | Method::HEAD) {
        return respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "method not allowed\n".to_owned());
    }
    let query = Query(uri.query().unwrap_or(""));
    match uri.path() {
        "/health" => health(engine, query).await,
        "/version" => {
            let body =
                format!(r#"{{"etcdserver":"{VERSION}","etcdcluster":"{VERSION}","storage":"{VERSION}"}}"#);
            respond(StatusCode::OK, "application/json", body)
        }
        "/metrics" => metrics(),
        path => match checks(path) {
            Some((kind, checks)) => run(engine, kind, &checks, query).await,
            None => respond(StatusCode::NOT_FOUND, TEXT, "404 page not found\n".to_owned()),
        },
    }
}

/// The checks that a path names: all of a kind, or one.
fn checks(path: &str) -> Option<(&'static str, Vec<Check>)> {
    for (kind, all) in [("livez", LIVEZ), ("readyz", READYZ)] {
        let Some(rest) = path.strip_prefix('/').and_then(|path| path.strip_prefix(kind)) else { continue };
        if rest.is_empty() {
            return Some((kind, all.to_vec()));
        }
        let one = all.iter().find(|check| rest.strip_prefix('/') == Some(check.name()))?;
        return Some((kind, vec![*one]));
    }
    None
}

async fn run(engine: &Engine, kind: &'static str, checks: &[Check], query: Query<'_>) -> Response<Body> {
    let (mut report, mut good) = (String::new(), true);
    for check in checks.iter().filter(|check| !query.excludes(check.name())) {
        let name = check.name();
        let outcome = check.run(engine).await;
        crate::metrics::health_check(kind, name, outcome.is_ok());
        let _ = match outcome {
            Ok(()) => writeln!(report, "[+]{name} ok"),
            Err(reason) => {
                good = false;
                writeln!(report, "[-]{name} failed: {reason}")
            }
        };
    }
    match (good, query.has("verbose")) {
        (true, true) => respond(StatusCode::OK, TEXT, report + "ok\n"),
        (true, false) => respond(StatusCode::OK, TEXT, "ok\n".to_owned()),
        (false, _) => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, report),
    }
}

async fn health(engine: &Engine, query: Query<'_>) -> Response<Body> {
    let reason = unhealthy(engine, query).await;
    crate::metrics::health(reason.is_none());
    let (status, healthy) = match reason {
        None => (StatusCode::OK, "true"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "false"),
    };
    let reason = reason.unwrap_or_default().replace(['"', '\\'], "'");
    respond(status, "application/json", format!(r#"{{"health":"{healthy}","reason":"{reason}"}}"#))
}

/// What is wrong, if anything is.
async fn unhealthy(engine: &Engine, query: Query<'_>) -> Option<String> {
    let serializable = query.value("serializable") == Some("true");
    for alarm in engine.shared().state.read().alarms() {
        let name = match AlarmType::try_from(alarm.alarm) {
            Ok(AlarmType::NoSpace) => "NOSPACE",
            Ok(AlarmType::Corrupt) => "CORRUPT",
            _ => "UNKNOWN",
        };
        if !query.excludes(name) {
            return Some(format!("ALARM {name}"));
        }
    }
    if !serializable && engine.status().leader == 0 {
        return Some("RAFT NO LEADER".to_owned());
    }
    if engine.shared().is_log_failed() {
        return Some("LOG FAILED".to_owned());
    }
    if engine.shared().is_disk_full() && !query.excludes("NOSPACE") {
        return Some("DISK FULL".to_owned());
    }
    read(engine, serializable).await.err().map(|error| format!("RANGE ERROR:{error}"))
}

/// The part of a URL behind the question mark. The names and values that mean something here need no escapes.
#[derive(Clone, Copy)]
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn pairs(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    fn value(self, name: &str) -> Option<&'a str> {
        self.pairs().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    fn has(self, name: &str) -> bool {
        self.value(name).is_some()
    }

    fn excludes(self, name: &str) -> bool {
        self.pairs().any(|pair| pair == ("exclude", name))
    }
}

fn metrics() -> Response<Body> {
    crate::metrics::scrape();
    let mut body = Vec::new();
    let encoder = TextEncoder::new();
    match encoder.encode(&prometheus::gather(), &mut body) {
        Ok(()) => {
            let body = String::from_utf8_lossy(&body).into_owned();
            respond(StatusCode::OK, encoder.format_type(), body)
        }
        Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

fn respond(status: StatusCode, content_type: &str, body: String) -> Response<Body> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, content_type)
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .body(Body::new(http_body_util::Full::new(bytes::Bytes::from(body))))
        .expect("fixed header names and content types are valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_checks() {
        let names = |path: &str| {
            checks(path).map(|(kind, checks)| {
                let names: Vec<_> = checks.iter().map(|check| check.name()).collect();
                format!("{kind} {}", names.join(" "))
            })
        };
        assert_eq!(names("/livez").as_deref(), Some("livez serializable_read log_writable"));
        assert_eq!(names("/readyz/non_learner").as_deref(), Some("readyz non_learner"));
        assert_eq!(names("/readyz/"), None);
        assert_eq!(names("/livez/non_learner"), None);
        assert_eq!(names("/readyzz"), None);
    }

    #[test]
    fn queries_exclude() {
        let query = Query("verbose&exclude=a&exclude=b&serializable=true");
        assert!(query.has("verbose") && query.excludes("a") && query.excludes("b") && !query.excludes("c"));
        assert_eq!(query.value("serializable"), Some("true"));
        assert!(!Query("").has("verbose"));
    }
}
