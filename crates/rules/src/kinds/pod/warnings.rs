//! Warnings about pods and pod templates: things that are allowed and yet most likely mistakes.

use isopod_api::field::Path;
use isopod_api::quantity::Quantity;
use isopod_api::{Value, names};

use crate::kinds::shared::{at, int_at, list_at, str_at};

const NODE_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
];
const ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
    (
        "seccomp.security.alpha.kubernetes.io/pod",
        "non-functional in v1.27+; use the \"seccompProfile\" field instead",
    ),
];
const ANNOTATION_PREFIXES: &[(&str, &str)] = &[
    (
        "container.seccomp.security.alpha.kubernetes.io/",
        "non-functional in v1.27+; use the \"seccompProfile\" field instead",
    ),
    (
        "container.apparmor.security.beta.kubernetes.io/",
        "deprecated since v1.30; use the \"appArmorProfile\" field instead",
    ),
];
const VOLUMES: &[(&str, &str)] = &[
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
const NULL_SELECTOR: &str = "a null labelSelector results in matching no pod";

/// Warnings about a pod. Updates change too little of a pod to warn again.
pub(super) fn pod(pod: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some_and(|old| old.get("spec") == pod.get("spec")) {
        return Vec::new();
    }
    let mut warnings = Vec::new();
    if old.is_none() {
        let why = "this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended";
        warnings.extend(name_warning(pod, why));
    }
    of_spec(pod, &Path::root(), &mut warnings);
    warnings
}

/// Warnings about the template at a path of a workload, and about the workload's name, which its pods inherit.
pub(in crate::kinds) fn template_warnings(new: &Value, old: Option<&Value>, path: &str) -> Vec<String> {
    if old.is_some_and(|old| at(old, path) == at(new, path)) {
        return Vec::new();
    }
    let mut warnings = Vec::new();
    if old.is_none() && path != "template" {
        let why = "this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended";
        warnings.extend(name_warning(new, why));
    }
    if let Some(template) = at(new, path) {
        of_spec(template, &Path::new(path), &mut warnings);
    }
    warnings
}

fn name_warning(object: &Value, why: &str) -> Option<String> {
    let name = str_at(object, "metadata.name");
    let wrong = names::is_dns1123_label(name);
    (!name.is_empty() && !wrong.is_empty()).then(|| format!("metadata.name: {why}: [{}]", wrong.join(" ")))
}

fn of_spec(pod: &Value, path: &Path, warnings: &mut Vec<String>) {
    let spec = path.child("spec");
    annotations(pod, &path.child("metadata").child("annotations"), warnings);
    let Some(value) = pod.get("spec") else { return };
    for (key, what) in NODE_LABELS {
        if value.get("nodeSelector").and_then(|s| s.get(key)).is_some() {
            warnings.push(format!("{}: {what}", spec.child("nodeSelector").key(key)));
        }
    }
    for (i, volume) in list_at(value, "volumes").iter().enumerate() {
        for (kind, what) in VOLUMES.iter().filter(|(kind, _)| volume.get(kind).is_some()) {
            warnings.push(format!("{}: {what}", spec.child("volumes").index(i).child(kind)));
        }
    }
    for (i, secret) in list_at(value, "imagePullSecrets").iter().enumerate() {
        if str_at(secret, "name").is_empty() {
            let at = spec.child("imagePullSecrets").index(i).child("name");
            warnings.push(format!("{at}: invalid empty name \"\""));
        }
    }
    if int_at(value, "terminationGracePeriodSeconds") < 0 {
        let at = spec.child("terminationGracePeriodSeconds");
        warnings.push(format!("{at}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    for list in ["initContainers", "containers"] {
        for (i, container) in list_at(value, list).iter().enumerate() {
            let at = spec.child(list).index(i);
            repeated_names(container, &at, warnings);
            fractions_of_bytes(container, &at.child("resources"), warnings);
        }
    }
    null_selectors(value, &spec, warnings);
}

fn annotations(pod: &Value, path: &Path, warnings: &mut Vec<String>) {
    for key in at(pod, "metadata.annotations").and_then(Value::as_object).into_iter().flat_map(|a| a.keys()) {
        let whole = ANNOTATIONS.iter().find(|(name, _)| name == key);
        let found = whole.or_else(|| ANNOTATION_PREFIXES.iter().find(|(prefix, _)| key.starts_with(prefix)));
        if let Some((_, what)) = found {
            warnings.push(format!("{}: {what}", path.key(key)));
        }
    }
}

fn repeated_names(container: &Value, path: &Path, warnings: &mut Vec<String>) {
    let variables = list_at(container, "env");
    for (i, variable) in variables.iter().enumerate() {
        let name = str_at(variable, "name");
        // A later definition may build on an earlier one of the same name.
        let uses = str_at(variable, "value").contains(&format!("$({name})"));
        if !uses && variables[..i].iter().any(|v| str_at(v, "name") == name) {
            let at = path.child("env").index(i);
            warnings.push(format!(
                "{at}: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
    }
    let ports = list_at(container, "ports");
    for (i, port) in ports.iter().enumerate() {
        let key = |p: &Value| {
            let text = |k: &str| str_at(p, k).to_owned();
            (int_at(p, "containerPort"), text("protocol"), int_at(p, "hostPort"), text("hostIP"))
        };
        if let Some(first) = ports[..i].iter().position(|p| key(p) == key(port)) {
            let list = path.child("ports");
            warnings.push(format!("{}: duplicate port definition with {}", list.index(i), list.index(first)));
        }
    }
}

fn fractions_of_bytes(container: &Value, path: &Path, warnings: &mut Vec<String>) {
    for kind in ["limits", "requests"] {
        for resource in ["memory", "ephemeral-storage"] {
            let amount = at(container, "resources").and_then(|r| r.get(kind)?.get(resource)?.as_str());
            let quantity = amount.and_then(|a| a.parse::<Quantity>().ok());
            if let Some(quantity) = quantity.filter(|q| q.milli_value() % 1000 != 0) {
                let at = path.child(kind).key(resource);
                warnings.push(format!(
                    "{at}: fractional byte value \"{quantity}\" is invalid, must be an integer"
                ));
            }
        }
    }
}

fn null_selectors(spec: &Value, path: &Path, warnings: &mut Vec<String>) {
    let mut look = |term: &Value, at: Path| {
        if term.get("labelSelector").is_none() {
            warnings.push(format!("{}: {NULL_SELECTOR}", at.child("labelSelector")));
        }
    };
    for (i, constraint) in list_at(spec, "topologySpreadConstraints").iter().enumerate() {
        look(constraint, path.child("topologySpreadConstraints").index(i));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = spec.get("affinity").and_then(|a| a.get(kind)) else { continue };
        let at = path.child("affinity").child(kind);
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        for (i, term) in list_at(affinity, required).iter().enumerate() {
            look(term, at.child(required).index(i));
        }
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        for (i, term) in list_at(affinity, preferred).iter().enumerate() {
            look(&term["podAffinityTerm"], at.child(preferred).index(i).child("podAffinityTerm"));
        }
    }
}
