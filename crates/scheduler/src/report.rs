//! What the scheduler tells: bindings, events, the PodScheduled condition.

use crate::{Scheduler, metrics};
use isopod_client::{Clock, EventType, SystemClock, object_reference};
use isopod_scheduling::PodInfo;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::sync::Arc;
use tokio::time::Instant;
use tracing::{debug, warn};

impl Scheduler {
    pub(crate) async fn bind(&self, pod: Arc<PodInfo>, node: String, began: Instant) {
        let (namespace, name) = (pod.namespace(), pod.name());
        let body = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let request = http::Request::post(format!("/api/v1/namespaces/{namespace}/pods/{name}/binding"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body.to_string().into_bytes())
            .expect("names are valid in a path");
        match self.client.request::<serde_json::Value>(request).await {
            Ok(_) => {
                self.state.lock().bound(&pod.uid);
                metrics::bound(began.elapsed());
                let message = format!("Successfully assigned {namespace}/{name} to {node}");
                let object = object_reference(pod.pod.as_ref());
                self.recorder.action(object, EventType::Normal, "Scheduled", "Binding", message);
            }
            Err(error) => {
                warn!(namespace, name, node, %error, "binding failed");
                self.observe(|state, now| state.unassume(&pod.uid, now));
                let gone = matches!(&error, kube::Error::Api(status) if status.code == 404);
                if !gone {
                    let message = format!("running Bind plugin \"DefaultBinder\": {error}");
                    self.failed(&pod, "SchedulerError", &message).await;
                }
            }
        }
    }

    pub(crate) async fn report_unschedulable(&self, pod: &PodInfo, message: &str) {
        self.failed(pod, "Unschedulable", message).await;
    }

    async fn failed(&self, pod: &PodInfo, reason: &str, message: &str) {
        let object = object_reference(pod.pod.as_ref());
        self.recorder.action(object, EventType::Warning, "FailedScheduling", "Scheduling", message);
        if has_condition(&pod.pod, reason, message) {
            return;
        }
        let patch = json!({"status": {"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "observedGeneration": pod.pod.metadata.generation,
            "lastProbeTime": null, "lastTransitionTime": transition(&pod.pod),
        }]}, "metadata": {"uid": pod.uid}});
        let api: Api<Pod> = Api::namespaced(self.client.clone(), pod.namespace());
        if let Err(error) =
            api.patch_status(pod.name(), &PatchParams::default(), &Patch::Strategic(patch)).await
        {
            debug!(namespace = pod.namespace(), name = pod.name(), %error, "condition not written");
        }
    }
}

fn scheduled_condition(pod: &Pod) -> Option<&k8s_openapi::api::core::v1::PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "PodScheduled")
}

fn has_condition(pod: &Pod, reason: &str, message: &str) -> bool {
    scheduled_condition(pod).is_some_and(|c| {
        c.status == "False" && c.reason.as_deref() == Some(reason) && c.message.as_deref() == Some(message)
    })
}

/// When the condition became false: kept while it stays so.
fn transition(pod: &Pod) -> String {
    let kept =
        scheduled_condition(pod).filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
    let at = kept.map_or_else(|| SystemClock.now(), |t| t.0);
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
