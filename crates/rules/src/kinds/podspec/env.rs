//! Environment variables and where their values come from.

use isopod_api::field::Error;
use isopod_api::names;

use crate::kinds::check::At;

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const VOLUME_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Fields of a pod that are known but can be used neither in variables nor in volumes.
const OTHER_FIELDS: &[&str] = &["spec.restartPolicy", "spec.schedulerName", "status.phase"];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const CPU_DIVISORS: &[&str] = &["1m", "1"];
const BYTE_DIVISORS: &[&str] =
    &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// Validates `env`.
pub(super) fn variables(variables: &At<'_>) {
    for variable in variables.items() {
        variable.field("name").needs(names::is_env_var_name);
        if variable.field("valueFrom").is_set() {
            value_from(&variable);
        }
    }
}

fn value_from(variable: &At<'_>) {
    let from = variable.field("valueFrom");
    let sources = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"]
        .map(|s| from.field(s));
    let [field, resource, config_map, secret, file] = &sources;
    if field.is_set() {
        field_selector(field, ENV_FIELDS);
    }
    if resource.is_set() {
        resource_selector(resource, false);
    }
    for reference in [config_map, secret].into_iter().filter(|r| r.is_set()) {
        reference.field("name").must_follow(names::is_dns1123_subdomain);
        reference.field("key").needs(names::is_config_map_key);
    }
    if file.is_set() {
        for key in ["key", "volumeName", "path"] {
            file.field(key).needs_text();
        }
    }
    match sources.iter().filter(|s| s.is_set()).count() {
        0 => from.invalid_as(
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ),
        _ if !variable.field("value").is_empty() => {
            from.invalid_as("", "may not be specified when `value` is not empty");
        }
        1 => {}
        _ => from.invalid_as("", "may not have more than one field specified at a time"),
    }
}

/// Validates `envFrom`.
pub(super) fn sources(sources: &At<'_>) {
    for source in sources.items() {
        source.field("prefix").follows(names::is_env_var_name);
        let references = ["configMapRef", "secretRef"].map(|key| source.field(key));
        for reference in references.iter().filter(|r| r.is_set()) {
            reference.field("name").needs(names::is_dns1123_subdomain);
        }
        match references.iter().filter(|r| r.is_set()).count() {
            0 => sources.invalid_as("", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => sources.invalid_as("", "may not have more than one field specified at a time"),
        }
    }
}

/// `metadata.labels['a']` as field and subscript.
fn subscripted(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['")
}

/// A reference to a field of the pod.
fn field_selector(selector: &At<'_>, allowed: &[&str]) {
    selector.field("apiVersion").needs_text();
    let path = selector.field("fieldPath");
    if !path.needs_text() {
        return;
    }
    if let Some((field, subscript)) = subscripted(path.str()) {
        let key = match field {
            "metadata.annotations" => subscript.to_lowercase(),
            "metadata.labels" => subscript.to_owned(),
            _ => return selector.invalid_as(field, "does not support subscript"),
        };
        names::is_qualified_name(&key).into_iter().for_each(|m| selector.invalid_as(subscript, m));
        return;
    }
    let known = [ENV_FIELDS, VOLUME_FIELDS, OTHER_FIELDS].concat();
    if !known.contains(&path.str()) {
        path.invalid(format!("error converting fieldPath: field label not supported: {}", path.str()));
    } else if !allowed.contains(&path.str()) {
        path.report(Error::not_supported(&path.path(), path.str(), allowed));
    }
}

/// A reference to a container's resource.
fn resource_selector(selector: &At<'_>, in_volume: bool) {
    let resource = selector.field("resource");
    if in_volume && selector.field("containerName").is_empty() {
        selector.field("containerName").required("");
    } else if resource.needs_text() {
        let huge = ["limits.hugepages-", "requests.hugepages-"].iter().any(|p| resource.str().starts_with(p));
        if !huge {
            resource.one_of(RESOURCES);
        }
    }
    let divisor = selector.field("divisor");
    if divisor.quantity().is_none_or(|d| d.is_zero()) {
        return;
    }
    let (_, kind) = resource.str().split_once('.').unwrap_or_default();
    let (allowed, shown, what) = match kind {
        "cpu" => (CPU_DIVISORS, CPU_DIVISORS.join(" and "), "cpu"),
        "memory" => (BYTE_DIVISORS, BYTE_DIVISORS.join(", "), "memory"),
        "ephemeral-storage" => (BYTE_DIVISORS, BYTE_DIVISORS.join(", "), "local ephemeral storage"),
        kind if kind.starts_with("hugepages-") => (BYTE_DIVISORS, BYTE_DIVISORS.join(", "), "hugepages"),
        _ => return,
    };
    if !allowed.iter().any(|a| a.parse().ok() == divisor.quantity()) {
        let detail = format!("only divisor's values {shown} are supported with the {what} resource");
        divisor.invalid_as(resource.str(), detail);
    }
}

/// Items of a downward API volume.
pub(super) fn downward_items(items: &At<'_>) {
    for item in items.items() {
        if item.field("path").needs_text() {
            super::volume::file_path(&item.field("path"));
        }
        let (field, resource) = (item.field("fieldRef"), item.field("resourceFieldRef"));
        match (field.is_set(), resource.is_set()) {
            (true, true) => {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                items.invalid_as("resource", detail);
            }
            (true, false) => field_selector(&field, VOLUME_FIELDS),
            (false, true) => resource_selector(&resource, true),
            (false, false) => items.required("one of fieldRef and resourceFieldRef is required"),
        }
        super::volume::mode(&item.field("mode"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::check::{check, texts};
    use serde_json::json;

    #[test]
    fn faults() {
        let of = |resource: &str, divisor: &str| {
            let selector = json!({"resource": resource, "divisor": divisor});
            texts(&check(&json!({"s": selector}), |object| resource_selector(&object.field("s"), false)))
        };
        for (resource, divisor) in [
            ("limits.cpu", "1m"),
            ("limits.memory", "1Mi"),
            ("limits.cpu", "0"),
            ("requests.hugepages-2Mi", "1"),
        ] {
            assert_eq!(of(resource, divisor), Vec::<String>::new());
        }
        assert_eq!(
            of("limits.cpu", "2"),
            [
                "s.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource"
            ]
        );
        assert_eq!(
            of("requests.ephemeral-storage", "3"),
            [
                "s.divisor: Invalid value: \"requests.ephemeral-storage\": only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the local ephemeral storage resource"
            ]
        );
        let reference = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "", "key": "k"}}}]);
        let found = texts(&check(&json!({"env": reference}), |object| variables(&object.field("env"))));
        assert!(
            found[0].starts_with("env[0].valueFrom.configMapKeyRef.name: Invalid value: \"\": "),
            "{found:?}"
        );
    }
}
