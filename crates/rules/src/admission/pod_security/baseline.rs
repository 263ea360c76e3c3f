//! The checks of the baseline level.

use std::collections::BTreeSet;

use isopod_api::Value;

use super::super::value::{has, items, list, text};
use super::evaluate::{Check, Violation};
use super::subject::{Setters, Subject, plural, quoted, these, uses, violation};

/// In order of upstream's names for them.
pub(super) static CHECKS: &[Check] = &[
    Check { since: 0, replaced_since: None, run: app_armor_profile },
    Check { since: 0, replaced_since: Some(22), run: capabilities },
    Check { since: 0, replaced_since: None, run: host_namespaces },
    Check { since: 0, replaced_since: Some(0), run: host_path_volumes },
    Check { since: 0, replaced_since: None, run: host_ports },
    Check { since: 34, replaced_since: None, run: host_probes_and_lifecycle },
    Check { since: 0, replaced_since: None, run: privileged },
    Check { since: 0, replaced_since: None, run: proc_mount },
    Check { since: 0, replaced_since: None, run: se_linux_options },
    Check { since: 0, replaced_since: Some(19), run: seccomp_profile },
    Check { since: 0, replaced_since: None, run: sysctls },
    Check { since: 0, replaced_since: None, run: windows_host_process },
];

fn app_armor_profile(subject: &Subject<'_>) -> Option<Violation> {
    let setters = Setters::find(subject, "/appArmorProfile", |profile| {
        let kind = text(profile, "/type");
        (!matches!(kind, "RuntimeDefault" | "Localhost")).then(|| kind.to_owned())
    });
    let annotations = subject.pod.pointer("/metadata/annotations").and_then(Value::as_object);
    let mut forbidden: Vec<String> = annotations
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.starts_with("container.apparmor.security.beta.kubernetes.io/"))
        .filter_map(|(key, value)| Some((key, value.as_str()?)))
        .filter(|(_, value)| {
            !(value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/"))
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    forbidden.sort();
    let mut by = Vec::new();
    if setters.any() {
        by.push(setters.describe());
    }
    if !forbidden.is_empty() {
        by.push(plural("annotation", forbidden.len()));
    }
    let values: Vec<String> = setters.values.iter().cloned().chain(forbidden).collect();
    (!by.is_empty()).then(|| {
        violation(
            &plural("forbidden AppArmor profile", values.len()),
            format!("{} must not set AppArmor profile type to {}", by.join(" and "), quoted(&values)),
        )
    })
}

const CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

fn capabilities(subject: &Subject<'_>) -> Option<Violation> {
    let (bad, added) = added_capabilities(subject, CAPABILITIES);
    (!bad.is_empty()).then(|| {
        violation(
            "non-default capabilities",
            format!(
                "{} must not include {} in securityContext.capabilities.add",
                these("container", &bad),
                quoted(&added)
            ),
        )
    })
}

/// Containers that add capabilities other than those, and which.
pub(super) fn added_capabilities(subject: &Subject<'_>, allowed: &[&str]) -> (Vec<String>, BTreeSet<String>) {
    let others = |container: &Value| -> Vec<String> {
        let added = list(container, "/securityContext/capabilities/add").iter().filter_map(Value::as_str);
        added.filter(|capability| !allowed.contains(capability)).map(str::to_owned).collect()
    };
    let added = subject.containers().flat_map(others).collect();
    (subject.named(|container| !others(container).is_empty()), added)
}

fn host_namespaces(subject: &Subject<'_>) -> Option<Violation> {
    let set = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| subject.spec[*field] == true);
    let set: Vec<String> = set.map(|field| format!("{field}=true")).collect();
    (!set.is_empty()).then(|| violation("host namespaces", set.join(", ")))
}

fn host_path_volumes(subject: &Subject<'_>) -> Option<Violation> {
    let volumes = items(subject.spec, "volumes").iter().filter(|volume| has(volume, "hostPath"));
    let names: Vec<String> = volumes.map(|volume| text(volume, "/name").to_owned()).collect();
    (!names.is_empty()).then(|| violation("hostPath volumes", these("volume", &names)))
}

fn host_ports(subject: &Subject<'_>) -> Option<Violation> {
    let ports = |container: &Value| -> Vec<String> {
        let ports = items(container, "ports").iter().filter_map(|port| port["hostPort"].as_i64());
        ports.filter(|port| *port != 0).map(|port| port.to_string()).collect()
    };
    let bad = subject.named(|container| !ports(container).is_empty());
    let all: BTreeSet<String> = subject.containers().flat_map(ports).collect();
    (!bad.is_empty()).then(|| {
        let list: Vec<String> = all.into_iter().collect();
        let noun = plural("hostPort", list.len());
        violation(
            "hostPort",
            format!("{} {} {noun} {}", these("container", &bad), uses(bad.len()), list.join(", ")),
        )
    })
}

fn host_probes_and_lifecycle(subject: &Subject<'_>) -> Option<Violation> {
    let hosts = |container: &Value| -> BTreeSet<String> {
        let handlers = [
            "/livenessProbe",
            "/readinessProbe",
            "/startupProbe",
            "/lifecycle/postStart",
            "/lifecycle/preStop",
        ];
        let actions = handlers.iter().flat_map(|handler| {
            ["httpGet", "tcpSocket"].map(|action| text(container, &format!("{handler}/{action}/host")))
        });
        actions.filter(|host| !host.is_empty()).map(str::to_owned).collect()
    };
    let mut bad = subject.named(|container| !hosts(container).is_empty());
    bad.sort();
    bad.dedup();
    let all: BTreeSet<String> = subject.containers().flat_map(hosts).collect();
    (!bad.is_empty()).then(|| {
        let noun = plural("probe or lifecycle host", all.len());
        let detail = format!("{} {} {noun} {}", these("container", &bad), uses(bad.len()), quoted(&all));
        violation("probe or lifecycle host", detail)
    })
}

fn privileged(subject: &Subject<'_>) -> Option<Violation> {
    let bad = subject.named(|container| container["securityContext"]["privileged"] == true);
    let must = "must not set securityContext.privileged=true";
    (!bad.is_empty()).then(|| violation("privileged", format!("{} {must}", these("container", &bad))))
}

fn proc_mount(subject: &Subject<'_>) -> Option<Violation> {
    if subject.has_user_namespace() {
        return None;
    }
    let other = |container: &Value| {
        let mount = text(container, "/securityContext/procMount");
        (!matches!(mount, "" | "Default")).then(|| mount.to_owned())
    };
    let bad = subject.named(|container| other(container).is_some());
    let values: BTreeSet<String> = subject.containers().filter_map(other).collect();
    (!bad.is_empty()).then(|| {
        let detail = format!(
            "{} must not set securityContext.procMount to {}",
            these("container", &bad),
            quoted(&values)
        );
        violation("procMount", detail)
    })
}

fn se_linux_options(subject: &Subject<'_>) -> Option<Violation> {
    let engine = subject.minor >= 31;
    let allowed = |kind: &str| {
        matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || engine && kind == "container_engine_t"
    };
    let bad = |options: &Value| {
        let kind = text(options, "/type");
        let set = |field: &str| !text(options, field).is_empty();
        (!allowed(kind) || set("/user") || set("/role")).then(|| kind.to_owned())
    };
    let setters = Setters::find(subject, "/seLinuxOptions", bad);
    if !setters.any() {
        return None;
    }
    let types: Vec<&String> = setters.values.iter().filter(|kind| !allowed(kind)).collect();
    let set = |field: &str| {
        Setters::find(subject, &format!("/seLinuxOptions/{field}"), |value| {
            value.as_str().filter(|value| !value.is_empty()).map(str::to_owned)
        })
    };
    let mut faults = Vec::new();
    if !types.is_empty() {
        faults.push(format!("{} {}", plural("type", types.len()), quoted(types)));
    }
    for field in ["user", "role"] {
        if set(field).any() {
            faults.push(format!("{field} may not be set"));
        }
    }
    let by = setters.describe();
    let detail = format!("{by} set forbidden securityContext.seLinuxOptions: {}", faults.join("; "));
    Some(violation("seLinuxOptions", detail))
}

pub(super) fn seccomp_setters(subject: &Subject<'_>) -> Setters {
    Setters::find(subject, "/seccompProfile/type", |kind| {
        let kind = kind.as_str().unwrap_or("");
        (!matches!(kind, "RuntimeDefault" | "Localhost")).then(|| kind.to_owned())
    })
}

pub(super) fn seccomp_violation(setters: &Setters) -> Option<Violation> {
    setters.any().then(|| {
        let by = setters.describe();
        let detail = format!("{by} must not set securityContext.seccompProfile.type to {}", setters.values());
        violation("seccompProfile", detail)
    })
}

/// Before version 1.19 profiles were named by annotations.
fn seccomp_profile(subject: &Subject<'_>) -> Option<Violation> {
    if subject.minor >= 19 {
        return seccomp_violation(&seccomp_setters(subject));
    }
    let annotations = subject.pod.pointer("/metadata/annotations").and_then(Value::as_object);
    let mut forbidden: Vec<String> = annotations
        .into_iter()
        .flatten()
        .filter(|(key, _)| {
            *key == "seccomp.security.alpha.kubernetes.io/pod"
                || key.starts_with("container.seccomp.security.alpha.kubernetes.io/")
        })
        .filter_map(|(key, value)| Some((key, value.as_str()?)))
        .filter(|(_, value)| {
            !(matches!(*value, "runtime/default" | "docker/default") || value.starts_with("localhost/"))
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    forbidden.sort();
    (!forbidden.is_empty()).then(|| {
        let detail = format!("forbidden {} {}", plural("annotation", forbidden.len()), forbidden.join(", "));
        violation("seccompProfile", detail)
    })
}

/// Kernel parameters that concern the pod alone, with the version that allows them.
const SYSCTLS: &[(&str, u32)] = &[
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

fn sysctls(subject: &Subject<'_>) -> Option<Violation> {
    let allowed = |name: &str| SYSCTLS.iter().any(|(known, since)| *known == name && subject.minor >= *since);
    let set = list(subject.spec, "/securityContext/sysctls").iter().map(|sysctl| text(sysctl, "/name"));
    let forbidden: Vec<&str> = set.filter(|name| !allowed(name)).collect();
    (!forbidden.is_empty()).then(|| violation("forbidden sysctls", forbidden.join(", ")))
}

fn windows_host_process(subject: &Subject<'_>) -> Option<Violation> {
    let setters =
        Setters::find(subject, "/windowsOptions/hostProcess", |set| (*set == true).then(String::new));
    setters.any().then(|| {
        let detail =
            format!("{} must not set securityContext.windowsOptions.hostProcess=true", setters.describe());
        violation("hostProcess", detail)
    })
}
