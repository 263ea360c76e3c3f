//! Short questions to a pod spec that the other modules share.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};

/// What a container is to its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Runs to its end before the next.
    Init,
    /// Restartable init container: started in order, runs beside the main ones.
    Sidecar,
    /// Main container.
    Main,
    /// Added to a running pod to look into it.
    Ephemeral,
}

static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);

/// The spec, or an empty one.
#[must_use]
pub fn of(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

/// Init containers, sidecars among them, in order.
#[must_use]
pub fn init(pod: &Pod) -> &[Container] {
    of(pod).init_containers.as_deref().unwrap_or_default()
}

/// Main containers, in order.
#[must_use]
pub fn main(pod: &Pod) -> &[Container] {
    &of(pod).containers
}

/// Ephemeral containers, in order.
#[must_use]
pub fn ephemeral(pod: &Pod) -> &[EphemeralContainer] {
    of(pod).ephemeral_containers.as_deref().unwrap_or_default()
}

/// Whether an init container is a sidecar.
#[must_use]
pub fn is_sidecar(c: &Container) -> bool {
    c.restart_policy.as_deref() == Some("Always")
}

/// A container of the pod by name, whatever its role; ephemeral ones as the container that they amount to.
#[must_use]
pub fn find<'a>(pod: &'a Pod, name: &str) -> Option<(Role, Cow<'a, Container>)> {
    if let Some(c) = init(pod).iter().find(|c| c.name == name) {
        let role = if is_sidecar(c) { Role::Sidecar } else { Role::Init };
        return Some((role, Cow::Borrowed(c)));
    }
    if let Some(c) = main(pod).iter().find(|c| c.name == name) {
        return Some((Role::Main, Cow::Borrowed(c)));
    }
    let e = ephemeral(pod).iter().find(|c| c.name == name)?;
    Some((Role::Ephemeral, Cow::Owned(as_container(e))))
}

/// An ephemeral container as a container.
#[must_use]
pub fn as_container(e: &EphemeralContainer) -> Container {
    Container {
        args: e.args.clone(),
        command: e.command.clone(),
        env: e.env.clone(),
        env_from: e.env_from.clone(),
        image: e.image.clone(),
        image_pull_policy: e.image_pull_policy.clone(),
        lifecycle: e.lifecycle.clone(),
        liveness_probe: e.liveness_probe.clone(),
        name: e.name.clone(),
        ports: e.ports.clone(),
        readiness_probe: e.readiness_probe.clone(),
        resize_policy: e.resize_policy.clone(),
        resources: e.resources.clone(),
        restart_policy: e.restart_policy.clone(),
        restart_policy_rules: None,
        security_context: e.security_context.clone(),
        startup_probe: e.startup_probe.clone(),
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path.clone(),
        termination_message_policy: e.termination_message_policy.clone(),
        tty: e.tty,
        volume_devices: e.volume_devices.clone(),
        volume_mounts: e.volume_mounts.clone(),
        working_dir: e.working_dir.clone(),
    }
}

/// Every container name of the spec, in the order init, main, ephemeral.
pub fn names(pod: &Pod) -> impl Iterator<Item = &str> {
    init(pod)
        .iter()
        .chain(main(pod))
        .map(|c| c.name.as_str())
        .chain(ephemeral(pod).iter().map(|c| c.name.as_str()))
}

/// Name, namespace and uid as upstream prints a pod in errors and events.
#[must_use]
pub fn describe(pod: &Pod) -> String {
    let m = &pod.metadata;
    format!(
        "{}_{}({})",
        m.name.as_deref().unwrap_or_default(),
        m.namespace.as_deref().unwrap_or_default(),
        m.uid.as_deref().unwrap_or_default()
    )
}

/// Whether the pod shares the node's network.
#[must_use]
pub fn host_network(pod: &Pod) -> bool {
    of(pod).host_network == Some(true)
}

/// The grace that the pod's containers get, in seconds: the deletion's where there is one.
#[must_use]
pub fn grace_seconds(pod: &Pod) -> i64 {
    if pod.metadata.deletion_timestamp.is_some()
        && let Some(grace) = pod.metadata.deletion_grace_period_seconds
    {
        return grace.max(0);
    }
    of(pod).termination_grace_period_seconds.unwrap_or(30).max(0)
}
