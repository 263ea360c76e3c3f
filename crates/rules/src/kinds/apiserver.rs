//! What the API server registers and reports of itself: custom resources, other API servers, storage
//! versions and migrations, and the old component statuses.

use isopod_api::{Value, names};
use jiff::Timestamp;

use super::check::{At, check, check_update};
use super::columns::{CREATED_AT, Column, NAME, created_at_row, name, or, with_more};
use super::shared::{at, list_at, str_at};
use super::{Strategy, meta};

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy {
        group: "apiextensions.k8s.io",
        kind: "CustomResourceDefinition",
        generation: true,
        columns: &[NAME, CREATED_AT],
        row: created_at_row,
        name_and_age: false,
        ..Strategy::DEFAULT
    },
    &Strategy {
        group: "apiregistration.k8s.io",
        kind: "APIService",
        name: meta::path_segment,
        unconditional_update: false,
        validate: |service, _| check(service, |service| api_service_rules(&service)),
        validate_update: |service, _, _| check(service, |service| api_service_rules(&service)),
        validate_status_update: |service, _, _| {
            check(service, |service| {
                for condition in service.field("status.conditions").items() {
                    condition.field("status").one_of(&["True", "False", "Unknown"]);
                }
            })
        },
        columns: &[
            Column::text("Service", "Service that answers, or Local."),
            Column::text("Available", "Whether the API can be used."),
        ],
        row: api_service,
        ..Strategy::DEFAULT
    },
    &Strategy {
        group: "internal.apiserver.k8s.io",
        kind: "StorageVersion",
        columns: &[
            Column::text("CommonEncodingVersion", "Version that all servers store."),
            Column::text("StorageVersions", "Version that each server stores."),
        ],
        row: storage_version,
        ..Strategy::DEFAULT
    },
    &Strategy {
        group: "storagemigration.k8s.io",
        kind: "StorageVersionMigration",
        generation: true,
        validate: |migration, _| {
            check(migration, |migration| {
                migration.field("spec.resource.resource").needs_text();
            })
        },
        validate_update: |new, old, _| {
            check_update(new, old, |new, old| new.field("spec").unchanged(&old.field("spec")))
        },
        columns: &[NAME, Column::text("Resource", "Resource to migrate.")],
        row: migration,
        name_and_age: false,
        ..Strategy::DEFAULT
    },
    &Strategy {
        group: "",
        kind: "ComponentStatus",
        columns: &[
            NAME,
            Column::text("Status", "Health of the component."),
            Column::text("Message", "What the component says."),
            Column::text("Error", "What went wrong with asking."),
        ],
        row: component,
        name_and_age: false,
        ..Strategy::DEFAULT
    },
];

fn api_service_rules(service: &At<'_>) {
    let spec = service.field("spec");
    let (name, group, version) = (service.field("metadata.name"), spec.field("group"), spec.field("version"));
    let expected = format!("{}.{}", version.str(), group.str());
    if name.str() != expected {
        name.invalid(format!("must be `spec.version+\".\"+spec.group`: {expected:?}"));
    }
    if group.is_empty() && version.str() != "v1" {
        group.required("only v1 may have an empty group and it better be legacy kube");
    }
    group.follows(names::is_dns1123_subdomain);
    version.must_follow(names::is_dns1035_label);
    for (field, max) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let priority = spec.field(field).int().unwrap_or(0);
        if !(1..=max).contains(&priority) {
            spec.field(field).invalid_as(priority, format!("must be positive and less than {max}"));
        }
    }
    let (target, bundle, skip) =
        (spec.field("service"), spec.field("caBundle"), spec.field("insecureSkipTLSVerify"));
    if !target.is_set() {
        if !bundle.is_empty() {
            bundle.invalid_as(
                format!("{} bytes", bundle.str().len() / 4 * 3),
                "local APIServices may not have a caBundle",
            );
        }
        if skip.is_true() {
            skip.invalid("local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    }
    target.field("namespace").needs_text();
    target.field("name").needs_text();
    let port = target.field("port");
    let wrong = names::is_port_number(port.int().unwrap_or(443));
    if !wrong.is_empty() {
        port.invalid(format!("port is not valid: {}", wrong.join(", ")));
    }
    if skip.is_true() && !bundle.is_empty() {
        skip.invalid("may not be true if caBundle is present");
    }
}

fn api_service(service: &Value, _: Timestamp) -> Vec<Value> {
    let target = at(service, "spec.service")
        .map_or_else(|| "Local".to_owned(), |s| format!("{}/{}", str_at(s, "namespace"), str_at(s, "name")));
    let available = list_at(service, "status.conditions").iter().find(|c| str_at(c, "type") == "Available");
    let available = available.map_or_else(
        || "Unknown".to_owned(),
        |c| match str_at(c, "status") {
            "True" => "True".to_owned(),
            status => format!("{status} ({})", str_at(c, "reason")),
        },
    );
    vec![target.into(), available.into()]
}

fn storage_version(version: &Value, _: Timestamp) -> Vec<Value> {
    let server = |s: &Value| format!("{}={}", str_at(s, "apiServerID"), str_at(s, "encodingVersion"));
    let servers: Vec<String> = list_at(version, "status.storageVersions").iter().map(server).collect();
    let common = or(str_at(version, "status.commonEncodingVersion"), "<unset>");
    vec![common.into(), or(&with_more(&servers, 3), "<unset>").into()]
}

fn migration(migration: &Value, _: Timestamp) -> Vec<Value> {
    let (resource, group) =
        (str_at(migration, "spec.resource.resource"), str_at(migration, "spec.resource.group"));
    let dot = if group.is_empty() { "" } else { "." };
    vec![name(migration), format!("{resource}{dot}{group}").into()]
}

fn component(component: &Value, _: Timestamp) -> Vec<Value> {
    let healthy = list_at(component, "conditions").iter().find(|c| str_at(c, "type") == "Healthy");
    let status = match healthy.map(|c| str_at(c, "status")) {
        Some("True") => "Healthy",
        Some("False") => "Unhealthy",
        _ => "Unknown",
    };
    let text = |key: &str| Value::from(healthy.map_or("", |c| str_at(c, key)));
    vec![name(component), status.into(), text("message"), text("error")]
}
