//! `exec`, `attach`, `portForward` and `run`.
//!
//! The kubelet does not speak the stream protocols: it asks the runtime for a URL, passes the client's upgrade
//! request on to it, and after a 101 carries bytes both ways. Any other answer goes to the client as it is,
//! and the connection to the runtime is used for nothing else.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use isopod_cri::v1;
use isopod_podplan::observed::ContainerState;

use super::{Body, Query, plain};
use crate::kubelet::Kubelet;

/// Answers of the runtime that are no upgrade are short.
const ANSWER_MAX: usize = 1 << 20;

/// Namespace, name, and uid where the path has one.
pub(super) type PodPath<'a> = (&'a str, &'a str, Option<&'a str>);

fn bad(error: &isopod_cri::Error) -> Response<Body> {
    let status = if error.is_not_found() { StatusCode::NOT_FOUND } else { StatusCode::INTERNAL_SERVER_ERROR };
    plain(status, &error.message)
}

/// Id of the running container.
fn find(kubelet: &Kubelet, path: PodPath<'_>, container: &str) -> Result<String, Box<Response<Body>>> {
    let missing = |text: String| Box::new(plain(StatusCode::NOT_FOUND, &text));
    let Some(pod) = kubelet.pods.find(path.0, path.1, path.2) else {
        return Err(missing("pod does not exist".into()));
    };
    let view = pod.view();
    match view.observed.latest(container) {
        Some(c) if c.state == ContainerState::Running => Ok(c.id.clone()),
        _ => Err(missing(format!("container not found ({container:?})"))),
    }
}

/// `exec` and `attach`.
pub(super) async fn container(
    kubelet: &Arc<Kubelet>,
    what: &str,
    path: PodPath<'_>,
    container: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    let container_id = match find(kubelet, path, container) {
        Ok(id) => id,
        Err(answer) => return *answer,
    };
    let q = Query::of(&request);
    let (stdin, stdout) = (q.flag(&["input", "stdin"]), q.flag(&["output", "stdout"]));
    let (stderr, tty) = (q.flag(&["error", "stderr"]), q.flag(&["tty"]));
    if !(stdin || stdout || stderr) {
        return plain(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr");
    }
    let stderr = stderr && !tty;
    let url = if what == "exec" {
        let cmd = q.all("command");
        let request = v1::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr };
        kubelet.runtime.exec(request).await.map(|a| a.url)
    } else {
        let request = v1::AttachRequest { container_id, stdin, tty, stdout, stderr };
        kubelet.runtime.attach(request).await.map(|a| a.url)
    };
    match url {
        Ok(url) => tunnel(kubelet, &url, request).await,
        Err(error) => bad(&error),
    }
}

/// `portForward`.
pub(super) async fn port_forward(
    kubelet: &Arc<Kubelet>,
    path: PodPath<'_>,
    request: Request<Incoming>,
) -> Response<Body> {
    let Some(pod) = kubelet.pods.find(path.0, path.1, path.2) else {
        return plain(StatusCode::NOT_FOUND, "pod does not exist");
    };
    let view = pod.view();
    let Some(sandbox) = view.observed.active_sandbox() else {
        return plain(StatusCode::NOT_FOUND, "pod does not run");
    };
    let port: Vec<i32> = Query::of(&request).all("port").iter().filter_map(|p| p.parse().ok()).collect();
    let ask = v1::PortForwardRequest { pod_sandbox_id: sandbox.id.clone(), port };
    match kubelet.runtime.port_forward(ask).await {
        Ok(answer) => tunnel(kubelet, &answer.url, request).await,
        Err(error) => bad(&error),
    }
}

/// `run`: a command, its output, no streams.
pub(super) async fn run(
    kubelet: &Arc<Kubelet>,
    path: PodPath<'_>,
    container: &str,
    query: &Query,
) -> Response<Body> {
    let container_id = match find(kubelet, path, container) {
        Ok(id) => id,
        Err(answer) => return *answer,
    };
    let cmd: Vec<String> =
        query.get("cmd").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    match kubelet.runtime.exec_sync(v1::ExecSyncRequest { container_id, cmd, timeout: 0 }).await {
        Ok(a) if a.exit_code == 0 => {
            let mut out = a.stdout;
            out.extend_from_slice(&a.stderr);
            super::answer(StatusCode::OK, "text/plain; charset=utf-8", out.into())
        }
        Ok(a) => {
            let text = format!("command exited with {}: {}", a.exit_code, crate::hooks::output(&a));
            plain(StatusCode::INTERNAL_SERVER_ERROR, &text)
        }
        Err(error) => bad(&error),
    }
}

/// Headers that an upgrade needs; nothing else of the client's request concerns the runtime, its credentials
/// least of all.
fn passed_on(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &http::HeaderValue)> {
    headers.iter().filter(|(name, _)| {
        let n = name.as_str();
        matches!(n, "connection" | "upgrade" | "origin" | "content-type" | "x-stream-protocol-version")
            || n.starts_with("sec-websocket-")
    })
}

async fn tunnel(kubelet: &Arc<Kubelet>, url: &str, mut request: Request<Incoming>) -> Response<Body> {
    match try_tunnel(kubelet, url, &mut request).await {
        Ok(answer) => answer,
        Err(text) => {
            tracing::debug!(text, "stream");
            plain(StatusCode::BAD_GATEWAY, &text)
        }
    }
}

async fn try_tunnel(
    kubelet: &Arc<Kubelet>,
    url: &str,
    request: &mut Request<Incoming>,
) -> Result<Response<Body>, String> {
    let uri: Uri = url.parse().map_err(|e| format!("streaming URL: {e}"))?;
    let io = kubelet.streaming.dial(url).await.map_err(|e| e.message)?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(io)).await.map_err(|e| format!("runtime: {e}"))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "stream to the runtime");
        }
    });
    let mut onward = Request::builder()
        .method(request.method().clone())
        .uri(uri.path_and_query().map_or("/", |p| p.as_str()))
        .header(header::HOST, uri.authority().map_or("runtime", |a| a.as_str()));
    for (name, value) in passed_on(request.headers()) {
        onward = onward.header(name, value);
    }
    let onward = onward.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let mut response = sender.send_request(onward).await.map_err(|e| format!("runtime: {e}"))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return short_answer(response).await;
    }
    let theirs = hyper::upgrade::on(&mut response);
    let ours = hyper::upgrade::on(request);
    let shutdown = kubelet.shutdown.clone();
    tokio::spawn(async move {
        let (Ok(theirs), Ok(ours)) = tokio::join!(theirs, ours) else { return };
        let (mut theirs, mut ours) = (TokioIo::new(theirs), TokioIo::new(ours));
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut ours, &mut theirs) => {}
            () = shutdown.cancelled() => {}
        }
    });
    let mut answer = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    for (name, value) in passed_on(response.headers()) {
        answer = answer.header(name, value);
    }
    answer.body(Empty::new().map_err(|never| match never {}).boxed()).map_err(|e| e.to_string())
}

async fn short_answer(response: Response<Incoming>) -> Result<Response<Body>, String> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_MAX).collect().await.map_err(|e| e.to_string())?.to_bytes();
    let kind = head.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("text/plain");
    Ok(super::answer(head.status, kind, body))
}
