//! `/healthz`, `/livez`, `/readyz`: each a list of named checks.

use std::time::Duration;

use http::Response;

use crate::body::Body;
use crate::context::Ctx;
use crate::respond;
use crate::server::ApiServer;

/// The store must answer a trivial read within this time.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// Checks of every endpoint; `readyz` adds those of [`READY_ONLY`].
const CHECKS: &[&str] = &["ping", "log", "etcd", "poststarthook/start-kube-apiserver-admission-initializer"];
const READY_ONLY: &[&str] =
    &["etcd-readiness", "informer-sync", "poststarthook/rbac/bootstrap-roles", "shutdown"];

async fn check(server: &ApiServer, name: &str) -> Result<(), String> {
    match name {
        "etcd" | "etcd-readiness" => {
            match tokio::time::timeout(STORE_TIMEOUT, server.registry().feed.current()).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the store does not answer in time".to_owned()),
            }
        }
        "informer-sync" if server.registry().feed.progress() == 0 => {
            Err("the store is not followed yet".to_owned())
        }
        "poststarthook/rbac/bootstrap-roles" if !server.ready() && !server.shutdown().is_cancelled() => {
            Err("not finished".to_owned())
        }
        "shutdown" if server.shutdown().is_cancelled() => Err("process is shutting down".to_owned()),
        _ => Ok(()),
    }
}

/// Answers `/readyz`, `/readyz/NAME`, and so on.
pub(crate) async fn serve(server: &ApiServer, ctx: &Ctx, segments: &[&str]) -> Response<Body> {
    let endpoint = segments[0];
    let names: Vec<&str> =
        CHECKS.iter().chain(READY_ONLY.iter().filter(|_| endpoint == "readyz")).copied().collect();
    if segments.len() > 1 {
        let name = segments[1..].join("/");
        if !names.contains(&name.as_str()) {
            return respond::text(404, "404 page not found\n");
        }
        return match check(server, &name).await {
            Ok(()) => respond::text(200, "ok"),
            Err(why) => respond::text(500, format!("internal server error: {why}\n")),
        };
    }
    let excluded: Vec<&str> = ctx.query.all("exclude").collect();
    let mut lines = String::new();
    let mut failed = false;
    for name in names {
        if excluded.contains(&name) {
            lines.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        match check(server, name).await {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(why) => {
                tracing::warn!(endpoint, check = name, why, "health check failed");
                lines.push_str(&format!("[-]{name} failed: reason withheld\n"));
                failed = true;
            }
        }
    }
    if failed {
        return respond::text(500, format!("{lines}{endpoint} check failed\n"));
    }
    if ctx.query.has("verbose") {
        return respond::text(200, format!("{lines}{endpoint} check passed\n"));
    }
    respond::text(200, "ok")
}
