//! Namespaces: the phase, and the finalizer that keeps one until it is empty.

use isopod_api::Value;
use isopod_api::object::child_mut;
use serde_json::json;

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
    selectable: &[("status.phase", "status.phase")],
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
