//! Security settings of sandboxes and containers, from the pod's and the container's context to CRI.

use isopod_cri::v1;
use isopod_podplan::spec::{self, Role};
use k8s_openapi::api::core::v1::{Container, Pod, SELinuxOptions, SeccompProfile};

/// Paths below /proc and /sys that containers may not see, as the runtimes have them.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const MASKED_MORE: [&str; 1] = ["/sys/devices/virtual/powercap"];
/// Paths that containers may only read.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn int(value: Option<i64>) -> Option<v1::Int64Value> {
    value.map(|value| v1::Int64Value { value })
}

fn privileged(c: &Container) -> bool {
    c.security_context.as_ref().and_then(|s| s.privileged) == Some(true)
}

/// Whether a container of the pod is privileged: its sandbox must be as well.
pub(crate) fn any_privileged(pod: &Pod) -> bool {
    spec::init(pod).iter().chain(spec::main(pod)).any(privileged)
}

/// Namespaces of the pod, and of one container in it.
pub(crate) fn namespaces(pod: &Pod, target_id: Option<String>) -> v1::NamespaceOption {
    use v1::NamespaceMode::{Container, Node, Pod, Target};
    let s = spec::of(pod);
    let node = |on: Option<bool>, otherwise| if on == Some(true) { Node } else { otherwise };
    let shared = if s.share_process_namespace == Some(true) { Pod } else { Container };
    let pid = if target_id.is_some() { Target } else { node(s.host_pid, shared) };
    v1::NamespaceOption {
        network: node(s.host_network, Pod) as i32,
        ipc: node(s.host_ipc, Pod) as i32,
        pid: pid as i32,
        target_id: target_id.unwrap_or_default(),
        userns_options: Some(v1::UserNamespace { mode: Node as i32, ..v1::UserNamespace::default() }),
    }
}

fn selinux(o: Option<&SELinuxOptions>) -> Option<v1::SeLinuxOption> {
    let o = o?;
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    Some(v1::SeLinuxOption {
        user: text(&o.user),
        role: text(&o.role),
        r#type: text(&o.type_),
        level: text(&o.level),
    })
}

fn seccomp(profile: Option<&SeccompProfile>, privileged: bool, by_default: bool) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let (kind, path) = match profile {
        _ if privileged => (ProfileType::Unconfined, ""),
        Some(p) => match p.type_.as_str() {
            "Localhost" => (ProfileType::Localhost, p.localhost_profile.as_deref().unwrap_or_default()),
            "Unconfined" => (ProfileType::Unconfined, ""),
            _ => (ProfileType::RuntimeDefault, ""),
        },
        None if by_default => (ProfileType::RuntimeDefault, ""),
        None => (ProfileType::Unconfined, ""),
    };
    v1::SecurityProfile { profile_type: kind as i32, localhost_ref: path.to_owned() }
}

fn groups(pod: &Pod) -> (Vec<i64>, i32) {
    let context = spec::of(pod).security_context.as_ref();
    let mut list = context.and_then(|c| c.supplemental_groups.clone()).unwrap_or_default();
    list.extend(context.and_then(|c| c.fs_group));
    let strict = context.and_then(|c| c.supplemental_groups_policy.as_deref()) == Some("Strict");
    let policy =
        if strict { v1::SupplementalGroupsPolicy::Strict } else { v1::SupplementalGroupsPolicy::Merge };
    (list, policy as i32)
}

/// Security settings of the sandbox.
pub(crate) fn sandbox(pod: &Pod) -> v1::LinuxSandboxSecurityContext {
    let context = spec::of(pod).security_context.as_ref();
    let (supplemental_groups, supplemental_groups_policy) = groups(pod);
    let privileged = any_privileged(pod);
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, None)),
        selinux_options: selinux(context.and_then(|c| c.se_linux_options.as_ref())),
        run_as_user: int(context.and_then(|c| c.run_as_user)),
        run_as_group: int(context.and_then(|c| c.run_as_group)),
        readonly_rootfs: false,
        supplemental_groups,
        supplemental_groups_policy,
        privileged,
        // The sandbox runs nothing but the pause process, which the default profile lets be.
        seccomp: Some(seccomp(None, privileged, true)),
        ..v1::LinuxSandboxSecurityContext::default()
    }
}

/// Security settings of a container.
pub(crate) fn container(
    pod: &Pod,
    c: &Container,
    image: &v1::Image,
    target_id: Option<String>,
    seccomp_default: bool,
) -> v1::LinuxContainerSecurityContext {
    let of_pod = spec::of(pod).security_context.as_ref();
    let own = c.security_context.as_ref();
    let privileged = privileged(c);
    let (supplemental_groups, supplemental_groups_policy) = groups(pod);
    let user = own.and_then(|s| s.run_as_user).or(of_pod.and_then(|s| s.run_as_user));
    let caps = own.and_then(|s| s.capabilities.as_ref());
    let unmasked = own.and_then(|s| s.proc_mount.as_deref()) == Some("Unmasked") || privileged;
    let paths = |list: &[&str]| {
        if unmasked { Vec::new() } else { list.iter().map(|p| (*p).to_owned()).collect() }
    };
    let profile =
        own.and_then(|s| s.seccomp_profile.as_ref()).or(of_pod.and_then(|s| s.seccomp_profile.as_ref()));
    let options =
        own.and_then(|s| s.se_linux_options.as_ref()).or(of_pod.and_then(|s| s.se_linux_options.as_ref()));
    v1::LinuxContainerSecurityContext {
        capabilities: Some(v1::Capability {
            add_capabilities: caps.and_then(|c| c.add.clone()).unwrap_or_default(),
            drop_capabilities: caps.and_then(|c| c.drop.clone()).unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged,
        namespace_options: Some(namespaces(pod, target_id)),
        selinux_options: selinux(options),
        run_as_user: int(user).or_else(|| image.uid.filter(|_| image.username.is_empty())),
        run_as_group: int(own.and_then(|s| s.run_as_group).or(of_pod.and_then(|s| s.run_as_group))),
        run_as_username: if user.is_none() { image.username.clone() } else { String::new() },
        readonly_rootfs: own.and_then(|s| s.read_only_root_filesystem) == Some(true),
        supplemental_groups,
        supplemental_groups_policy,
        no_new_privs: own.and_then(|s| s.allow_privilege_escalation) == Some(false),
        masked_paths: [paths(&MASKED), paths(&MASKED_MORE)].concat(),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(seccomp(profile, privileged, seccomp_default)),
        ..v1::LinuxContainerSecurityContext::default()
    }
}

/// Refuses to run as root what must not, as far as spec and image tell.
///
/// # Errors
/// Upstream's text for the status.
pub(crate) fn verify_non_root(pod: &Pod, c: &Container, image: &v1::Image) -> Result<(), String> {
    let of_pod = spec::of(pod).security_context.as_ref();
    let own = c.security_context.as_ref();
    let required = own.and_then(|s| s.run_as_non_root).or(of_pod.and_then(|s| s.run_as_non_root));
    if required != Some(true) {
        return Ok(());
    }
    let about = format!("(pod: {:?}, container: {})", spec::describe(pod), c.name);
    match own.and_then(|s| s.run_as_user).or(of_pod.and_then(|s| s.run_as_user)) {
        Some(0) => return Err(format!("container's runAsUser breaks non-root policy {about}")),
        Some(_) => return Ok(()),
        None => {}
    }
    if !image.username.is_empty() {
        return Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {about}",
            image.username
        ));
    }
    match image.uid {
        Some(v1::Int64Value { value: 0 }) | None => {
            Err(format!("container has runAsNonRoot and image will run as root {about}"))
        }
        Some(_) => Ok(()),
    }
}

/// The container whose processes an ephemeral container may see.
pub(crate) fn target<'a>(pod: &'a Pod, role: Role, name: &str) -> Option<&'a str> {
    if role != Role::Ephemeral {
        return None;
    }
    let e = spec::ephemeral(pod).iter().find(|e| e.name == name)?;
    e.target_container_name.as_deref().filter(|t| !t.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_root() {
        let pod: Pod = serde_yaml_ng::from_str(
            "spec: {securityContext: {runAsNonRoot: true}, containers: [{name: c}, {name: d, securityContext: {runAsUser: 5}}]}",
        )
        .unwrap();
        let image = |uid: Option<i64>, name: &str| v1::Image {
            uid: int(uid),
            username: name.into(),
            ..v1::Image::default()
        };
        let c = &spec::main(&pod)[0];
        assert!(verify_non_root(&pod, c, &image(Some(0), "")).is_err());
        assert!(verify_non_root(&pod, c, &image(None, "")).is_err());
        assert!(verify_non_root(&pod, c, &image(None, "nginx")).is_err());
        assert!(verify_non_root(&pod, c, &image(Some(7), "")).is_ok());
        assert!(verify_non_root(&pod, &spec::main(&pod)[1], &image(Some(0), "")).is_ok());
    }
}
