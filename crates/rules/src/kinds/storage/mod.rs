//! Volumes, claims, classes and what CSI drivers publish.

mod columns;
mod validate;

use isopod_api::Value;
use serde_json::json;

use super::Strategy;

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy {
        group: "",
        kind: "PersistentVolume",
        prepare_for_create: |new, _| pending(new),
        keep_status_on_create: true,
        validate: validate::volume,
        validate_update: validate::volume_update,
        selectable: &[("spec.storageClassName", "spec.storageClassName"), ("name", "metadata.name")],
        columns: columns::VOLUME,
        row: columns::volume,
        ..Strategy::DEFAULT
    },
    &Strategy {
        group: "",
        kind: "PersistentVolumeClaim",
        prepare_for_create: |new, _| pending(new),
        keep_status_on_create: true,
        validate: validate::claim,
        validate_update: validate::claim_update,
        validate_status_update: validate::claim_status,
        selectable: &[("name", "metadata.name")],
        columns: columns::CLAIM,
        row: columns::claim,
        ..Strategy::DEFAULT
    },
    &Strategy {
        unconditional_update: true,
        validate: validate::storage_class,
        validate_update: validate::storage_class_update,
        columns: columns::STORAGE_CLASS,
        row: columns::storage_class,
        name_and_age: false,
        ..storage("StorageClass")
    },
    &Strategy {
        unconditional_update: true,
        validate: validate::attributes_class,
        validate_update: validate::attributes_class_change,
        columns: columns::ATTRIBUTES_CLASS,
        row: columns::attributes_class,
        ..storage("VolumeAttributesClass")
    },
    &Strategy {
        validate: validate::csi_node,
        validate_update: validate::csi_node_update,
        columns: columns::CSI_NODE,
        row: columns::csi_node,
        ..storage("CSINode")
    },
    &Strategy {
        generation: true,
        validate: validate::csi_driver,
        validate_update: validate::csi_driver_update,
        columns: columns::CSI_DRIVER,
        row: columns::csi_driver,
        ..storage("CSIDriver")
    },
    &Strategy {
        validate: validate::capacity,
        validate_update: validate::capacity_update,
        columns: columns::CSI_CAPACITY,
        row: columns::csi_capacity,
        name_and_age: false,
        ..storage("CSIStorageCapacity")
    },
    &Strategy {
        validate: validate::attachment,
        validate_update: validate::attachment_update,
        columns: columns::ATTACHMENT,
        row: columns::attachment,
        ..storage("VolumeAttachment")
    },
];

const fn storage(kind: &'static str) -> Strategy {
    Strategy { group: "storage.k8s.io", kind, unconditional_update: false, ..Strategy::DEFAULT }
}

fn pending(object: &mut Value) {
    object["status"] = json!({"phase": "Pending"});
}
