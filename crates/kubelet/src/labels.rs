//! Labels and annotations by which the kubelet finds its sandboxes and containers again, as upstream's.

use std::collections::BTreeMap;

use isopod_podplan::{hash, spec};
use k8s_openapi::api::core::v1::{Container, Pod};

pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
pub(crate) const HASH: &str = "io.kubernetes.container.hash";
const RESTARTS: &str = "io.kubernetes.container.restartCount";
const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
pub(crate) const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

type Map = BTreeMap<String, String>;

fn text(o: &Option<String>) -> String {
    o.clone().unwrap_or_default()
}

/// Labels of a sandbox: those of the pod, and who it is.
pub(crate) fn of_sandbox(pod: &Pod) -> Map {
    let mut out: Map = pod.metadata.labels.clone().unwrap_or_default();
    out.extend(identity(pod));
    out
}

fn identity(pod: &Pod) -> Map {
    let m = &pod.metadata;
    [(POD_NAME, &m.name), (POD_NAMESPACE, &m.namespace), (POD_UID, &m.uid)]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), text(v)))
        .collect()
}

/// Labels of a container.
pub(crate) fn of_container(pod: &Pod, c: &Container) -> Map {
    let mut out = identity(pod);
    out.insert(CONTAINER_NAME.to_owned(), c.name.clone());
    out
}

/// Annotations of a container.
pub(crate) fn annotations(pod: &Pod, c: &Container, attempt: u32) -> Map {
    let mut out = Map::new();
    out.insert(HASH.into(), format!("{:x}", hash::container(c)));
    out.insert(RESTARTS.into(), attempt.to_string());
    out.insert(MESSAGE_PATH.into(), text(&c.termination_message_path));
    out.insert(MESSAGE_POLICY.into(), text(&c.termination_message_policy));
    out.insert(GRACE.into(), spec::grace_seconds(pod).to_string());
    out
}

/// A selector for everything of one pod.
pub(crate) fn selector(uid: &str) -> Map {
    [(POD_UID.to_owned(), uid.to_owned())].into()
}
