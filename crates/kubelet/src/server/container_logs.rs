//! `/containerLogs/{namespace}/{pod}/{container}`: what `kubectl logs` reads.

use std::sync::Arc;

use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use isopod_podplan::spec;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::{Body, Query, plain};
use crate::container_config::log_path;
use crate::kubelet::Kubelet;
use crate::logs::read::{self, Options};
use crate::pods::PodShared;
use crate::sandbox_config::log_directory;

/// Blocks of a log on their way to a slow client.
const QUEUE: usize = 4;

pub(super) async fn serve(
    kubelet: &Arc<Kubelet>,
    namespace: &str,
    name: &str,
    container: &str,
    query: &Query,
) -> Response<Body> {
    let Some(pod) = kubelet.pods.find(namespace, name, None) else {
        return plain(StatusCode::NOT_FOUND, &format!("pod \"{name}\" not found\n"));
    };
    let options = match options(query, kubelet.now()) {
        Ok(options) => options,
        Err(text) => return plain(StatusCode::UNPROCESSABLE_ENTITY, &text),
    };
    let (id, attempt) = match instance(&pod, container, query.flag(&["previous"])) {
        Ok(found) => found,
        Err(text) => return plain(StatusCode::BAD_REQUEST, &text),
    };
    let path = log_directory(kubelet, &pod.pod()).join(log_path(container, attempt));
    if !path.exists() {
        let text = format!("unable to retrieve container logs for {}://{id}", kubelet.runtime_version.0);
        return plain(StatusCode::OK, &text);
    }
    let (tx, rx) = mpsc::channel(QUEUE);
    let changed = kubelet.pods.subscribe();
    let failed = tx.clone();
    tokio::spawn(async move {
        let running = || pod.view().observed.by_id(&id).is_some_and(|c| c.running());
        if let Err(error) = read::stream(path, options, changed, running, tx).await {
            let _ = failed.send(Err(error)).await;
        }
    });
    let body = StreamBody::new(ReceiverStream::new(rx).map(|chunk| chunk.map(Frame::data)));
    Response::builder()
        .header(http::header::CONTENT_TYPE, "text/plain")
        .body(BodyExt::boxed(body))
        .expect("the header is valid")
}

/// The instance whose log is asked for: id and attempt.
fn instance(p: &PodShared, container: &str, previous: bool) -> Result<(String, u32), String> {
    let pod = p.pod();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let view = p.view();
    if spec::find(&pod, container).is_none() {
        return Err(format!("container {container:?} in pod {name:?} is not available"));
    }
    let latest = view.observed.latest(container);
    let lists = [
        &view.status.init_container_statuses,
        &view.status.container_statuses,
        &view.status.ephemeral_container_statuses,
    ];
    let waiting = lists
        .into_iter()
        .flatten()
        .flatten()
        .find(|s| s.name == container)
        .and_then(|s| s.state.as_ref()?.waiting.as_ref()?.reason.clone());
    if previous {
        // While it waits for its next start, the instance that just ended is the previous one.
        let found = match latest {
            Some(l) if l.exited() && waiting.is_some() => Some(l),
            Some(l) => view.observed.previous(l),
            None => None,
        };
        let found = found.ok_or_else(|| {
            format!("previous terminated container {container:?} in pod {name:?} not found")
        })?;
        return Ok((found.id.clone(), found.attempt));
    }
    match (latest, waiting) {
        (Some(l), _) => Ok((l.id.clone(), l.attempt)),
        (None, Some(reason)) => {
            let verb = if matches!(reason.as_str(), "ContainerCreating" | "PodInitializing") {
                "is waiting to start"
            } else {
                "is waiting to start: trying and failing to pull image"
            };
            let detail = if verb.ends_with("image") { String::new() } else { format!(": {reason}") };
            Err(format!("container {container:?} in pod {name:?} {verb}{detail}"))
        }
        (None, None) => Err(format!("container {container:?} in pod {name:?} is not available")),
    }
}

fn options(q: &Query, now: Timestamp) -> Result<Options, String> {
    let number = |name: &str| -> Result<Option<u64>, String> {
        match q.get(name) {
            None | Some("") => Ok(None),
            Some(v) => v.parse().map(Some).map_err(|_| format!("{name}: {v:?} is not a number")),
        }
    };
    let mut since = match q.get("sinceTime").filter(|v| !v.is_empty()) {
        Some(v) => Some(v.parse::<Timestamp>().map_err(|_| format!("sinceTime: {v:?} is not a time"))?),
        None => None,
    };
    if let Some(seconds) = number("sinceSeconds")? {
        let d = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
        since = Some(now.checked_sub(d).unwrap_or(Timestamp::MIN));
    }
    let stderr = match q.get("stream") {
        None | Some("" | "All") => None,
        Some("Stdout") => Some(false),
        Some("Stderr") => Some(true),
        Some(other) => return Err(format!("stream: unsupported value {other:?}")),
    };
    Ok(Options {
        follow: q.flag(&["follow"]),
        timestamps: q.flag(&["timestamps"]),
        tail: number("tailLines")?,
        since,
        limit_bytes: number("limitBytes")?,
        stderr,
    })
}
