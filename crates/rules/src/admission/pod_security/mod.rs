//! PodSecurity: what pods of a namespace may do to their node, by the namespace's labels.
//!
//! Three modes (`enforce`, `audit`, `warn`), each with a level and a version; without a label everything is
//! allowed. Levels, checks, versions and messages are upstream's of v1.36. There are no exemptions.
//! What was enforced, and what the `audit` level would refuse, goes to the audit log as annotations.

mod baseline;
mod evaluate;
mod restricted;
mod subject;

use std::collections::BTreeMap;
use std::fmt;

use isopod_api::Value;
use isopod_api::field::{Error, Path};
use isopod_api::status::Status;

pub use evaluate::{Violation, evaluate};

use super::value::{items, list, text};
use super::{Operation, Plugin, Query, Request, View};

/// The version of the checks that `latest` means.
pub const LATEST_MINOR: u32 = 36;
/// Annotations of the audit log: the level that was enforced, and what the audited one would refuse.
const ENFORCED: &str = "pod-security.kubernetes.io/enforce-policy";
const VIOLATED: &str = "pod-security.kubernetes.io/audit-violations";
/// Existing pods that are looked at when a namespace's level rises.
const PODS_CHECKED_MAX: usize = 3000;

pub(super) static PLUGIN: Plugin =
    Plugin { name: "PodSecurity", handles, needs, admit: None, validate: Some(validate) };

/// How much pods may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Privileged,
    /// Nothing that is known to lead out of the container.
    Baseline,
    /// Only what good practice allows.
    Restricted,
}

/// A level at a version; `None` is the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LevelVersion {
    /// The level.
    pub level: Level,
    /// The minor version of Kubernetes whose checks count.
    pub minor: Option<u32>,
}

const PRIVILEGED: LevelVersion = LevelVersion { level: Level::Privileged, minor: None };

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.minor {
            None => write!(f, "{level}:latest"),
            Some(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

/// What a namespace's labels say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// What is refused.
    pub enforce: LevelVersion,
    /// What is recorded.
    pub audit: LevelVersion,
    /// What the client is warned of.
    pub warn: LevelVersion,
}

impl Policy {
    /// Reads a namespace's labels, and what is wrong with them. A level that cannot be read is restricted where it
    /// is enforced, so that a typing error does not open the door, and privileged elsewhere.
    pub fn of(namespace: &Value) -> (Policy, Vec<Error>) {
        let labels = &namespace["metadata"]["labels"];
        let path = Path::new("metadata").child("labels");
        let mut errors = Vec::new();
        let mut policy = Policy { enforce: PRIVILEGED, audit: PRIVILEGED, warn: PRIVILEGED };
        let modes =
            [("enforce", &mut policy.enforce), ("audit", &mut policy.audit), ("warn", &mut policy.warn)];
        for (mode, found) in modes {
            let key = format!("pod-security.kubernetes.io/{mode}");
            if let Some(value) = labels[&key].as_str() {
                found.level = parse_level(value).unwrap_or_else(|| {
                    let detail = "must be one of privileged, baseline, restricted";
                    errors.push(Error::invalid(&path.key(&key), value, detail));
                    if mode == "enforce" { Level::Restricted } else { Level::Privileged }
                });
            }
            let key = format!("{key}-version");
            if let Some(value) = labels[&key].as_str() {
                found.minor = parse_version(value).unwrap_or_else(|| {
                    errors.push(Error::invalid(&path.key(&key), value, "must be \"latest\" or \"v1.x\""));
                    None
                });
            }
        }
        // Whoever enforces without saying what to warn of is warned of the same, in pod templates.
        let says = |mode: &str| labels[format!("pod-security.kubernetes.io/{mode}")].as_str();
        let enforced = says("enforce").and_then(parse_level).is_some_and(|level| level > policy.warn.level);
        if enforced && says("warn").is_none() {
            policy.warn.level = policy.enforce.level;
            if says("warn-version").is_none() {
                policy.warn.minor = policy.enforce.minor;
            }
        }
        (policy, errors)
    }
}

fn parse_level(text: &str) -> Option<Level> {
    match text {
        "privileged" => Some(Level::Privileged),
        "baseline" => Some(Level::Baseline),
        "restricted" => Some(Level::Restricted),
        _ => None,
    }
}

fn parse_version(text: &str) -> Option<Option<u32>> {
    if text == "latest" {
        return Some(None);
    }
    let minor = text.strip_prefix("v1.")?;
    let plain = !minor.is_empty()
        && minor.bytes().all(|b| b.is_ascii_digit())
        && (minor == "0" || !minor.starts_with('0'));
    plain.then(|| minor.parse().ok()).flatten().map(Some)
}

/// Where the pod template stands in the kinds that have one.
fn template_pointer(group: &str, resource: &str) -> Option<&'static str> {
    match (group, resource) {
        ("", "podtemplates") => Some("/template"),
        ("", "replicationcontrollers")
        | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => Some("/spec/template"),
        ("batch", "cronjobs") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

fn handles(operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
    if !matches!(operation, Operation::Create | Operation::Update) {
        return false;
    }
    match (group, resource) {
        ("", "pods") => {
            let ignored = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];
            !ignored.contains(&subresource)
        }
        ("", "namespaces") => subresource.is_empty(),
        _ => subresource.is_empty() && template_pointer(group, resource).is_some(),
    }
}

fn needs(request: &Request<'_>) -> Vec<Query> {
    if (request.group, request.resource) != ("", "namespaces") {
        return vec![Query::get("", "namespaces", "", request.namespace)];
    }
    let rises = request.operation == Operation::Update && rises(request.old, request.object);
    if rises { vec![Query::list("", "pods", text(request.object, "/metadata/name"))] } else { Vec::new() }
}

/// Whether pods that are there may violate what the namespace now asks for.
fn rises(old: &Value, new: &Value) -> bool {
    let (old, new) = (Policy::of(old).0.enforce, Policy::of(new).0.enforce);
    new != old && new.level != Level::Privileged && !(new.minor == old.minor && new.level <= old.level)
}

fn validate(request: &mut Request<'_>, view: &View) -> Result<(), Status> {
    if (request.group, request.resource) == ("", "namespaces") {
        return validate_namespace(request, view);
    }
    let Some(namespace) = view.one("namespaces") else {
        return Err(Status::internal(format!("failed to lookup namespace {:?}", request.namespace)));
    };
    let (policy, _) = Policy::of(namespace);
    if (request.group, request.resource) == ("", "pods") {
        if request.operation == Operation::Update && !significant(request.object, request.old) {
            return Ok(());
        }
        request.annotations.push((ENFORCED, policy.enforce.to_string()));
        record(request, policy.audit, None);
        let violations = evaluate(policy.enforce, request.object);
        if !violations.is_empty() {
            let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, describe(&violations));
            return Err(request.forbidden(why));
        }
        warn(request, policy.warn, None);
    } else if let Some(pointer) = template_pointer(request.group, request.resource) {
        record(request, policy.audit, Some(pointer));
        warn(request, policy.warn, Some(pointer));
    }
    Ok(())
}

/// What a level has against a pod, or against the template of one; `None` if nothing.
fn complaint(request: &Request<'_>, policy: LevelVersion, template: Option<&str>) -> Option<String> {
    let subject = match template {
        None => Some(&*request.object),
        Some(pointer) => request.object.pointer(pointer).filter(|template| !template.is_null()),
    };
    let violations = subject.map(|pod| evaluate(policy, pod)).unwrap_or_default();
    let told = || format!("would violate PodSecurity \"{policy}\": {}", describe(&violations));
    (!violations.is_empty()).then(told)
}

fn warn(request: &mut Request<'_>, policy: LevelVersion, template: Option<&str>) {
    if let Some(complaint) = complaint(request, policy, template) {
        request.warnings.push(complaint);
    }
}

fn record(request: &mut Request<'_>, policy: LevelVersion, template: Option<&str>) {
    if let Some(complaint) = complaint(request, policy, template) {
        request.annotations.push((VIOLATED, complaint));
    }
}

fn describe(violations: &[Violation]) -> String {
    let texts: Vec<String> = violations.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// Of what may change in a pod, images and ephemeral containers count.
fn significant(new: &Value, old: &Value) -> bool {
    let images = |pod: &Value, field: &str| -> Vec<String> {
        list(pod, &format!("/spec/{field}")).iter().map(|c| text(c, "/image").to_owned()).collect()
    };
    if ["containers", "initContainers"].iter().any(|field| images(new, field) != images(old, field)) {
        return true;
    }
    let known = list(old, "/spec/ephemeralContainers");
    list(new, "/spec/ephemeralContainers").iter().any(|container| {
        !known.iter().any(|old| old["name"] == container["name"] && old["image"] == container["image"])
    })
}

fn validate_namespace(request: &mut Request<'_>, view: &View) -> Result<(), Status> {
    let name = text(request.object, "/metadata/name").to_owned();
    let (new, errors) = Policy::of(request.object);
    let (_, old_errors) = Policy::of(request.old);
    let tolerated = request.operation == Operation::Update && !old_errors.is_empty() && errors == old_errors;
    if !errors.is_empty() && !tolerated {
        return Err(Status::invalid("", "Namespace", &name, &errors));
    }
    if request.operation == Operation::Update && rises(request.old, request.object) {
        request.warnings.extend(existing_pods(&name, new.enforce, view.list("pods")));
    }
    Ok(())
}

/// Warnings about pods that are there: one for each set of violations, naming the first pod. Of the pods of one
/// controller one is looked at before the others.
fn existing_pods(namespace: &str, policy: LevelVersion, pods: &[Value]) -> Vec<String> {
    let controller = |pod: &Value| {
        let owners = items(&pod["metadata"], "ownerReferences");
        owners.iter().find(|owner| owner["controller"] == true).map(|owner| text(owner, "/uid").to_owned())
    };
    let mut seen = std::collections::BTreeSet::new();
    let (mut first, rest): (Vec<&Value>, Vec<&Value>) =
        pods.iter().partition(|pod| controller(pod).is_none_or(|uid| seen.insert(uid)));
    first.extend(rest);
    let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for pod in first.iter().take(PODS_CHECKED_MAX) {
        let violations = evaluate(policy, pod);
        if !violations.is_empty() {
            let reasons: Vec<&str> = violations.iter().map(|violation| violation.reason.as_str()).collect();
            let name = text(pod, "/metadata/name").to_owned();
            let entry = found.entry(reasons.join(", ")).or_insert_with(|| (name.clone(), 0));
            entry.0 = entry.0.clone().min(name);
            entry.1 += 1;
        }
    }
    let mut warnings = Vec::new();
    if pods.len() > PODS_CHECKED_MAX {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {PODS_CHECKED_MAX} of {} existing pods",
            pods.len()
        ));
    }
    if !found.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{policy}\""
        ));
    }
    let mut details: Vec<String> = found
        .into_iter()
        .map(|(reasons, (name, count))| match count {
            1 => format!("{name}: {reasons}"),
            2 => format!("{name} (and 1 other pod): {reasons}"),
            count => format!("{name} (and {} other pods): {reasons}", count - 1),
        })
        .collect();
    details.sort();
    warnings.extend(details);
    warnings
}

#[cfg(test)]
mod tests;
