//! Defaulting: what upstream fills in when an object is read.
//!
//! Two sources, in upstream's order: functions bound to types (one file a group), wherever a value of the type
//! occurs in any kind, from the outside in; and defaults that the schema declares. A type below which there is
//! nothing to fill in is never walked. Values are expected in canonical form and stay so.
//!
//! What upstream does while converting and clients see as defaults is here too: `serviceAccount` beside
//! `serviceAccountName`, `stringData` of Secrets.

mod admissionregistration;
mod apps;
mod autoscaling;
mod batch;
mod container_resources;
mod core;
mod extensions;
mod networking;
mod rbac;
mod storage;

use crate::codec::zero;
use crate::facts;
use crate::schema::{Schema, Ty, TypeId, Types};
use crate::{Map, Value};
use std::sync::LazyLock;

pub(crate) use autoscaling::{CPU_UTILIZATION_DEFAULT, cpu_metric};

/// Fills in what a value of one type leaves out, not looking below it.
type Hook = fn(&mut Map);

/// What there is to fill in below each type of an arena.
struct Plan {
    hooks: Vec<Option<Hook>>,
    /// Whether anything is filled in at or below the type.
    reaches: Vec<bool>,
}

static BUILTIN: LazyLock<Plan> = LazyLock::new(|| Plan::new(facts::builtin().types(), hook));

/// Fills in the defaults of an object of a built-in kind; other kinds are left alone.
pub fn apply(group: &str, version: &str, kind: &str, value: &mut Value) {
    if let Some(facts) = facts::builtin().kind(group, version, kind) {
        let root = facts.schema.root();
        walk(root.types, Some(&BUILTIN), root.ty, value);
    }
}

/// Fills in the defaults that a schema declares.
pub fn apply_schema(schema: &Schema, value: &mut Value) {
    walk(schema.root().types, None, schema.root().ty, value);
}

fn hook(package: &str, name: &str) -> Option<Hook> {
    match package.split('/').next()? {
        "core" => core::hook(name),
        "apps" => apps::hook(package, name),
        "batch" => batch::hook(name),
        "autoscaling" => autoscaling::hook(package, name),
        "rbac" => rbac::hook(name),
        "networking" | "discovery" | "policy" | "scheduling" | "node" => networking::hook(package, name),
        "storage" | "resource" => storage::hook(package, name),
        "admissionregistration" => admissionregistration::hook(name),
        "apiextensions" | "apiregistration" | "flowcontrol" | "authentication" | "certificates" => {
            extensions::hook(package, name)
        }
        _ => None,
    }
}

impl Plan {
    fn new(types: &Types, hook: impl Fn(&str, &str) -> Option<Hook>) -> Plan {
        let hooks: Vec<Option<Hook>> = types
            .ids()
            .map(|id| {
                let def = types.def(id);
                hook(types.str(types.packages[def.package as usize].key), types.str(def.name))
            })
            .collect();
        let mut reaches: Vec<bool> = hooks.iter().map(Option::is_some).collect();
        // Types refer to each other in circles, so go on until nothing changes.
        loop {
            let mut changed = false;
            for id in types.ids() {
                if !reaches[id.0 as usize] && own_reach(types, &reaches, id) {
                    reaches[id.0 as usize] = true;
                    changed = true;
                }
            }
            if !changed {
                return Plan { hooks, reaches };
            }
        }
    }
}

fn own_reach(types: &Types, reaches: &[bool], id: TypeId) -> bool {
    types.json_fields(id).iter().any(|number| {
        let def = types.field_def(*number);
        !types.str(def.default).is_empty() || ty_reaches(types, reaches, def.ty)
    })
}

fn ty_reaches(types: &Types, reaches: &[bool], ty: Ty) -> bool {
    match ty {
        Ty::Struct(id) => reaches[id.0 as usize],
        Ty::Map(element) if types.element(element) == Ty::Quantity => true,
        Ty::List(element) | Ty::Map(element) => ty_reaches(types, reaches, types.element(element)),
        _ => false,
    }
}

fn walk(types: &Types, plan: Option<&Plan>, ty: Ty, value: &mut Value) {
    if plan.is_some_and(|plan| !ty_reaches(types, &plan.reaches, ty)) {
        return;
    }
    match (ty, value) {
        (Ty::Struct(id), Value::Object(map)) => walk_struct(types, plan, id, map),
        (Ty::List(element), Value::Array(items)) => {
            let element = types.element(element);
            items.iter_mut().for_each(|item| walk(types, plan, element, item));
        }
        (Ty::Map(element), Value::Object(map)) => match types.element(element) {
            Ty::Quantity if plan.is_some() => map.values_mut().for_each(round_up),
            element => map.values_mut().for_each(|item| walk(types, plan, element, item)),
        },
        _ => {}
    }
}

fn walk_struct(types: &Types, plan: Option<&Plan>, id: TypeId, map: &mut Map) {
    if let Some(hook) = plan.and_then(|plan| plan.hooks[id.0 as usize]) {
        hook(map);
    }
    for number in types.json_fields(id) {
        let def = types.field_def(*number);
        let name = types.str(def.json);
        let default = types.str(def.default);
        match map.get_mut(name) {
            Some(value) if !value.is_null() && (default.is_empty() || *value != "") => {
                walk(types, plan, def.ty, value);
            }
            _ if default.is_empty() => {}
            _ => {
                let value: Value = serde_json::from_str(default).expect("a declared default is JSON");
                if !zero::omitted(types, def, &value) {
                    map.insert(name.to_owned(), value);
                }
            }
        }
    }
}

/// Amounts of resources are kept in thousandths.
fn round_up(value: &mut Value) {
    let Some(text) = value.as_str().filter(|text| text.ends_with(['n', 'u'])) else { return };
    if let Ok(quantity) = text.parse::<crate::quantity::Quantity>() {
        *value = crate::quantity::Quantity::from_milli(quantity.milli_value()).to_string().into();
    }
}

/// Whether a field holds nothing: absent, null or the empty text.
fn missing(map: &Map, key: &str) -> bool {
    match map.get(key) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    }
}

/// Sets a field that holds nothing.
fn set(map: &mut Map, key: &str, value: impl Into<Value>) {
    if missing(map, key) {
        map.insert(key.to_owned(), value.into());
    }
}

/// Sets a number that is absent or zero, where upstream takes zero for absent.
fn set_number(map: &mut Map, key: &str, value: i64) {
    if missing(map, key) || map.get(key).and_then(Value::as_i64) == Some(0) {
        map.insert(key.to_owned(), value.into());
    }
}

fn text<'m>(map: &'m Map, key: &str) -> &'m str {
    map.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn is_empty(map: &Map, key: &str) -> bool {
    match map.get(key) {
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(entries)) => entries.is_empty(),
        _ => missing(map, key),
    }
}

fn object<'m>(map: &'m mut Map, key: &str) -> Option<&'m mut Map> {
    map.get_mut(key).and_then(Value::as_object_mut)
}

/// The object below a key, made when absent.
pub(crate) fn object_or_new<'m>(map: &'m mut Map, key: &str) -> &'m mut Map {
    let value = map.entry(key).or_insert(Value::Null);
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("just made an object")
}

fn objects<'m>(map: &'m mut Map, key: &str) -> impl Iterator<Item = &'m mut Map> {
    map.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

#[cfg(test)]
mod tests;
