//! Tells the API the status of one pod: the newest only, in order, what changed only; and deletes the pod from
//! the API once nothing of it is left to run.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::kubelet::Kubelet;
use crate::pods::PodShared;

const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// What the API is to be told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) status: PodStatus,
    /// The pod was deleted and nothing of it is left: take it out of the API.
    pub(crate) finished: bool,
}

/// Writes reports until the sender is dropped.
pub(crate) async fn run(
    kubelet: Arc<Kubelet>,
    shared: Arc<PodShared>,
    mut reports: watch::Receiver<Option<Report>>,
) {
    let mut writer = Writer { kubelet, shared, base: None };
    while reports.changed().await.is_ok() {
        let mut pause = RETRY_MIN;
        loop {
            let Some(report) = reports.borrow_and_update().clone() else { break };
            match writer.write(&report).await {
                Ok(()) => break,
                Err(error) => {
                    let pod = super::name_of(&writer.shared.pod());
                    tracing::debug!(pod, error = &error as &dyn std::error::Error, "write pod status");
                    // A newer report need not wait for an older one's turn.
                    let _ = tokio::time::timeout(pause, reports.changed()).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }
}

struct Writer {
    kubelet: Arc<Kubelet>,
    shared: Arc<PodShared>,
    /// The status that the API has, and whose.
    base: Option<(String, PodStatus)>,
}

impl Writer {
    async fn write(&mut self, report: &Report) -> Result<(), kube::Error> {
        let Some(pod) = self.shared.api_pod() else { return Ok(()) };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let name = pod.metadata.name.clone().unwrap_or_default();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let api: Api<Pod> = Api::namespaced(self.kubelet.client.clone(), namespace);
        let base = match self.base.take() {
            Some((whose, base)) if whose == uid => base,
            _ => pod.status.clone().unwrap_or_default(),
        };
        let diff = difference(&base, &report.status);
        self.base = Some((uid.clone(), base));
        if !diff.is_empty() {
            let patch = json!({"metadata": {"uid": uid}, "status": diff});
            match api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(_) => {
                    tracing::debug!(
                        pod = super::name_of(&pod),
                        phase = report.status.phase,
                        "status written"
                    );
                    self.base = Some((uid.clone(), report.status.clone()));
                }
                Err(error) if gone(&error) => return Ok(()),
                Err(error) => {
                    // Others may have written meanwhile; the next try compares with what the API has.
                    self.base = None;
                    return Err(error);
                }
            }
        }
        if report.finished {
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
                ..DeleteParams::default()
            };
            match api.delete(&name, &params).await {
                Err(error) if !gone(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The pod is not there any more, or another has its name.
fn gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || status.code == 409)
}

/// A strategic merge patch of the status: what changed, and `null` for what went.
pub(crate) fn difference(from: &PodStatus, to: &PodStatus) -> Map<String, Value> {
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) =
        (serde_json::to_value(from), serde_json::to_value(to))
    else {
        return Map::new();
    };
    let mut out = Map::new();
    for (key, value) in &new {
        if old.get(key) == Some(value) {
            continue;
        }
        let patch = match key.as_str() {
            // Merged by type: conditions that others write stay as they are.
            "conditions" => conditions(from.conditions.as_deref(), to.conditions.as_deref()),
            // Merged by address: the list is meant as a whole.
            "podIPs" | "hostIPs" if old.contains_key(key) => replace(value),
            _ => value.clone(),
        };
        out.insert(key.clone(), patch);
    }
    for key in old.keys().filter(|k| !new.contains_key(*k)) {
        out.insert(key.clone(), Value::Null);
    }
    out
}

fn conditions(from: Option<&[PodCondition]>, to: Option<&[PodCondition]>) -> Value {
    let from = from.unwrap_or_default();
    let changed = to.unwrap_or_default().iter().filter(|c| !from.contains(c)).map(|c| {
        let mut value = serde_json::to_value(c).unwrap_or_default();
        // A patch merges; what the condition had and has not any more must be named to go.
        if let (Some(old), Value::Object(map)) = (from.iter().find(|o| o.type_ == c.type_), &mut value) {
            for (key, gone) in [("reason", old.reason.is_some()), ("message", old.message.is_some())] {
                if gone {
                    map.entry(key).or_insert(Value::Null);
                }
            }
        }
        value
    });
    Value::Array(changed.collect())
}

fn replace(list: &Value) -> Value {
    let mut out = vec![json!({"$patch": "replace"})];
    out.extend(list.as_array().into_iter().flatten().cloned());
    Value::Array(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(v: Value) -> PodStatus {
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn only_what_changed() {
        let from = status(json!({
            "phase": "Pending", "message": "m", "hostIP": "1.1.1.1", "podIPs": [{"ip": "1.2.3.4"}],
            "conditions": [
                {"type": "Ready", "status": "False", "reason": "ContainersNotReady"},
                {"type": "PodScheduled", "status": "True"}],
        }));
        let to = status(json!({
            "phase": "Running", "hostIP": "1.1.1.1", "podIPs": [{"ip": "1.2.3.5"}],
            "conditions": [
                {"type": "Ready", "status": "True"},
                {"type": "PodScheduled", "status": "True"}],
        }));
        assert_eq!(
            Value::Object(difference(&from, &to)),
            json!({
                "phase": "Running", "message": null,
                "podIPs": [{"$patch": "replace"}, {"ip": "1.2.3.5"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": null}],
            })
        );
        assert!(difference(&to, &to).is_empty());
    }
}
