//! Volumes, claims, classes and what CSI drivers publish.

use isopod_api::Value;
use serde_json::json;

use super::{Context, Strategy};

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy {
        group: "",
        kind: "PersistentVolume",
        prepare_for_create: |new, _| pending(new),
        keep_status_on_create: true,
        selectable: &[("spec.storageClassName", "spec.storageClassName")],
        ..Strategy::DEFAULT
    },
    &Strategy {
        group: "",
        kind: "PersistentVolumeClaim",
        prepare_for_create: |new, _| pending(new),
        keep_status_on_create: true,
        ..Strategy::DEFAULT
    },
    &Strategy { group: "storage.k8s.io", kind: "StorageClass", create_on_update: false, ..Strategy::DEFAULT },
    &Strategy { group: "storage.k8s.io", kind: "CSINode", ..Strategy::DEFAULT },
    &Strategy {
        group: "storage.k8s.io",
        kind: "VolumeAttachment",
        unconditional_update: false,
        prepare_for_create: keep_nothing,
        ..Strategy::DEFAULT
    },
];

fn pending(object: &mut Value) {
    object["status"] = json!({"phase": "Pending"});
}

fn keep_nothing(object: &mut Value, _: &Context<'_>) {
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
    }
}
