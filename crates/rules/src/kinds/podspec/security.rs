//! Security contexts, host namespaces and operating systems.

use isopod_api::names;

use super::Owner;
use super::container::descending_path;
use crate::kinds::check::At;

const USER_IDS: [&str; 2] = ["runAsUser", "runAsGroup"];
/// Most bytes of a sysctl's name.
const SYSCTL_BYTES_MAX: usize = 253;
const SYSCTL_FORMAT: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

fn id(id: &At<'_>) {
    if let Some(number) = id.int() {
        names::is_user_id(number).into_iter().for_each(|message| id.invalid(message));
    }
}

/// Validates the pod's security context and its use of the host.
pub(super) fn pod(spec: &At<'_>, owner: Owner) {
    host_network(spec, owner);
    let context = spec.field("securityContext");
    if spec.field("shareProcessNamespace").is_true() && spec.field("hostPID").is_true() {
        spec.field("shareProcessNamespace")
            .invalid("ShareProcessNamespace and HostPID cannot both be enabled");
    }
    if spec.field("hostUsers").value() == false {
        for field in ["hostNetwork", "hostPID", "hostIPC"].map(|field| spec.field(field)) {
            if field.is_true() {
                field.forbidden("when `hostUsers` is false");
            }
        }
    }
    context.field("supplementalGroups").items().for_each(|group| id(&group));
    id(&context.field("fsGroup"));
    USER_IDS.iter().for_each(|field| id(&context.field(field)));
    sysctls(&context.field("sysctls"));
    context.field("fsGroupChangePolicy").one_of(&["Always", "OnRootMismatch"]);
    context.field("supplementalGroupsPolicy").one_of(&["Merge", "Strict"]);
    context.field("seLinuxChangePolicy").one_of(&["MountOption", "Recursive"]);
    profiles(&context);
}

/// On the host's network a container's port is the host's port.
fn host_network(spec: &At<'_>, owner: Owner) {
    if !spec.field("hostNetwork").is_true() {
        return;
    }
    for container in spec.field("containers").items() {
        for port in container.field("ports").items() {
            let host = port.field("hostPort");
            let differs = host.int().unwrap_or(0) != port.field("containerPort").int().unwrap_or(0);
            if differs && (owner == Owner::Pod || host.is_set()) {
                host.invalid_as(
                    host.int().unwrap_or(0),
                    "must match `containerPort` when `hostNetwork` is true",
                );
            }
        }
    }
}

fn sysctls(sysctls: &At<'_>) {
    let mut seen = std::collections::BTreeSet::new();
    for sysctl in sysctls.items() {
        let name = sysctl.field("name");
        if !name.needs_text() {
            continue;
        }
        if !is_sysctl(name.str()) {
            name.invalid(format!(
                "must have at most {SYSCTL_BYTES_MAX} characters and match regex {SYSCTL_FORMAT}"
            ));
        }
        name.unique(&mut seen);
    }
}

fn is_sysctl(name: &str) -> bool {
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let segment = |s: &str| {
        let b = s.as_bytes();
        matches!((b.first(), b.last()), (Some(&f), Some(&l)) if lower(f) && lower(l))
            && b.iter().all(|&c| lower(c) || c == b'-' || c == b'_')
    };
    name.len() <= SYSCTL_BYTES_MAX && name.split(['.', '/']).all(segment)
}

/// seccomp and AppArmor.
fn profiles(context: &At<'_>) {
    for (field, name) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
        let profile = context.field(field);
        if !profile.is_set() {
            continue;
        }
        let (kind, local) = (profile.field("type"), profile.field("localhostProfile"));
        if kind.is_empty() {
            kind.required(&format!("type is required when {field} is set"));
        } else {
            kind.one_of(&["Localhost", "RuntimeDefault", "Unconfined"]);
        }
        match (kind.str() == "Localhost", local.is_set()) {
            (true, false) => local.required(&format!("must be set when {name} type is Localhost")),
            (true, true) if field == "seccompProfile" => descending_path(&local),
            (true, true) if local.str().trim() != local.str() || local.str().is_empty() => {
                local.invalid("must not be padded with whitespace");
            }
            (false, true) => local.invalid_as(
                profile.value().clone(),
                format!("can only be set when {name} type is Localhost"),
            ),
            _ => {}
        }
    }
}

/// Validates a container's security context.
pub(super) fn container(context: &At<'_>, spec: &At<'_>) {
    if !context.is_set() {
        return;
    }
    USER_IDS.iter().for_each(|field| id(&context.field(field)));
    profiles(context);
    let escalation = context.field("allowPrivilegeEscalation");
    if escalation.is_set() && !escalation.is_true() {
        if context.field("privileged").is_true() {
            context.invalid("cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        if context.field("capabilities.add").texts().any(|c| c == "CAP_SYS_ADMIN") {
            context.invalid(
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
    let mount = context.field("procMount");
    mount.one_of(&["Default", "Unmasked"]);
    if mount.str() == "Unmasked" && spec.field("hostUsers").value() != false {
        mount.invalid("`hostUsers` must be false to use `Unmasked`");
    }
}

const NOT_ON_WINDOWS: [&str; 14] = [
    "hostPID",
    "hostIPC",
    "hostUsers",
    "shareProcessNamespace",
    "securityContext.appArmorProfile",
    "securityContext.seLinuxOptions",
    "securityContext.seccompProfile",
    "securityContext.fsGroup",
    "securityContext.fsGroupChangePolicy",
    "securityContext.sysctls",
    "securityContext.runAsUser",
    "securityContext.runAsGroup",
    "securityContext.supplementalGroups",
    "securityContext.supplementalGroupsPolicy",
];
const CONTAINER_NOT_ON_WINDOWS: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// Validates `os` and what cannot be set for it.
pub(super) fn os(spec: &At<'_>) {
    let os = spec.field("os");
    if !os.is_set() {
        return;
    }
    let name = os.field("name");
    name.needs_one_of(&["linux", "windows"]);
    let (pod_fields, container_fields, detail): (&[&str], &[&str], _) = match name.str() {
        "windows" => (&NOT_ON_WINDOWS, &CONTAINER_NOT_ON_WINDOWS, "cannot be set for a windows pod"),
        "linux" => (
            &["securityContext.windowsOptions"],
            &["windowsOptions"],
            "windows options cannot be set for a linux pod",
        ),
        _ => return,
    };
    let forbid = |field: At<'_>| {
        if field.is_set() && field.value() != false {
            field.forbidden(detail);
        }
    };
    pod_fields.iter().for_each(|field| forbid(spec.field(field)));
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in spec.field(list).items() {
            let context = container.field("securityContext");
            container_fields.iter().for_each(|field| forbid(context.field(field)));
        }
    }
}
