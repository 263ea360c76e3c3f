//! Lifecycle hooks: postStart and preStop.

use std::time::Duration;

use isopod_cri::v1;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::http_call;
use crate::kubelet::Kubelet;

/// Runs a hook to its end, or for `limit`.
///
/// # Errors
/// What went wrong.
pub(crate) async fn run(
    kubelet: &Kubelet,
    handler: &LifecycleHandler,
    c: &Container,
    container_id: &str,
    pod_ip: &str,
    limit: Duration,
) -> Result<(), String> {
    let work = async {
        if let Some(e) = &handler.exec {
            let cmd = e.command.clone().unwrap_or_default();
            let request = v1::ExecSyncRequest {
                container_id: container_id.to_owned(),
                cmd: cmd.clone(),
                timeout: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            };
            let answer = kubelet.runtime.exec_sync(request).await.map_err(|e| e.message)?;
            return match answer.exit_code {
                0 => Ok(()),
                code => Err(format!("command '{}' exited with {code}: {}", cmd.join(" "), output(&answer))),
            };
        }
        if let Some(h) = &handler.http_get {
            let answer = http_call::get(h, c, pod_ip, "kube-lifecycle/1.36", limit).await?;
            // Upstream counts any answer below 400 as done.
            return if answer.status < 400 {
                Ok(())
            } else {
                Err(format!("HTTP lifecycle hook got status {}", answer.status))
            };
        }
        if let Some(s) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(s.seconds.max(0).unsigned_abs())).await;
            return Ok(());
        }
        Err("invalid handler: neither exec, httpGet nor sleep".to_owned())
    };
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(format!("hook did not finish within {}s", limit.as_secs())),
    }
}

/// Output of a command, clipped for an event.
pub(crate) fn output(answer: &v1::ExecSyncResponse) -> String {
    let mut bytes = answer.stdout.clone();
    bytes.extend_from_slice(&answer.stderr);
    bytes.truncate(10 << 10);
    String::from_utf8_lossy(&bytes).into_owned()
}
