//! What to do with one object, from fresh reads.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};

use super::{FOREGROUND, ORPHAN};
use crate::plan::{Action, PatchKind, Propagation, Target, Tolerate};

/// An object as just read.
#[derive(Clone, Debug)]
pub struct Latest {
    /// Where it is.
    pub target: Target,
    /// Its metadata.
    pub meta: ObjectMeta,
}

/// An owner as just read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerState {
    /// It lives.
    Solid,
    /// There is none, or another object has its name.
    Absent,
    /// It waits for its dependents to go.
    Waiting,
}

fn gone() -> Tolerate {
    Tolerate { not_found: true, ..Tolerate::default() }
}

/// A merge patch of metadata that fails on a newer or another object.
fn patch(latest: &Latest, name: &str, value: Value) -> Action {
    let mut metadata = json!({
        "resourceVersion": latest.meta.resource_version, "uid": latest.meta.uid,
    });
    metadata[name] = value;
    Action::patch(latest.target.clone(), PatchKind::Merge, json!({ "metadata": metadata })).tolerating(gone())
}

fn without_finalizer(latest: &Latest, name: &str) -> Action {
    let left: Vec<&String> =
        latest.meta.finalizers.iter().flatten().filter(|finalizer| *finalizer != name).collect();
    patch(latest, "finalizers", json!(left))
}

fn without_owners(latest: &Latest, drop: impl Fn(&OwnerReference) -> bool) -> Action {
    let left: Vec<&OwnerReference> =
        latest.meta.owner_references.iter().flatten().filter(|owner| !drop(owner)).collect();
    patch(latest, "ownerReferences", json!(left))
}

fn delete(latest: &Latest, policy: Propagation) -> Action {
    Action::delete_at(latest.target.clone(), latest.meta.uid.clone())
        .at_version(latest.meta.resource_version.clone())
        .propagation(policy)
}

fn has_finalizer(meta: &ObjectMeta, name: &str) -> bool {
    meta.finalizers.iter().flatten().any(|finalizer| finalizer == name)
}

/// Decides for an object that may be garbage. `owners` gives the state of each owner reference, in order;
/// `dependents` how many objects it owns itself.
pub fn decide(latest: &Latest, owners: &[OwnerState], dependents: usize) -> Option<Action> {
    let meta = &latest.meta;
    if owners.is_empty() {
        return None;
    }
    let references = meta.owner_references.as_deref().unwrap_or_default();
    if owners.contains(&OwnerState::Solid) {
        if owners.iter().all(|state| *state == OwnerState::Solid) {
            return None;
        }
        // Somebody still wants it: only the other references go.
        let drop: Vec<&str> = references
            .iter()
            .zip(owners)
            .filter(|(_, state)| **state != OwnerState::Solid)
            .map(|(owner, _)| owner.uid.as_str())
            .collect();
        return Some(without_owners(latest, |owner| drop.contains(&owner.uid.as_str())));
    }
    if owners.contains(&OwnerState::Waiting) && dependents > 0 {
        return Some(delete(latest, Propagation::Foreground));
    }
    let policy = if has_finalizer(meta, ORPHAN) {
        Propagation::Orphan
    } else if has_finalizer(meta, FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    Some(delete(latest, policy))
}

/// Breaks a circle of objects that wait for each other: this one no longer blocks its owners.
pub fn break_circle(latest: &Latest) -> Action {
    let open: Vec<OwnerReference> = latest
        .meta
        .owner_references
        .iter()
        .flatten()
        .map(|owner| OwnerReference { block_owner_deletion: Some(false), ..owner.clone() })
        .collect();
    patch(latest, "ownerReferences", json!(open))
}

/// An owner with the foreground finalizer whose blocking dependents are gone may go.
pub fn unblock(latest: &Latest) -> Option<Action> {
    has_finalizer(&latest.meta, FOREGROUND).then(|| without_finalizer(latest, FOREGROUND))
}

/// The patches that cut dependents loose from `owner`, then the one that lets the owner go.
pub fn orphan(owner: &Latest, dependents: &[Latest]) -> (Vec<Action>, Option<Action>) {
    let uid = owner.meta.uid.clone().unwrap_or_default();
    let cut = dependents
        .iter()
        .filter(|dependent| dependent.meta.owner_references.iter().flatten().any(|o| o.uid == uid))
        .map(|dependent| without_owners(dependent, |reference| reference.uid == uid))
        .collect();
    let release = has_finalizer(&owner.meta, ORPHAN).then(|| without_finalizer(owner, ORPHAN));
    (cut, release)
}

#[cfg(test)]
mod tests {
    use super::super::{Graph, Observed};
    use super::*;
    use crate::plan::describe;
    use crate::plan::{Plan, Resource};
    use std::collections::BTreeSet;

    fn meta(name: &str, owners: &[(&str, bool)], extra: Value) -> ObjectMeta {
        let owners: Vec<Value> = owners
            .iter()
            .map(|(uid, block)| {
                json!({"apiVersion": "v1", "kind": "ConfigMap", "name": uid, "uid": uid, "blockOwnerDeletion": block})
            })
            .collect();
        let mut value = json!({"name": name, "namespace": "d", "uid": name, "ownerReferences": owners, "resourceVersion": "5"});
        for (key, inner) in extra.as_object().unwrap() {
            value[key] = inner.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    fn observe(graph: &mut Graph, meta: &ObjectMeta) -> (Vec<String>, Vec<String>) {
        let wants = graph.observe(&Observed { api_version: "v1", kind: "ConfigMap", meta });
        (wants.delete.into_iter().collect(), wants.orphan.into_iter().collect())
    }

    fn latest(meta: ObjectMeta) -> Latest {
        let resource = Resource { group: String::new(), version: "v1".into(), plural: "configmaps".into() };
        Latest {
            target: Target { resource, namespace: Some("d".into()), name: meta.name.clone().unwrap() },
            meta,
        }
    }

    fn show(action: Option<Action>) -> String {
        let mut plan = Plan::nothing();
        plan.steps.extend(action.map(crate::plan::Step::One));
        describe(&plan)
    }

    #[test]
    fn an_unknown_owner_is_asked_for_and_its_absence_looked_into() {
        let mut graph = Graph::default();
        assert_eq!(observe(&mut graph, &meta("child", &[("parent", false)], json!({}))).0, ["parent"]);
        assert!(graph.is_virtual("parent"));
        assert_eq!(graph.absent("parent").delete, BTreeSet::from(["child".to_owned()]));
        // Seen after all: nothing to do, and its deletion wakes the child.
        assert!(observe(&mut graph, &meta("parent", &[], json!({}))).0.is_empty());
        assert_eq!(graph.remove("parent").delete, BTreeSet::from(["child".to_owned()]));
        assert_eq!(graph.remove("child").delete, BTreeSet::new());
        assert!(graph.is_empty());
    }

    #[test]
    fn foreground_deletion_waits_for_blocking_dependents() {
        let mut graph = Graph::default();
        observe(&mut graph, &meta("parent", &[], json!({})));
        observe(&mut graph, &meta("child", &[("parent", true)], json!({})));
        let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [FOREGROUND]});
        assert_eq!(observe(&mut graph, &meta("parent", &[], going.clone())).0, ["child", "parent"]);
        assert_eq!(graph.blocking("parent"), ["child"]);
        assert!(graph.needs_look("parent"));
        assert_eq!(graph.remove("child").delete, BTreeSet::from(["parent".to_owned()]));
        assert!(graph.blocking("parent").is_empty());
        assert_eq!(
            show(unblock(&latest(meta("parent", &[], going)))),
            "patch configmaps/parent {\"metadata\":{\"finalizers\":[],\"resourceVersion\":\"5\",\"uid\":\"parent\"}}\n"
        );
    }

    #[test]
    fn orphaning_cuts_references_first() {
        let mut graph = Graph::default();
        let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [ORPHAN]});
        assert_eq!(observe(&mut graph, &meta("parent", &[], going.clone())).1, ["parent"]);
        let child = meta("child", &[("parent", true), ("other", false)], json!({}));
        let (cut, release) = orphan(&latest(meta("parent", &[], going)), &[latest(child)]);
        assert!(
            show(cut.into_iter().next())
                .contains(r#""ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":false"#)
        );
        assert!(release.is_some());
    }

    #[test]
    fn decisions_by_the_state_of_owners() {
        use OwnerState::{Absent, Solid, Waiting};
        let object = latest(meta("child", &[("a", false), ("b", false)], json!({})));
        for (owners, dependents, want) in [
            (vec![Solid, Solid], 0, ""),
            (vec![], 0, ""),
            (vec![Absent, Absent], 0, "delete configmaps/child Background\n"),
            (vec![Absent, Waiting], 0, "delete configmaps/child Background\n"),
            (vec![Absent, Waiting], 2, "delete configmaps/child Foreground\n"),
        ] {
            assert_eq!(show(decide(&object, &owners, dependents)), want, "{owners:?}");
        }
        assert!(show(decide(&object, &[Solid, Absent], 0)).contains(r#""name":"a""#));
    }
}
