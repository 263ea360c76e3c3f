//! Namespaces: the phase, and the finalizer that keeps one until it is empty.

use isopod_api::Value;
use isopod_api::field::{Error, Path};
use isopod_api::object::child_mut;
use serde_json::json;

use super::check::{At, check, check_update};
use super::columns::Column;
use super::shared::{list_at, str_at};
use super::{Context, Strategy, meta};

/// The finalizer in `spec.finalizers` of every namespace.
pub(super) const FINALIZER_KUBERNETES: &str = "kubernetes";
/// The label that carries the namespace's own name.
const LABEL_NAME: &str = "kubernetes.io/metadata.name";

pub(super) const STRATEGIES: &[&Strategy] = &[&Strategy {
    group: "",
    kind: "Namespace",
    name: meta::label,
    prepare_for_create,
    prepare_for_update: |new, old, _| {
        new["spec"]["finalizers"] = old["spec"]["finalizers"].clone();
        set_name_label(new);
    },
    keep_status_on_create: true,
    validate: |namespace, _| check(namespace, |namespace| finalizers(&namespace)),
    validate_update: |namespace, _, _| check(namespace, |namespace| finalizers(&namespace)),
    validate_status_update: |new, old, _| check_update(new, old, |new, _| phase(&new)),
    selectable: &[("status.phase", "status.phase"), ("name", "metadata.name")],
    columns: &[Column::text("Status", "Phase of the namespace.")],
    row: |namespace, _| vec![str_at(namespace, "status.phase").into()],
    ..Strategy::DEFAULT
}];

fn prepare_for_create(namespace: &mut Value, _: &Context<'_>) {
    namespace["status"] = json!({"phase": "Active"});
    let mut finalizers = list_at(namespace, "spec.finalizers").to_vec();
    if !finalizers.iter().any(|f| f == FINALIZER_KUBERNETES) {
        finalizers.push(FINALIZER_KUBERNETES.into());
    }
    child_mut(namespace, "spec").insert("finalizers".to_owned(), finalizers.into());
    set_name_label(namespace);
}

fn set_name_label(namespace: &mut Value) {
    let Some(meta) = namespace.get_mut("metadata") else { return };
    if let Some(name) = meta.get("name").and_then(Value::as_str).filter(|n| !n.is_empty()).map(str::to_owned)
    {
        child_mut(meta, "labels").insert(LABEL_NAME.to_owned(), name.into());
    }
}

fn finalizers(namespace: &At<'_>) {
    for finalizer in namespace.field("spec.finalizers").items() {
        if !finalizer.str().contains('/') && finalizer.str() != FINALIZER_KUBERNETES {
            finalizer.invalid("name is neither a standard finalizer name nor is it fully qualified");
        }
        finalizer.must_follow(isopod_api::names::is_qualified_name);
    }
}

/// A namespace terminates exactly when it is being deleted.
fn phase(namespace: &At<'_>) {
    let phase = namespace.field("status.phase");
    let (wanted, how) = if namespace.field("metadata.deletionTimestamp").is_set() {
        ("Terminating", "not empty")
    } else {
        ("Active", "empty")
    };
    if phase.str() != wanted {
        // Clients know the field by this name in faults.
        let path = Path::new("status").child("Phase");
        let detail = format!("may only be '{wanted}' if `deletionTimestamp` is {how}");
        phase.report(Error::invalid(&path, phase.str(), detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::check::texts;

    #[test]
    fn phases() {
        let fault = |object: Value| texts(&check(&object, |namespace| phase(&namespace)));
        assert_eq!(fault(json!({"status": {"phase": "Active"}})), Vec::<String>::new());
        assert_eq!(
            fault(json!({"status": {"phase": "Terminating"}})),
            [
                "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"
            ]
        );
        let ending =
            json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}, "status": {"phase": "Active"}});
        assert_eq!(
            fault(ending),
            [
                "status.Phase: Invalid value: \"Active\": may only be 'Terminating' if `deletionTimestamp` is not empty"
            ]
        );
    }
}
