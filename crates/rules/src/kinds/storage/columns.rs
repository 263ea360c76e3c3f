//! Tables of volumes, claims, classes and what CSI drivers publish.

use isopod_api::Value;
use jiff::Timestamp;

use crate::kinds::columns::{AGE, Column, NAME, age_cell, bool_cell, join_texts, joined, name, or, or_unset};
use crate::kinds::shared::{at, list_at, str_at};

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

pub(super) const VOLUME: &[Column] = &[
    Column::text("Capacity", "Size of the volume."),
    Column::text("Access Modes", "How the volume can be mounted."),
    Column::text("Reclaim Policy", "What happens to the volume after its claim."),
    Column::text("Status", "Phase of the volume."),
    Column::text("Claim", "Claim that the volume is bound to."),
    Column::text("StorageClass", "Class of the volume."),
    Column::text("VolumeAttributesClass", "Class of the volume's attributes."),
    Column::text("Reason", "Why the volume failed."),
    Column::text("VolumeMode", "Filesystem or block device.").wide(),
];

pub(super) fn volume(volume: &Value, _: Timestamp) -> Vec<Value> {
    let claim = at(volume, "spec.claimRef");
    let claim = claim.map(|c| format!("{}/{}", str_at(c, "namespace"), str_at(c, "name")));
    vec![
        or(str_at(volume, "spec.capacity.storage"), "0").into(),
        access_modes(list_at(volume, "spec.accessModes")).into(),
        str_at(volume, "spec.persistentVolumeReclaimPolicy").into(),
        phase(volume).into(),
        claim.unwrap_or_default().into(),
        class(volume).into(),
        or_unset(volume, "spec.volumeAttributesClassName").into(),
        str_at(volume, "status.reason").into(),
        or_unset(volume, "spec.volumeMode").into(),
    ]
}

pub(super) const CLAIM: &[Column] = &[
    Column::text("Status", "Phase of the claim."),
    Column::text("Volume", "Volume that the claim is bound to."),
    Column::text("Capacity", "Size of the volume."),
    Column::text("Access Modes", "How the volume can be mounted."),
    Column::text("StorageClass", "Class of the volume."),
    Column::text("VolumeAttributesClass", "Class of the volume's attributes."),
    Column::text("VolumeMode", "Filesystem or block device.").wide(),
];

pub(super) fn claim(claim: &Value, _: Timestamp) -> Vec<Value> {
    let volume = str_at(claim, "spec.volumeName");
    let (capacity, modes) = if volume.is_empty() {
        (String::new(), String::new())
    } else {
        let capacity = or(str_at(claim, "status.capacity.storage"), "0");
        (capacity, access_modes(list_at(claim, "status.accessModes")))
    };
    vec![
        phase(claim).into(),
        volume.into(),
        capacity.into(),
        modes.into(),
        class(claim).into(),
        or_unset(claim, "spec.volumeAttributesClassName").into(),
        or_unset(claim, "spec.volumeMode").into(),
    ]
}

fn phase(object: &Value) -> &str {
    if at(object, "metadata.deletionTimestamp").is_some() {
        "Terminating"
    } else {
        str_at(object, "status.phase")
    }
}

fn annotation<'v>(object: &'v Value, key: &str) -> Option<&'v str> {
    at(object, "metadata.annotations")?.get(key)?.as_str()
}

fn class(object: &Value) -> &str {
    annotation(object, CLASS_ANNOTATION).unwrap_or(str_at(object, "spec.storageClassName"))
}

fn access_modes(modes: &[Value]) -> String {
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let present = short.iter().filter(|(long, _)| modes.iter().any(|mode| mode == long));
    present.map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

fn name_and_default(object: &Value, annotations: &[&str]) -> Value {
    if annotations.iter().any(|key| annotation(object, key) == Some("true")) {
        format!("{} (default)", str_at(object, "metadata.name")).into()
    } else {
        name(object)
    }
}

pub(super) const STORAGE_CLASS: &[Column] = &[
    NAME,
    Column::text("Provisioner", "Driver that makes the volumes."),
    Column::text("ReclaimPolicy", "What happens to a volume after its claim."),
    Column::text("VolumeBindingMode", "When volumes are made and bound."),
    Column::text("AllowVolumeExpansion", "Whether volumes can grow."),
    AGE,
];

pub(super) fn storage_class(class: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name_and_default(class, &DEFAULT_CLASS),
        str_at(class, "provisioner").into(),
        or(str_at(class, "reclaimPolicy"), "Delete").into(),
        or(str_at(class, "volumeBindingMode"), "Immediate").into(),
        bool_cell(class, "allowVolumeExpansion", false),
        age_cell(class, now),
    ]
}

pub(super) const ATTRIBUTES_CLASS: &[Column] =
    &[Column::text("DriverName", "Driver that the attributes are for.")];

pub(super) fn attributes_class(class: &Value, _: Timestamp) -> Vec<Value> {
    vec![str_at(class, "driverName").into()]
}

pub(super) const ATTACHMENT: &[Column] = &[
    Column::text("Attacher", "Driver that attaches the volume.").name(),
    Column::text("PV", "Volume to attach."),
    Column::text("Node", "Node to attach the volume to."),
    Column::boolean("Attached", "Whether the volume is attached."),
];

pub(super) fn attachment(attachment: &Value, _: Timestamp) -> Vec<Value> {
    vec![
        str_at(attachment, "spec.attacher").into(),
        str_at(attachment, "spec.source.persistentVolumeName").into(),
        str_at(attachment, "spec.nodeName").into(),
        bool_cell(attachment, "status.attached", false),
    ]
}

pub(super) const CSI_NODE: &[Column] = &[Column::integer("Drivers", "CSI drivers registered on the node.")];

pub(super) fn csi_node(node: &Value, _: Timestamp) -> Vec<Value> {
    vec![list_at(node, "spec.drivers").len().into()]
}

pub(super) const CSI_DRIVER: &[Column] = &[
    Column::boolean("AttachRequired", "Whether volumes must be attached to nodes."),
    Column::boolean("PodInfoOnMount", "Whether the driver is told about the pod."),
    Column::boolean("StorageCapacity", "Whether pods are scheduled by the driver's capacity."),
    Column::text("TokenRequests", "Audiences of the tokens that the driver is given."),
    Column::boolean("RequiresRepublish", "Whether volumes are published again and again."),
    Column::text("Modes", "Lifecycles of volumes that the driver supports."),
];

pub(super) fn csi_driver(driver: &Value, _: Timestamp) -> Vec<Value> {
    let audiences = at(driver, "spec.tokenRequests").and_then(Value::as_array);
    vec![
        bool_cell(driver, "spec.attachRequired", true),
        bool_cell(driver, "spec.podInfoOnMount", false),
        bool_cell(driver, "spec.storageCapacity", false),
        audiences.map_or_else(|| "<unset>".to_owned(), |list| joined(list, "audience")).into(),
        bool_cell(driver, "spec.requiresRepublish", false),
        or(&join_texts(list_at(driver, "spec.volumeLifecycleModes")), "<none>").into(),
    ]
}

pub(super) const CSI_CAPACITY: &[Column] = &[
    NAME,
    Column::text("StorageClassName", "Class that the capacity is for."),
    Column::text("Capacity", "Space that is left."),
];

pub(super) fn csi_capacity(capacity: &Value, _: Timestamp) -> Vec<Value> {
    vec![name(capacity), str_at(capacity, "storageClassName").into(), or_unset(capacity, "capacity").into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells() {
        let now = Timestamp::UNIX_EPOCH;
        let object = json!({"spec": {"capacity": {"storage": "5Gi"}, "accessModes": ["ReadOnlyMany", "ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"namespace": "a", "name": "b"}, "storageClassName": "fast"},
            "status": {"phase": "Bound"}});
        assert_eq!(
            volume(&object, now),
            ["5Gi", "RWO,ROX", "Retain", "Bound", "a/b", "fast", "<unset>", "", "<unset>"]
        );
        assert_eq!(
            claim(&json!({"metadata": {"deletionTimestamp": "x"}, "spec": {"volumeMode": "Block"}}), now),
            ["Terminating", "", "", "", "", "<unset>", "Block"]
        );
        let object = json!({"metadata": {"name": "std", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "x"});
        assert_eq!(
            storage_class(&object, now),
            [
                json!("std (default)"),
                json!("x"),
                json!("Delete"),
                json!("Immediate"),
                json!(false),
                json!("<unknown>")
            ]
        );
        assert_eq!(
            csi_driver(&json!({"spec": {"volumeLifecycleModes": ["Persistent"]}}), now),
            [json!(true), json!(false), json!(false), json!("<unset>"), json!(false), json!("Persistent")]
        );
    }
}
