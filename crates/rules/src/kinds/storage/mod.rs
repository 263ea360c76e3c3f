//! Volumes, claims, classes and what CSI drivers publish.

mod columns;

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
        columns: columns::VOLUME,
        row: columns::volume,
        ..Strategy::DEFAULT
    },
    &Strategy {
        group: "",
        kind: "PersistentVolumeClaim",
        columns: columns::CLAIM,
        row: columns::claim,
        prepare_for_create: |new, _| pending(new),
        keep_status_on_create: true,
        ..Strategy::DEFAULT
    },
    &Strategy {
        columns: columns::STORAGE_CLASS,
        row: columns::storage_class,
        name_and_age: false,
        ..storage("StorageClass")
    },
    &Strategy {
        columns: columns::ATTRIBUTES_CLASS,
        row: columns::attributes_class,
        ..storage("VolumeAttributesClass")
    },
    &Strategy { columns: columns::CSI_NODE, row: columns::csi_node, ..storage("CSINode") },
    &Strategy {
        columns: columns::CSI_DRIVER,
        row: columns::csi_driver,
        generation: true,
        ..storage("CSIDriver")
    },
    &Strategy {
        columns: columns::CSI_CAPACITY,
        row: columns::csi_capacity,
        name_and_age: false,
        ..storage("CSIStorageCapacity")
    },
    &Strategy {
        columns: columns::ATTACHMENT,
        row: columns::attachment,
        prepare_for_create: keep_nothing,
        ..storage("VolumeAttachment")
    },
];

const fn storage(kind: &'static str) -> Strategy {
    Strategy { group: "storage.k8s.io", kind, unconditional_update: false, ..Strategy::DEFAULT }
}

fn pending(object: &mut Value) {
    object["status"] = json!({"phase": "Pending"});
}

fn keep_nothing(object: &mut Value, _: &Context<'_>) {
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
    }
}
