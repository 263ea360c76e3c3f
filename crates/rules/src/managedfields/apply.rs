//! Server-side apply.

use isopod_api::Value;
use isopod_api::codec::{self, FieldValidation};
use isopod_api::schema::Schema;
use isopod_api::status::{Cause, Status};

use super::managers::{Managed, Managers, Who, strip};
use super::merge::{merged, removed};
use super::set::FieldSet;
use super::walk::{compare, fields_of, shape_of_node};

/// Name of the manager of whatever was there before the first record.
const BEFORE_FIRST: &str = "before-first-apply";

/// A field that another manager owns and the apply would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The other manager as people read it.
    pub manager: String,
    /// The field.
    pub path: String,
}

/// What an apply makes of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The object, with `managedFields`.
    pub object: Value,
    /// Whether anything but the record changed.
    pub changed: bool,
}

/// Applies `config` (as the client wrote it, apiVersion and kind left out of account) over `live`, which is
/// `Null` for an object to be created. `owns` says which top-level fields of the object the request may set.
pub fn apply(
    live: &Value,
    config: &Value,
    schema: &Schema,
    who: &Who<'_>,
    force: bool,
    owns: impl Fn(&str) -> bool,
) -> Result<Applied, Vec<Conflict>> {
    let root = schema.root();
    let mut config = config.clone();
    if let Some(map) = config.as_object_mut() {
        map.retain(|key, _| owns(key));
        if let Some(meta) = map.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("managedFields");
        }
    }
    let mut managers = Managers::of(live).unwrap_or_default();
    if managers.is_empty() && !live.is_null() {
        managers.0.push(before_first(live, schema, who));
    }
    let mut fields = fields_of(&config, root);
    strip(&mut fields);
    let last = managers.0.iter().find(|m| m.is(who)).map(|m| m.fields.clone()).unwrap_or_default();
    let others = managers.0.iter().filter(|m| !m.is(who));
    let owned = others.fold(fields.clone(), |all, m| all.union(&m.fields));
    let base = if live.is_null() { Value::Object(isopod_api::Map::new()) } else { live.clone() };
    let mut object = merged(&base, &config, shape_of_node(root));
    removed(&mut object, shape_of_node(root), &last.difference(&owned), &owned);
    let object = normal(object, schema);
    let compared = compare(&base, &object, root);
    let mut touched = compared.modified.union(&compared.added);
    strip(&mut touched);
    resolve(&mut managers, who, &touched, &compared.removed, force)?;
    set_own(&mut managers, who, fields);
    let changed = live.is_null() || !compared.is_same();
    let mut object = object;
    managers.write(&mut object);
    Ok(Applied { object, changed })
}

fn before_first(live: &Value, schema: &Schema, who: &Who<'_>) -> Managed {
    let mut fields = fields_of(live, schema.root());
    strip(&mut fields);
    Managed {
        manager: BEFORE_FIRST.to_owned(),
        apply: false,
        api_version: who.api_version.to_owned(),
        subresource: String::new(),
        time: who.time.to_owned(),
        fields,
    }
}

/// The canonical form, so that values compare; what does not fit the schema is reported by the caller, who
/// decodes the configuration by it.
fn normal(object: Value, schema: &Schema) -> Value {
    match codec::normalize(object.clone(), schema, FieldValidation::Ignore) {
        Ok(decoded) => {
            let mut value = decoded.value;
            for key in ["apiVersion", "kind"] {
                if let (Some(map), Some(text)) = (value.as_object_mut(), object.get(key)) {
                    map.insert(key.to_owned(), text.clone());
                }
            }
            value
        }
        Err(_) => object,
    }
}

/// Finds conflicts, or takes the fields away from the others if the apply is forced.
fn resolve(
    managers: &mut Managers,
    who: &Who<'_>,
    touched: &FieldSet,
    gone: &FieldSet,
    force: bool,
) -> Result<(), Vec<Conflict>> {
    let mut conflicts = Vec::new();
    for other in managers.0.iter_mut().filter(|m| !m.is(who)) {
        let disputed = other.fields.intersection(touched);
        if !disputed.is_empty() && !force {
            let manager = shown(other);
            conflicts
                .extend(disputed.paths().into_iter().map(|path| Conflict { manager: manager.clone(), path }));
        }
        other.fields = other.fields.difference(&disputed.union(gone));
    }
    if conflicts.is_empty() { Ok(()) } else { Err(conflicts) }
}

fn set_own(managers: &mut Managers, who: &Who<'_>, fields: FieldSet) {
    match managers.0.iter_mut().find(|m| m.is(who)) {
        Some(own) => {
            if own.fields != fields || own.api_version != who.api_version {
                who.time.clone_into(&mut own.time);
            }
            own.fields = fields;
            who.api_version.clone_into(&mut own.api_version);
        }
        None => managers.0.push(Managed {
            manager: who.manager.to_owned(),
            apply: true,
            api_version: who.api_version.to_owned(),
            subresource: who.subresource.to_owned(),
            time: who.time.to_owned(),
            fields,
        }),
    }
}

fn shown(manager: &Managed) -> String {
    let mut text = format!("{:?}", manager.manager);
    if !manager.subresource.is_empty() {
        text = format!("{text} with subresource {:?}", manager.subresource);
    }
    if !manager.apply {
        text = format!("{text} using {}", manager.api_version);
        if !manager.time.is_empty() {
            text = format!("{text} at {}", manager.time);
        }
    }
    text
}

/// The answer to an apply that conflicts.
pub fn conflict_status(conflicts: &[Conflict]) -> Status {
    let causes = conflicts
        .iter()
        .map(|c| Cause {
            reason: "FieldManagerConflict".to_owned(),
            message: format!("conflict with {}", c.manager),
            field: c.path.clone(),
        })
        .collect();
    let message = match conflicts {
        [one] => format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.path),
        several => {
            let mut managers: Vec<&str> = several.iter().map(|c| c.manager.as_str()).collect();
            managers.sort_unstable();
            managers.dedup();
            let mut lines = Vec::new();
            for manager in managers {
                lines.push(format!("conflicts with {manager}:"));
                lines
                    .extend(several.iter().filter(|c| c.manager == manager).map(|c| format!("- {}", c.path)));
            }
            format!("Apply failed with {} conflicts: {}", several.len(), lines.join("\n"))
        }
    };
    Status::apply_conflict(message, causes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn who(manager: &str) -> Who<'_> {
        Who { manager, apply: true, api_version: "apps/v1", subresource: "", time: "2026-01-01T00:00:00Z" }
    }

    fn deployment(replicas: Option<i64>, containers: &[(&str, &str)], labels: Value) -> Value {
        let list: Vec<Value> = containers.iter().map(|(n, i)| json!({"name": n, "image": i})).collect();
        let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "d", "labels": labels}, "spec": {"template": {"spec": {"containers": list}}}});
        if let Some(replicas) = replicas {
            object["spec"]["replicas"] = replicas.into();
        }
        object
    }

    #[test]
    fn merge_prune_conflict_force() {
        let schema = &isopod_api::facts::builtin().kind("apps", "v1", "Deployment").unwrap().schema;
        let all = |_: &str| true;
        let first = deployment(Some(3), &[("a", "1"), ("b", "1")], json!({"x": "1", "y": "1"}));
        let live = apply(&Value::Null, &first, schema, &who("one"), false, all).unwrap().object;
        // Another manager adds a container and may not change what the first one set.
        let other = deployment(None, &[("c", "1")], json!({"z": "1"}));
        let live = apply(&live, &other, schema, &who("two"), false, all).unwrap().object;
        let names = |o: &Value| {
            let list = o["spec"]["template"]["spec"]["containers"].as_array().unwrap();
            list.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&live).len(), 3);
        let disputed = deployment(Some(5), &[("c", "1")], json!({"z": "1"}));
        let conflicts = apply(&live, &disputed, schema, &who("two"), false, all).unwrap_err();
        assert_eq!(
            conflict_status(&conflicts).message,
            "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas"
        );
        let live = apply(&live, &disputed, schema, &who("two"), true, all).unwrap().object;
        assert_eq!(live["spec"]["replicas"], 5);
        // What the first manager no longer applies goes, unless somebody else owns it.
        let less = deployment(None, &[("a", "1")], json!({"x": "1"}));
        let live = apply(&live, &less, schema, &who("one"), false, all).unwrap().object;
        assert_eq!(names(&live), ["a", "c"]);
        assert_eq!(live["metadata"]["labels"], json!({"x": "1", "z": "1"}));
        assert_eq!(live["spec"]["replicas"], 5);
        // Applying the same again changes nothing.
        let again = apply(&live, &less, schema, &who("one"), false, all).unwrap();
        assert!(!again.changed);
        assert_eq!(again.object, live);
    }
}
