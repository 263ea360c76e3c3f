//! Server-side tables: what `kubectl get` shows.

use isopod_api::Value;
use isopod_api::object::api_version;
use isopod_rules::kinds::{AGE, Column, NAME, age};
use serde_json::json;

use crate::context::Ctx;
use crate::registry::Resource;
use crate::registry::list::Page;
use crate::respond::partial_metadata;

fn definition(column: &Column) -> Value {
    json!({"name": column.name, "type": column.kind, "format": column.format, "description": column.description,
        "priority": column.priority})
}

/// Column definitions of a resource's tables.
pub(crate) fn columns(resource: &Resource) -> Value {
    let strategy = resource.stored.strategy;
    let of = definition;
    let mut columns: Vec<Value> = Vec::new();
    if strategy.name_and_age {
        columns.push(of(&NAME));
        // Wide columns come after Age, as upstream orders them.
        columns.extend(strategy.columns.iter().filter(|c| c.priority == 0).map(of));
        columns.push(of(&AGE));
        columns.extend(strategy.columns.iter().filter(|c| c.priority != 0).map(of));
    } else {
        columns.extend(strategy.columns.iter().map(of));
    }
    columns.into()
}

fn cells(resource: &Resource, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let strategy = resource.stored.strategy;
    let own = (strategy.row)(object, now);
    if !strategy.name_and_age {
        return own;
    }
    let metadata = object.get("metadata");
    let mut cells = vec![metadata.and_then(|m| m.get("name")).cloned().unwrap_or_default()];
    let (mut shown, mut wide) = (Vec::new(), Vec::new());
    for (cell, column) in own.into_iter().zip(strategy.columns) {
        if column.priority == 0 { shown.push(cell) } else { wide.push(cell) }
    }
    cells.append(&mut shown);
    cells.push(age(metadata.and_then(|m| m.get("creationTimestamp")), now).into());
    cells.append(&mut wide);
    cells
}

/// One row. `stored` is the object in the storage version, which the kind's rules read.
pub(crate) fn row(ctx: &Ctx, resource: &Resource, stored: Value, version: &str) -> Value {
    let cells = cells(resource, &stored, ctx.now);
    let mut row = json!({"cells": cells});
    match ctx.query.get("includeObject") {
        "None" => {}
        "Object" => row["object"] = resource.to_version(stored),
        _ => row["object"] = partial_metadata(&stored, version),
    }
    row
}

/// A table of rows.
pub(crate) fn table(resource: &Resource, rows: Vec<Value>, metadata: Value, version: &str) -> Value {
    json!({"kind": "Table", "apiVersion": api_version("meta.k8s.io", version), "metadata": metadata,
        "columnDefinitions": columns(resource), "rows": rows})
}

/// A table of one object, given in the requested version.
pub(crate) fn single(ctx: &Ctx, resource: &Resource, object: Value, version: &str) -> Value {
    let revision = object["metadata"]["resourceVersion"].clone();
    let stored = resource.to_storage(object.clone()).unwrap_or(object);
    let row = row(ctx, resource, stored, version);
    table(resource, vec![row], json!({"resourceVersion": revision}), version)
}

/// What tables of a Scale show.
const SCALE: &[Column] = &[
    Column::text("Name", "Name of the workload."),
    Column::integer("Desired", "Pods wanted."),
    Column::integer("Available", "Pods that exist."),
    AGE,
];

fn scale_cells(scale: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let count = |part: &str| scale[part]["replicas"].as_i64().unwrap_or(0).into();
    let created = scale["metadata"].get("creationTimestamp");
    vec![scale["metadata"]["name"].clone(), count("spec"), count("status"), age(created, now).into()]
}

/// A table of one Scale.
pub(crate) fn scale(ctx: &Ctx, scale: Value, version: &str) -> Value {
    let columns: Vec<Value> = SCALE.iter().map(definition).collect();
    let revision = scale["metadata"]["resourceVersion"].clone();
    let mut row = json!({"cells": scale_cells(&scale, ctx.now)});
    match ctx.query.get("includeObject") {
        "None" => {}
        "Object" => row["object"] = scale,
        _ => row["object"] = partial_metadata(&scale, version),
    }
    json!({"kind": "Table", "apiVersion": api_version("meta.k8s.io", version),
        "metadata": {"resourceVersion": revision}, "columnDefinitions": columns, "rows": [row]})
}

/// A table of a list.
pub(crate) fn list(ctx: &Ctx, resource: &Resource, page: &Page, metadata: Value, version: &str) -> Value {
    let mut objects: Vec<Value> = page.entries.iter().map(|entry| entry.object()).collect();
    if let Some(order) = resource.stored.strategy.row_order {
        objects.sort_by_key(order);
    }
    let rows = objects.into_iter().map(|object| row(ctx, resource, object, version)).collect();
    table(resource, rows, metadata, version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales() {
        let now = "2024-01-01T00:00:30Z".parse().unwrap();
        let scale = json!({"metadata": {"name": "web", "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"replicas": 3}, "status": {"replicas": 2}});
        assert_eq!(scale_cells(&scale, now), [json!("web"), json!(3), json!(2), json!("30s")]);
        assert_eq!(scale_cells(&json!({}), now).len(), SCALE.len());
    }
}
