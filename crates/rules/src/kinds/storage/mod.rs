//! Volumes, claims, classes and what CSI drivers publish.

mod columns;
mod validate;

use isopod_api::Value;
use isopod_api::object::child_mut;
use serde_json::json;

use super::Strategy;
use super::shared::{at, str_at};

pub(super) const STRATEGIES: &[&Strategy] = &[
    &Strategy {
        group: "",
        kind: "PersistentVolume",
        prepare_for_create: |new, _| pending(new),
        keep_status_on_create: true,
        validate: validate::volume,
        warnings: volume_warnings,
        validate_update: validate::volume_update,
        selectable: &[("spec.storageClassName", "spec.storageClassName"), ("name", "metadata.name")],
        columns: columns::VOLUME,
        row: columns::volume,
        ..Strategy::DEFAULT
    },
    &Strategy {
        group: "",
        kind: "PersistentVolumeClaim",
        prepare_for_create: |new, _| {
            pending(new);
            mirror_data_source(new);
        },
        prepare_for_update: |new, _, _| mirror_data_source(new),
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

/// The old and the new field for what a volume is filled from say the same, where both can.
fn mirror_data_source(claim: &mut Value) {
    let spec = child_mut(claim, "spec");
    match (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned()) {
        (Some(source), None) => drop(spec.insert("dataSourceRef".to_owned(), source)),
        (None, Some(mut source))
            if source.get("namespace").and_then(Value::as_str).is_none_or(str::is_empty) =>
        {
            if let Some(source) = source.as_object_mut() {
                source.remove("namespace");
            }
            spec.insert("dataSource".to_owned(), source);
        }
        _ => {}
    }
}

fn volume_warnings(volume: &Value, _: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if str_at(volume, "spec.persistentVolumeReclaimPolicy") == "Recycle" {
        warnings.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
    }
    let class = "volume.beta.kubernetes.io/storage-class";
    if at(volume, "metadata.annotations").is_some_and(|a| a.get(class).is_some()) {
        warnings.push(format!(
            "metadata.annotations[{class}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
        ));
    }
    warnings
}

fn pending(object: &mut Value) {
    object["status"] = json!({"phase": "Pending"});
}
