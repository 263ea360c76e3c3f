//! The checks that the restricted level adds.

use std::collections::BTreeSet;

use isopod_api::Value;

use super::super::value::{has, items, list, text};
use super::baseline::{added_capabilities, seccomp_setters, seccomp_violation};
use super::evaluate::{Check, Violation};
use super::subject::{Setters, Subject, plural, quoted, these, uses, violation};

/// In order of upstream's names for them.
pub(super) static CHECKS: &[Check] = &[
    Check { since: 8, replaced_since: None, run: allow_privilege_escalation },
    Check { since: 22, replaced_since: None, run: capabilities },
    Check { since: 0, replaced_since: None, run: restricted_volumes },
    Check { since: 0, replaced_since: None, run: run_as_non_root },
    Check { since: 23, replaced_since: None, run: run_as_user },
    Check { since: 19, replaced_since: None, run: seccomp_profile },
];

fn allow_privilege_escalation(subject: &Subject<'_>) -> Option<Violation> {
    if subject.is_windows() {
        return None;
    }
    let bad = subject.named(|container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    let must = "must set securityContext.allowPrivilegeEscalation=false";
    (!bad.is_empty()).then(|| {
        violation("allowPrivilegeEscalation != false", format!("{} {must}", these("container", &bad)))
    })
}

fn capabilities(subject: &Subject<'_>) -> Option<Violation> {
    if subject.is_windows() {
        return None;
    }
    let keeps = subject.named(|container| {
        !list(container, "/securityContext/capabilities/drop").iter().any(|capability| capability == "ALL")
    });
    let (adds, added) = added_capabilities(subject, &["NET_BIND_SERVICE"]);
    let mut faults = Vec::new();
    if !keeps.is_empty() {
        let these = these("container", &keeps);
        faults.push(format!("{these} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    if !adds.is_empty() {
        let (these, added) = (these("container", &adds), quoted(&added));
        faults.push(format!("{these} must not include {added} in securityContext.capabilities.add"));
    }
    (!faults.is_empty()).then(|| violation("unrestricted capabilities", faults.join("; ")))
}

const ALLOWED_VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

const OTHER_VOLUMES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

fn restricted_volumes(subject: &Subject<'_>) -> Option<Violation> {
    let volumes = items(subject.spec, "volumes").iter();
    let bad: Vec<&Value> =
        volumes.filter(|volume| !ALLOWED_VOLUMES.iter().any(|kind| has(volume, kind))).collect();
    let kind =
        |volume: &&Value| OTHER_VOLUMES.iter().find(|kind| has(volume, kind)).copied().unwrap_or("unknown");
    let kinds: BTreeSet<&str> = bad.iter().map(kind).collect();
    let names: Vec<String> = bad.iter().map(|volume| text(volume, "/name").to_owned()).collect();
    (!bad.is_empty()).then(|| {
        let noun = plural("restricted volume type", kinds.len());
        let detail = format!("{} {} {noun} {}", these("volume", &names), uses(names.len()), quoted(&kinds));
        violation("restricted volume types", detail)
    })
}

fn run_as_non_root(subject: &Subject<'_>) -> Option<Violation> {
    if subject.has_user_namespace() {
        return None;
    }
    let reason = "runAsNonRoot != true";
    let root = Setters::find(subject, "/runAsNonRoot", |set| (*set == false).then(String::new));
    if root.any() {
        let detail = format!("{} must not set securityContext.runAsNonRoot=false", root.describe());
        return Some(violation(reason, detail));
    }
    if subject.spec["securityContext"]["runAsNonRoot"] == true {
        return None;
    }
    let silent = subject.named(|container| !has(&container["securityContext"], "runAsNonRoot"));
    let must = "must set securityContext.runAsNonRoot=true";
    (!silent.is_empty()).then(|| violation(reason, format!("pod or {} {must}", these("container", &silent))))
}

fn run_as_user(subject: &Subject<'_>) -> Option<Violation> {
    if subject.has_user_namespace() {
        return None;
    }
    let root = Setters::find(subject, "/runAsUser", |user| (*user == 0).then(String::new));
    root.any().then(|| violation("runAsUser=0", format!("{} must not set runAsUser=0", root.describe())))
}

fn seccomp_profile(subject: &Subject<'_>) -> Option<Violation> {
    if subject.is_windows() {
        return None;
    }
    let bad = seccomp_setters(subject);
    if bad.any() {
        return seccomp_violation(&bad);
    }
    if has(&subject.spec["securityContext"], "seccompProfile") {
        return None;
    }
    let silent = subject.named(|container| !has(&container["securityContext"], "seccompProfile"));
    let must = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
    (!silent.is_empty())
        .then(|| violation("seccompProfile", format!("pod or {} {must}", these("container", &silent))))
}
