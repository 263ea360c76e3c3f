//! The node's status: addresses, capacity, conditions, images; written when it changes and now and then.

use std::sync::Arc;
use std::time::Duration;

use isopod_cri::v1;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerImage, Node, NodeAddress, NodeCondition, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use super::{facts, register};
use crate::kubelet::Kubelet;

/// Most images listed, the largest first.
const IMAGES_MAX: usize = 50;
/// Most names of one image.
const IMAGE_NAMES_MAX: usize = 5;
/// While the node is not ready it is looked at more often, so that it becomes so soon.
const UNREADY_INTERVAL: Duration = Duration::from_millis(250);

/// What the runtime says of itself.
struct Runtime {
    /// Why it is not ready, if so.
    failure: Option<String>,
    network: Result<(), String>,
}

async fn runtime(kubelet: &Kubelet) -> Runtime {
    let answer = match kubelet.runtime.status(v1::StatusRequest { verbose: false }).await {
        Ok(answer) => answer.status.unwrap_or_default(),
        Err(e) => {
            let text = format!("container runtime is down: {e}");
            return Runtime { failure: Some(text.clone()), network: Err(text) };
        }
    };
    let condition = |name: &str| answer.conditions.iter().find(|c| c.r#type == name);
    let told = |c: &v1::RuntimeCondition| format!("reason:{} message:{}", c.reason, c.message);
    let failure = match condition("RuntimeReady") {
        Some(c) if c.status => None,
        Some(c) => Some(format!("container runtime not ready: RuntimeReady=false {}", told(c))),
        None => Some("container runtime status check may not have completed yet".to_owned()),
    };
    let network = match condition("NetworkReady") {
        Some(c) if !c.status => {
            Err(format!("container runtime network not ready: NetworkReady=false {}", told(c)))
        }
        _ => Ok(()),
    };
    Runtime { failure, network }
}

/// The status as it is now; times of conditions that did not change are those of `old`.
pub(crate) async fn status(kubelet: &Kubelet, old: &Node) -> NodeStatus {
    let config = &kubelet.config;
    let before = old.status.clone().unwrap_or_default();
    let runtime = runtime(kubelet).await;
    kubelet.network_ready.send_if_modified(|ready| {
        std::mem::replace(ready, runtime.network.is_ok()) != runtime.network.is_ok()
    });
    let (capacity, allocatable) = facts::resources(config);
    let mut addresses: Vec<NodeAddress> = config
        .node_ips
        .iter()
        .map(|ip| NodeAddress { address: ip.to_string(), type_: "InternalIP".into() })
        .collect();
    addresses.push(NodeAddress { address: config.node_name.clone(), type_: "Hostname".into() });
    NodeStatus {
        addresses: Some(addresses),
        allocatable: Some(allocatable),
        capacity: Some(capacity),
        conditions: Some(conditions(kubelet, &runtime, &before, kubelet.now())),
        daemon_endpoints: Some(facts::endpoints(config.port)),
        images: Some(images(kubelet).await),
        node_info: Some(facts::system(&kubelet.runtime_version)),
        ..before
    }
}

fn conditions(
    kubelet: &Kubelet,
    runtime: &Runtime,
    before: &NodeStatus,
    now: Timestamp,
) -> Vec<NodeCondition> {
    let p = *kubelet.pressure.read();
    let ready = match (&runtime.failure, &runtime.network) {
        (Some(text), _) | (None, Err(text)) => (false, "KubeletNotReady", text.clone()),
        (None, Ok(())) => (true, "KubeletReady", "kubelet is posting ready status".to_owned()),
    };
    let rows: [(&str, (bool, &str, String)); 4] = [
        (
            "MemoryPressure",
            pressure(
                p.memory,
                ["KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"],
                "memory available",
            ),
        ),
        (
            "DiskPressure",
            pressure(p.disk, ["KubeletHasDiskPressure", "KubeletHasNoDiskPressure"], "disk pressure"),
        ),
        (
            "PIDPressure",
            pressure(p.pids, ["KubeletHasInsufficientPID", "KubeletHasSufficientPID"], "PID available"),
        ),
        ("Ready", ready),
    ];
    let old = before.conditions.as_deref().unwrap_or_default();
    let mut out: Vec<NodeCondition> = rows
        .into_iter()
        .map(|(type_, (on, reason, message))| {
            let status = if on { "True" } else { "False" }.to_owned();
            let since = old
                .iter()
                .find(|c| c.type_ == type_ && c.status == status)
                .and_then(|c| c.last_transition_time.clone());
            NodeCondition {
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: Some(since.unwrap_or(Time(now))),
                message: Some(message),
                reason: Some(reason.to_owned()),
                status,
                type_: type_.to_owned(),
            }
        })
        .collect();
    // Conditions of others (a network plugin's) stay.
    out.extend(old.iter().filter(|c| !OWNED.contains(&c.type_.as_str())).cloned());
    out
}

const OWNED: [&str; 4] = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];

fn pressure(on: bool, reasons: [&'static str; 2], what: &str) -> (bool, &'static str, String) {
    let disk = what == "disk pressure";
    let text = match (on, disk) {
        (true, true) => "kubelet has disk pressure".to_owned(),
        (false, true) => "kubelet has no disk pressure".to_owned(),
        (true, false) => format!("kubelet has insufficient {what}"),
        (false, false) => format!("kubelet has sufficient {what}"),
    };
    (on, reasons[usize::from(!on)], text)
}

async fn images(kubelet: &Kubelet) -> Vec<ContainerImage> {
    let mut list = kubelet
        .images
        .list_images(v1::ListImagesRequest::default())
        .await
        .map(|a| a.images)
        .unwrap_or_default();
    list.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    list.into_iter()
        .take(IMAGES_MAX)
        .map(|i| {
            let names = i.repo_digests.into_iter().chain(i.repo_tags).take(IMAGE_NAMES_MAX).collect();
            ContainerImage { names: Some(names), size_bytes: i64::try_from(i.size).ok() }
        })
        .collect()
}

/// Keeps the status true until shutdown. `changed` asks for a look before the next is due.
pub(crate) async fn run(kubelet: Arc<Kubelet>, changed: Arc<Notify>) {
    let api: Api<Node> = Api::all(kubelet.client.clone());
    let mut written_at: Option<Timestamp> = None;
    loop {
        let node = kubelet.node();
        let new = status(&kubelet, &node).await;
        let now = kubelet.now();
        let report =
            SignedDuration::try_from(kubelet.config.node_status_report).unwrap_or(SignedDuration::MAX);
        let due = written_at.is_none_or(|at| now.duration_since(at) >= report);
        let ready = is_ready(&new);
        let was_ready = node.status.as_ref().is_some_and(is_ready);
        if due || differs(node.status.as_ref(), &new) {
            match write(&api, &kubelet, &node, &new).await {
                Ok(node) => {
                    written_at = Some(now);
                    *kubelet.node.write() = Arc::new(node);
                    if ready != was_ready {
                        let (reason, text) =
                            if ready { ("NodeReady", "NodeReady") } else { ("NodeNotReady", "NodeNotReady") };
                        let text = format!("Node {} status is now: {text}", kubelet.config.node_name);
                        kubelet.node_event(false, reason, text);
                    }
                }
                Err(kube::Error::Api(status)) if status.code == 404 => register::register(&kubelet).await,
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "write node status");
                }
            }
        }
        let wait =
            if ready && written_at.is_some() { kubelet.config.node_status_update } else { UNREADY_INTERVAL };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = changed.notified() => {}
        }
    }
}

fn is_ready(s: &NodeStatus) -> bool {
    s.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Whether anything but heartbeats changed. Free space of the disk is no part of the status.
fn differs(old: Option<&NodeStatus>, new: &NodeStatus) -> bool {
    let plain = |s: &NodeStatus| {
        let mut s = s.clone();
        for c in s.conditions.iter_mut().flatten() {
            c.last_heartbeat_time = None;
        }
        s
    };
    old.is_none_or(|old| plain(old) != plain(new))
}

async fn write(
    api: &Api<Node>,
    kubelet: &Kubelet,
    old: &Node,
    new: &NodeStatus,
) -> Result<Node, kube::Error> {
    let before = serde_json::to_value(old.status.clone().unwrap_or_default()).unwrap_or_default();
    let after = serde_json::to_value(new).unwrap_or_default();
    let mut diff = Map::new();
    if let (Value::Object(before), Value::Object(after)) = (&before, after) {
        for (key, value) in after {
            if before.get(&key) == Some(&value) {
                continue;
            }
            let value = if key == "addresses" && before.contains_key(&key) { replace(&value) } else { value };
            diff.insert(key, value);
        }
    }
    let patch = json!({"status": diff});
    api.patch_status(&kubelet.config.node_name, &PatchParams::default(), &Patch::Strategic(patch)).await
}

/// Addresses merge by type, which two of one type would confuse: the list is meant as a whole.
fn replace(list: &Value) -> Value {
    let mut out = vec![json!({"$patch": "replace"})];
    out.extend(list.as_array().into_iter().flatten().cloned());
    Value::Array(out)
}
