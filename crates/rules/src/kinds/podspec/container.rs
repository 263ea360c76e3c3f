//! Containers of every sort.

use std::collections::{BTreeMap, BTreeSet};

use isopod_api::field::Error;
use isopod_api::{Value, names};

use super::{env, handler, resources, security};
use crate::kinds::check::At;
use crate::kinds::shared::str_at;

const NO_RESTARTS: &str = "may not be set for init containers without restartPolicy=Always";
const NOT_EPHEMERAL: &str = "cannot be set for an Ephemeral Container";
/// Most rules for restarts in a container.
const RESTART_RULES_MAX: usize = 20;
const RESTART_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];

/// The pod's volumes by name.
pub(in crate::kinds) type Volumes<'v> = BTreeMap<&'v str, &'v Value>;

/// Validates `containers`.
pub(super) fn containers(spec: &At<'_>, volumes: &Volumes<'_>) {
    let containers = spec.field("containers");
    if containers.is_empty() {
        containers.required("");
    }
    let mut names = BTreeSet::new();
    for container in containers.items() {
        common(&container, spec, volumes);
        container.field("name").unique(&mut names);
        if container.field("image").is_empty() {
            container.field("image").required("");
        }
        lifecycle_and_probes(&container, spec);
        restart_rules(&container);
    }
    host_ports(&containers, &mut BTreeSet::new());
}

/// Validates `initContainers`.
pub(super) fn init_containers(spec: &At<'_>, volumes: &Volumes<'_>) {
    let mut names: BTreeSet<String> = container_names(&spec.field("containers"));
    for container in spec.field("initContainers").items() {
        common(&container, spec, volumes);
        container.field("name").unique(&mut names);
        if container.field("image").is_empty() {
            container.field("image").required("");
        }
        if container.field("restartPolicy").str() == "Always" {
            lifecycle_and_probes(&container, spec);
        } else {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                let field = container.field(field);
                if field.is_set() {
                    field.forbidden(NO_RESTARTS);
                }
            }
        }
        restart_rules(&container);
        host_ports_of(&container, &mut BTreeSet::new());
    }
}

/// Validates `ephemeralContainers`.
pub(in crate::kinds) fn ephemeral_containers(spec: &At<'_>, volumes: &Volumes<'_>) {
    let ephemeral = spec.field("ephemeralContainers");
    if ephemeral.is_empty() {
        return;
    }
    let mut names = container_names(&spec.field("containers"));
    names.extend(container_names(&spec.field("initContainers")));
    let targets = names.clone();
    for container in ephemeral.items() {
        common(&container, spec, volumes);
        container.field("name").unique(&mut names);
        if container.field("image").is_empty() {
            container.field("image").required("");
        }
        let target = container.field("targetContainerName");
        if !target.is_empty() && !targets.contains(target.str()) {
            target.not_found();
        }
        for field in [
            "lifecycle",
            "livenessProbe",
            "ports",
            "readinessProbe",
            "resizePolicy",
            "resources",
            "restartPolicy",
            "startupProbe",
        ] {
            let field = container.field(field);
            if !field.is_empty() || !field.str().is_empty() {
                field.forbidden(NOT_EPHEMERAL);
            }
        }
        for mount in container.field("volumeMounts").items() {
            for field in ["subPath", "subPathExpr"].map(|field| mount.field(field)) {
                if !field.is_empty() {
                    field.forbidden(NOT_EPHEMERAL);
                }
            }
        }
    }
}

fn container_names(containers: &At<'_>) -> BTreeSet<String> {
    containers.list().iter().map(|c| str_at(c, "name").to_owned()).collect()
}

/// What containers of every sort obey.
fn common(container: &At<'_>, spec: &At<'_>, volumes: &Volumes<'_>) {
    container.field("name").needs(names::is_dns1123_label);
    let image = container.field("image");
    if image.str().trim() != image.str() {
        image.invalid("must not have leading or trailing whitespace");
    }
    container.field("terminationMessagePolicy").needs_one_of(&["FallbackToLogsOnError", "File"]);
    ports(&container.field("ports"));
    env::variables(&container.field("env"));
    env::sources(&container.field("envFrom"));
    mounts(container, volumes);
    devices(container, volumes);
    container.field("imagePullPolicy").needs_one_of(&["Always", "IfNotPresent", "Never"]);
    resources::requirements(&container.field("resources"), &spec.field("resourceClaims"));
    resize_policy(&container.field("resizePolicy"), spec.field("restartPolicy").str());
    security::container(&container.field("securityContext"), spec);
}

fn lifecycle_and_probes(container: &At<'_>, spec: &At<'_>) {
    let grace = spec.field("terminationGracePeriodSeconds").int().unwrap_or(0);
    let lifecycle = container.field("lifecycle");
    for hook in ["postStart", "preStop"].map(|hook| lifecycle.field(hook)) {
        if hook.is_set() {
            handler::handler(&hook, grace);
        }
    }
    if lifecycle.field("stopSignal").is_set() && spec.field("os.name").is_empty() {
        lifecycle.field("stopSignal").forbidden("may not be set for containers with empty `spec.os.name`");
    }
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.field(kind);
        if probe.is_set() {
            handler::probe(&probe, kind, grace);
        }
    }
}

fn restart_rules(container: &At<'_>) {
    let policy = container.field("restartPolicy");
    policy.one_of(RESTART_POLICIES);
    let rules = container.field("restartPolicyRules");
    if !rules.is_empty() && !policy.is_set() {
        policy.required("must specify restartPolicy when restart rules are used");
    }
    if rules.len() > RESTART_RULES_MAX {
        rules.report(Error::too_many(&rules.path(), rules.len(), RESTART_RULES_MAX));
    }
    for rule in rules.items() {
        rule.field("action").needs_one_of(&["Restart", "RestartAllContainers"]);
        let codes = rule.field("exitCodes");
        if !codes.is_set() {
            codes.required("must be specified");
            continue;
        }
        codes.field("operator").needs_one_of(&["In", "NotIn"]);
        let values = codes.field("values");
        if values.len() > 255 {
            values.report(Error::too_many(&values.path(), values.len(), 255));
        }
    }
}

fn ports(ports: &At<'_>) {
    let mut seen = BTreeSet::new();
    for port in ports.items() {
        let name = port.field("name");
        if !name.is_empty() {
            let messages = names::is_port_name(name.str());
            if messages.is_empty() {
                name.unique(&mut seen);
            }
            messages.into_iter().for_each(|message| name.invalid(message));
        }
        match port.field("containerPort").int() {
            None | Some(0) => port.field("containerPort").required(""),
            Some(_) => port.field("containerPort").within(1, 65535),
        }
        if port.field("hostPort").int().is_some_and(|p| p != 0) {
            port.field("hostPort").within(1, 65535);
        }
        port.field("protocol").needs_one_of(&["SCTP", "TCP", "UDP"]);
    }
}

fn host_ports(containers: &At<'_>, seen: &mut BTreeSet<String>) {
    containers.items().for_each(|container| host_ports_of(&container, seen));
}

/// A host port can be held once for an address and protocol.
fn host_ports_of(container: &At<'_>, seen: &mut BTreeSet<String>) {
    for port in container.field("ports").items() {
        let Some(number) = port.field("hostPort").int().filter(|n| *n != 0) else { continue };
        let key = format!("{}/{}/{number}", port.field("protocol").str(), port.field("hostIP").str());
        if seen.contains(&key) {
            let path = port.field("hostPort").path();
            port.report(Error::duplicate(&path, key));
        } else {
            seen.insert(key);
        }
    }
}

/// A relative path without steps back.
pub(super) fn descending_path(path: &At<'_>) {
    if path.str().starts_with('/') {
        path.invalid("must be a relative path");
    }
    no_backsteps(path);
}

pub(super) fn no_backsteps(path: &At<'_>) {
    if path.str().split('/').any(|step| step == "..") {
        path.invalid("must not contain '..'");
    }
}

fn mounts(container: &At<'_>, volumes: &Volumes<'_>) {
    let devices = container.field("volumeDevices");
    let has_device = |key: &str, value: &str| devices.list().iter().any(|d| str_at(d, key) == value);
    let mut seen = BTreeSet::new();
    for mount in container.field("volumeMounts").items() {
        let (name, path) = (mount.field("name"), mount.field("mountPath"));
        name.needs_text();
        if !volumes.contains_key(name.str()) {
            name.report(Error::not_found(&name.path(), name.str()));
        }
        path.needs_text();
        if !seen.insert(path.str()) {
            path.invalid("must be unique");
        }
        if has_device("name", name.str()) {
            name.invalid("must not already exist in volumeDevices");
        }
        if has_device("devicePath", path.str()) {
            path.invalid("must not already exist as a path in volumeDevices");
        }
        let (sub_path, expression) = (mount.field("subPath"), mount.field("subPathExpr"));
        descending_path(&sub_path);
        if !expression.is_empty() {
            if !sub_path.is_empty() {
                expression.invalid("subPathExpr and subPath are mutually exclusive");
            }
            descending_path(&expression);
        }
        propagation(&mount, container);
    }
}

fn propagation(mount: &At<'_>, container: &At<'_>) {
    let propagation = mount.field("mountPropagation");
    propagation.one_of(&["Bidirectional", "HostToContainer", "None"]);
    let privileged = container.field("securityContext.privileged").is_true();
    if propagation.str() == "Bidirectional" && !privileged {
        propagation.forbidden("Bidirectional mount propagation is available only to privileged containers");
    }
    let recursive = mount.field("recursiveReadOnly");
    recursive.one_of(&["Disabled", "Enabled", "IfPossible"]);
    if matches!(recursive.str(), "Enabled" | "IfPossible") {
        if !mount.field("readOnly").is_true() {
            recursive.forbidden("may only be specified when readOnly is true");
        }
        if !matches!(propagation.str(), "" | "None") {
            recursive.forbidden("may only be specified when mountPropagation is None or not specified");
        }
    }
}

fn devices(container: &At<'_>, volumes: &Volumes<'_>) {
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for device in container.field("volumeDevices").items() {
        let (name, path) = (device.field("name"), device.field("devicePath"));
        name.needs_text();
        match volumes.get(name.str()) {
            None => name.report(Error::not_found(&name.path(), name.str())),
            Some(volume) => {
                if ["persistentVolumeClaim", "ephemeral"].iter().all(|source| volume.get(source).is_none()) {
                    let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                    name.invalid(detail);
                }
            }
        }
        if !names.insert(name.str()) {
            name.invalid("must be unique");
        }
        path.needs_text();
        if !paths.insert(path.str()) {
            path.invalid("must be unique");
        }
        if path.str().split('/').any(|step| step == "..") {
            path.invalid("can not contain backsteps ('..')");
        }
    }
}

fn resize_policy(policies: &At<'_>, pod_restarts: &str) {
    let mut seen = BTreeSet::new();
    // Faults of an entry are told of the list.
    let path = policies.path();
    let needs = |value: &str, supported: &[&str]| {
        if value.is_empty() {
            policies.required("");
        } else if !supported.contains(&value) {
            policies.report(Error::not_supported(&path, value, supported));
        }
    };
    for policy in policies.items() {
        let (name, restarts) = (policy.field("resourceName").str(), policy.field("restartPolicy").str());
        if !seen.insert(name) {
            policy.report(Error::duplicate(&policy.path(), name));
        }
        needs(name, &["cpu", "memory"]);
        needs(restarts, &["NotRequired", "RestartContainer"]);
        if pod_restarts == "Never" && restarts != "NotRequired" {
            policies.invalid_as(restarts, "must be 'NotRequired' when `restartPolicy` is 'Never'");
        }
    }
}
