//! What is particular to each kind, as one [`Strategy`] of plain functions per kind in one table.
//!
//! The API server runs the same path for every resource and asks the strategy only at the places where
//! kinds differ. All functions see objects in the storage version of their kind, defaulted. A kind without
//! a file of its own gets [`Strategy::DEFAULT`]. Adding a kind's rules is one file and one line here.

mod base64;
mod bounds;
mod check;
mod columns;
pub mod meta;
mod shared;

mod admissionregistration;
mod apiserver;
mod apps;
mod autoscaling;
mod batch;
mod certificates;
mod configmap;
mod coordination;
mod endpoints;
mod event;
mod flowcontrol;
mod limits;
mod namespace;
mod networking;
mod node;
mod pod;
mod podspec;
mod policy;
mod rbac;
mod resource;
mod scheduling;
mod secret;
pub mod service;
mod serviceaccount;
mod storage;

pub use columns::{AGE, Column, NAME, age, human_duration};
pub use pod::qos_class;

use std::collections::BTreeMap;

use isopod_api::Value;
use isopod_api::field::ErrorList;

/// What the rules may know beyond the objects.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The time of the request.
    pub now: jiff::Timestamp,
    /// Name of the user who asks.
    pub user: &'a str,
    /// Groups of the user who asks.
    pub groups: &'a [String],
    /// The user's uid.
    pub user_uid: &'a str,
    /// What else authentication says of the user who asks.
    pub extra: &'a BTreeMap<String, Vec<String>>,
    /// Subresource written, empty for the object itself.
    pub subresource: &'a str,
}

#[cfg(test)]
impl Context<'static> {
    /// Nobody, at the beginning of time.
    pub(crate) const TEST: Context<'static> = Context {
        now: jiff::Timestamp::UNIX_EPOCH,
        user: "",
        groups: &[],
        user_uid: "",
        extra: &BTreeMap::new(),
        subresource: "",
    };
}

/// Checks a name (or, if the flag is set, the prefix in `generateName`) and says what is wrong.
pub type NameRule = fn(&str, bool) -> Vec<String>;

/// Seconds an object gets to end, from the object and what the client asked for.
pub type GraceRule = fn(&Value, Option<i64>) -> Option<i64>;

/// The functions and facts of one kind.
#[derive(Clone, Copy)]
pub struct Strategy {
    /// API group.
    pub group: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Rule for `metadata.name`.
    pub name: NameRule,
    /// Whether `metadata.generation` counts changes of the spec.
    pub generation: bool,
    /// Whether a PUT to a name that does not exist creates the object.
    pub create_on_update: bool,
    /// Whether an update may leave out `metadata.resourceVersion`.
    pub unconditional_update: bool,
    /// Seconds between the request to delete and the deletion if the client names none; `None` for kinds
    /// that are deleted at once.
    pub graceful_seconds: Option<GraceRule>,
    /// Sets the fields that clients may not choose, before validation of a create.
    pub prepare_for_create: fn(&mut Value, &Context<'_>),
    /// Carries over what an update may not change; `old` is the stored object.
    pub prepare_for_update: fn(&mut Value, &Value, &Context<'_>),
    /// The same for the `status` subresource, after everything but status was carried over.
    pub prepare_for_status_update: fn(&mut Value, &Value, &Context<'_>),
    /// Validates a new object; metadata is validated by the caller.
    pub validate: fn(&Value, &Context<'_>) -> ErrorList,
    /// Validates a change; metadata is validated by the caller.
    pub validate_update: fn(&Value, &Value, &Context<'_>) -> ErrorList,
    /// Validates a change of the `status` subresource.
    pub validate_status_update: fn(&Value, &Value, &Context<'_>) -> ErrorList,
    /// Validates what another subresource's handler has made of the request ([`Context::subresource`] names it).
    pub validate_subresource: fn(&Value, &Value, &Context<'_>) -> ErrorList,
    /// Warnings for the client that writes `new` over `old`.
    pub warnings: fn(&Value, Option<&Value>) -> Vec<String>,
    /// Whether a new object keeps the status that the client sent (few kinds).
    pub keep_status_on_create: bool,
    /// Fields besides `metadata.name` and `metadata.namespace` that field selectors may name: label and
    /// the path it reads in the storage version.
    pub selectable: &'static [(&'static str, &'static str)],
    /// What selectable fields read where the object has none of it, if not the empty text.
    pub selectable_absent: &'static [(&'static str, &'static str)],
    /// Table columns after Name and before Age; empty for kinds that show only those two.
    pub columns: &'static [Column],
    /// Cells of one row, for `columns` in order.
    pub row: fn(&Value, jiff::Timestamp) -> Vec<Value>,
    /// Whether tables of this kind begin with Name and end with Age (`false`: `columns` is everything).
    pub name_and_age: bool,
    /// By what tables of a list are sorted, lowest first, where that is not the name; rows that are equal keep
    /// their order.
    pub row_order: Option<fn(&Value) -> i64>,
    /// Whether a delete that names no propagation policy leaves the dependents (few old kinds).
    pub orphan_by_default: bool,
}

impl std::fmt::Debug for Strategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Strategy({}/{})", self.group, self.kind)
    }
}

impl Strategy {
    /// What holds for a kind that says nothing else.
    pub const DEFAULT: Strategy = Strategy {
        group: "",
        kind: "",
        name: meta::subdomain,
        generation: false,
        create_on_update: false,
        unconditional_update: true,
        graceful_seconds: None,
        prepare_for_create: |_, _| {},
        prepare_for_update: |_, _, _| {},
        prepare_for_status_update: |_, _, _| {},
        validate: |_, _| Vec::new(),
        validate_update: |_, _, _| Vec::new(),
        validate_status_update: |_, _, _| Vec::new(),
        validate_subresource: |_, _, _| Vec::new(),
        warnings: |_, _| Vec::new(),
        keep_status_on_create: false,
        selectable: &[],
        selectable_absent: &[],
        columns: &[],
        row: |_, _| Vec::new(),
        name_and_age: true,
        row_order: None,
        orphan_by_default: false,
    };

    /// The value of a selectable field of an object; `None` if the field cannot be selected by.
    pub fn field<'v>(&self, object: &'v Value, label: &str) -> Option<std::borrow::Cow<'v, str>> {
        let path = match label {
            "metadata.name" | "metadata.namespace" => label,
            _ => self.selectable.iter().find(|(l, _)| *l == label)?.1,
        };
        match shared::text_at(object, path) {
            text if text.is_empty() => {
                let absent = self.selectable_absent.iter().find(|(l, _)| *l == label);
                Some(absent.map_or("", |(_, value)| *value).into())
            }
            text => Some(text),
        }
    }
}

/// All kinds with rules of their own.
static TABLE: &[&[&Strategy]] = &[
    admissionregistration::STRATEGIES,
    apiserver::STRATEGIES,
    apps::STRATEGIES,
    autoscaling::STRATEGIES,
    batch::STRATEGIES,
    certificates::STRATEGIES,
    configmap::STRATEGIES,
    coordination::STRATEGIES,
    endpoints::STRATEGIES,
    event::STRATEGIES,
    flowcontrol::STRATEGIES,
    limits::STRATEGIES,
    namespace::STRATEGIES,
    networking::STRATEGIES,
    node::STRATEGIES,
    pod::STRATEGIES,
    policy::STRATEGIES,
    rbac::STRATEGIES,
    resource::STRATEGIES,
    scheduling::STRATEGIES,
    secret::STRATEGIES,
    service::STRATEGIES,
    serviceaccount::STRATEGIES,
    storage::STRATEGIES,
];

/// The strategy of a kind.
pub fn strategy(group: &str, kind: &str) -> &'static Strategy {
    TABLE
        .iter()
        .flat_map(|file| file.iter())
        .find(|s| s.group == group && s.kind == kind)
        .copied()
        .unwrap_or(&Strategy::DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_listed_once() {
        let mut seen = std::collections::BTreeSet::new();
        for s in TABLE.iter().flat_map(|f| f.iter()) {
            assert!(seen.insert((s.group, s.kind)), "{s:?} stands twice");
            let cells = (s.row)(&serde_json::json!({}), jiff::Timestamp::UNIX_EPOCH);
            assert_eq!(cells.len(), s.columns.len(), "cells of {s:?}");
        }
    }

    /// Rules see objects that a decoder let through, yet an absent or empty part must never break them.
    #[test]
    fn rules_survive_hollow_objects() {
        use serde_json::json;
        let hollow = [
            json!({}),
            json!({"metadata": {}, "spec": {}, "status": {}}),
            json!({"metadata": {"name": "a"}, "spec": {"template": {"spec": {"containers": [{}], "volumes": [{}]}},
                "containers": [{}], "initContainers": [{}], "volumes": [{}], "ports": [{}], "jobTemplate": {"spec": {}},
                "rules": [{}], "taints": [{}], "metrics": [{}], "limits": [{}], "drivers": [{}]},
                "webhooks": [{}], "subsets": [{}], "endpoints": [{}], "rules": [{}], "subjects": [{}]}),
        ];
        for s in TABLE.iter().flat_map(|f| f.iter()) {
            for object in &hollow {
                for old in &hollow {
                    let (mut new, context) = (object.clone(), Context::TEST);
                    (s.prepare_for_create)(&mut new, &context);
                    (s.validate)(&new, &context);
                    (s.prepare_for_update)(&mut new, old, &context);
                    (s.validate_update)(&new, old, &context);
                    (s.prepare_for_status_update)(&mut new, old, &context);
                    (s.validate_status_update)(&new, old, &context);
                    (s.validate_subresource)(&new, old, &context);
                    (s.warnings)(&new, Some(old));
                    assert_eq!((s.row)(&new, context.now).len(), s.columns.len(), "cells of {s:?}");
                }
            }
        }
    }
}
