//! What the API server registers and reports of itself: custom resources, other API servers, storage
//! versions and migrations, and the old component statuses.

use isopod_api::Value;
use jiff::Timestamp;

use super::Strategy;
use super::columns::{CREATED_AT, Column, NAME, created_at_row, name, or, with_more};
use super::shared::{at, list_at, str_at};

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
