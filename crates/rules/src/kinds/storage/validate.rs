//! What volumes, claims, classes and the kinds of CSI obey.

use std::collections::BTreeSet;

use isopod_api::field::{Error, ErrorList, Path};
use isopod_api::{Map, Value, names};

use crate::kinds::Context;
use crate::kinds::check::{At, check, check_update};
use crate::kinds::podspec::{access_modes, claim_spec, label_selector, node_selector, resource_quantity};

/// Most parameters of a class, and most bytes of all of them.
const PARAMETERS_MAX: usize = 512;
const PARAMETERS_BYTES_MAX: usize = 256 * 1024;

/// Sources of volumes with the texts that each needs.
const SOURCES: &[(&str, &[&str])] = &[
    ("hostPath", &["path"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("glusterfs", &["endpoints", "path"]),
    ("flocker", &[]),
    ("nfs", &["server", "path"]),
    ("rbd", &["image"]),
    ("quobyte", &["registry", "volume"]),
    ("cephfs", &[]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("cinder", &["volumeID"]),
    ("fc", &[]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("local", &["path"]),
    ("storageos", &[]),
    ("csi", &["driver", "volumeHandle"]),
];

pub(super) fn volume(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |volume| volume_rules(&volume))
}

fn volume_rules(volume: &At<'_>) {
    let spec = volume.field("spec");
    access_modes(&spec.field("accessModes"));
    let capacity = spec.field("capacity");
    if capacity.is_empty() {
        capacity.required("");
    } else if !capacity.entry("storage").is_set() || capacity.len() > 1 {
        capacity.report(Error::not_supported(&capacity.path(), capacity.value().clone(), &["storage"]));
    }
    for (name, amount) in capacity.entries() {
        resource_quantity(name, &amount);
        if amount.quantity().is_some_and(|q| q.is_zero()) {
            amount.invalid("must be greater than zero");
        }
    }
    let policy = spec.field("persistentVolumeReclaimPolicy");
    policy.one_of(&["Delete", "Recycle", "Retain"]);
    let required = spec.field("nodeAffinity.required");
    if spec.field("nodeAffinity").is_set() {
        if required.is_set() {
            node_selector(&required)
        } else {
            required.required("must specify required node constraints")
        }
    }
    source(&spec);
    if spec.field("hostPath.path").str() == "/" && policy.str() == "Recycle" {
        policy.forbidden("may not be 'recycle' for a hostPath mount of '/'");
    }
    spec.field("storageClassName").follows(names::is_dns1123_subdomain);
    spec.field("volumeMode").one_of(&["Block", "Filesystem"]);
    spec.field("volumeAttributesClassName").follows(names::is_dns1123_subdomain);
}

fn source(spec: &At<'_>) {
    let mut found = 0;
    for (kind, needed) in SOURCES {
        let source = spec.field(kind);
        if !source.is_set() {
            continue;
        }
        found += 1;
        if found > 1 {
            source.forbidden("may not specify more than 1 volume type");
            continue;
        }
        for field in *needed {
            source.field(field).needs_text();
        }
        if source.field("path").str().split('/').any(|step| step == "..") {
            source.field("path").invalid("must not contain '..'");
        }
        if *kind == "local" && !spec.field("nodeAffinity").is_set() {
            spec.field("nodeAffinity").required("Local volume requires node affinity");
        }
    }
    if found == 0 {
        spec.required("must specify a volume type");
    }
}

/// Copies of the spec without some of its fields.
fn without(spec: &At<'_>, fields: &[&str]) -> Map {
    let mut map = spec.value().as_object().cloned().unwrap_or_default();
    map.retain(|key, _| !fields.contains(&key.as_str()));
    map
}

pub(super) fn volume_update(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
    check_update(new, old, |new, old| {
        volume_rules(&new);
        let (spec, before) = (new.field("spec"), old.field("spec"));
        if SOURCES.iter().any(|(kind, _)| spec.field(kind).value() != before.field(kind).value()) {
            spec.field("persistentvolumesource")
                .forbidden("spec.persistentvolumesource is immutable after creation");
        }
        spec.field("volumeMode").unchanged(&before.field("volumeMode"));
        if before.field("nodeAffinity").is_set() {
            spec.field("nodeAffinity").unchanged(&before.field("nodeAffinity"));
        }
        attributes_class_update(&spec, &before);
    })
}

fn attributes_class_update(new: &At<'_>, old: &At<'_>) {
    let (class, before) = (new.field("volumeAttributesClassName"), old.field("volumeAttributesClassName"));
    if !before.is_set() || class.value() == before.value() {
        return;
    }
    if !class.is_set() {
        class.forbidden("update from non-nil value to nil is forbidden");
    } else if class.is_empty() {
        class.forbidden("update from non-nil value to an empty string is forbidden");
    }
}

pub(super) fn claim(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |claim| claim_spec(&claim.field("spec")))
}

pub(super) fn claim_update(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
    check_update(new, old, |new, old| {
        let (spec, before) = (new.field("spec"), old.field("spec"));
        claim_spec(&spec);
        let bound = old.field("status.phase").str() == "Bound";
        let mut ignored = vec!["volumeAttributesClassName"];
        // The volume is chosen once; the class may be filled in from the old annotation.
        if before.field("volumeName").is_empty() {
            ignored.push("volumeName");
        }
        let (mut now, mut was) = (without(&spec, &ignored), without(&before, &ignored));
        if bound {
            for side in [&mut now, &mut was] {
                let requests = side.get_mut("resources").and_then(|r| r.get_mut("requests"));
                requests.and_then(Value::as_object_mut).map(|requests| requests.remove("storage"));
            }
        }
        if !was.contains_key("storageClassName") && fits_annotation(&new, &old) {
            // A claim that waited for a default class gets it; the field takes over from the annotation.
            now.remove("storageClassName");
        } else {
            class_annotation_stays(&new, &old);
        }
        if now != was {
            spec.forbidden("spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims");
        }
        shrink(&spec, &before, &old);
        if spec.field("volumeMode").value() != before.field("volumeMode").value() {
            let path = Path::new("volumeMode");
            spec.report(Error::invalid(
                &path,
                spec.field("volumeMode").value().clone(),
                "field is immutable",
            ));
        }
        attributes_class_update(&spec, &before);
    })
}

/// The annotation for the class of a claim, from before there was a field.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

fn class_annotation<'v>(claim: &At<'v>) -> At<'v> {
    claim.field("metadata.annotations").entry(CLASS_ANNOTATION)
}

/// Whether a class that is set now is the one that the old annotation named, if it did.
fn fits_annotation(new: &At<'_>, old: &At<'_>) -> bool {
    let (class, named) = (new.field("spec.storageClassName"), class_annotation(old));
    let kept = class_annotation(new);
    class.is_set()
        && (!named.is_set() || (class.str() == named.str() && (!kept.is_set() || kept.str() == named.str())))
}

fn class_annotation_stays(new: &At<'_>, old: &At<'_>) {
    let (now, was) = (class_annotation(new), class_annotation(old));
    if now.str() != was.str() {
        let path = Path::new("metadata").child("annotations").child(CLASS_ANNOTATION);
        new.report(Error::invalid(&path, now.str(), "field is immutable"));
    }
}

/// A claim grows; it shrinks only back to what it has already.
fn shrink(new: &At<'_>, old: &At<'_>, stored: &At<'_>) {
    let storage = new.field("resources.requests").entry("storage");
    let before = old.field("resources.requests").entry("storage").quantity();
    let capacity = stored.field("status.capacity").entry("storage").quantity();
    if let (Some(now), Some(before)) = (storage.quantity(), before)
        && now < before
        && capacity.is_some_and(|capacity| now <= capacity)
    {
        let at = new.field("resources.requests.storage");
        at.forbidden("field can not be less than status.capacity");
    }
}

pub(super) fn claim_status(new: &Value, _: &Value, _: &Context<'_>) -> ErrorList {
    check(new, |claim| {
        let status = claim.field("status");
        if !status.field("accessModes").is_empty() {
            access_modes(&status.field("accessModes"));
        }
        for (name, amount) in status.field("capacity").entries() {
            resource_quantity(name, &amount);
        }
    })
}

fn qualified_lower(text: &str) -> Vec<String> {
    names::is_qualified_name(&text.to_lowercase())
}

fn parameters(parameters: &At<'_>) {
    if parameters.len() > PARAMETERS_MAX {
        let path = parameters.path().child("Provisioner Parameters");
        parameters.report(Error::too_long(&path, PARAMETERS_MAX));
    }
    let mut size = 0;
    for (key, value) in parameters.entries() {
        if key.is_empty() {
            value.invalid_as(key, "field can not be empty.");
        }
        size += key.len() + value.str().len();
    }
    if size > PARAMETERS_BYTES_MAX {
        parameters.report(Error::too_long(&parameters.path(), PARAMETERS_BYTES_MAX));
    }
}

pub(super) fn storage_class(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |class| {
        class.field("provisioner").needs(qualified_lower);
        parameters(&class.field("parameters"));
        class.field("reclaimPolicy").one_of(&["Delete", "Retain"]);
        class.field("volumeBindingMode").needs_one_of(&["Immediate", "WaitForFirstConsumer"]);
        for term in class.field("allowedTopologies").items() {
            let mut seen = BTreeSet::new();
            for requirement in term.field("matchLabelExpressions").items() {
                requirement.field("key").must_follow(names::is_qualified_name);
                requirement.field("key").unique(&mut seen);
                if requirement.field("values").is_empty() {
                    requirement.field("values").required("");
                }
            }
        }
    })
}

pub(super) fn storage_class_update(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
    check_update(new, old, |new, old| {
        for field in ["parameters", "provisioner", "reclaimPolicy"] {
            if new.field(field).value() != old.field(field).value() {
                new.field(field).forbidden(format!("updates to {field} are forbidden."));
            }
        }
        new.field("volumeBindingMode").unchanged(&old.field("volumeBindingMode"));
    })
}

pub(super) fn attributes_class(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |class| {
        class.field("driverName").needs(qualified_lower);
        if class.field("parameters").is_empty() {
            class.field("parameters").required("must contain at least one key/value pair");
        }
        parameters(&class.field("parameters"));
    })
}

pub(super) fn attributes_class_change(new: &Value, old: &Value, _: &Context<'_>) -> ErrorList {
    check_update(new, old, |new, old| {
        for field in ["driverName", "parameters"] {
            if new.field(field).value() != old.field(field).value() {
                new.field(field).forbidden(format!("updates to {field} are forbidden."));
            }
        }
    })
}

pub(super) fn attachment(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |attachment| {
        let spec = attachment.field("spec");
        spec.field("attacher").needs(names::is_dns1123_subdomain);
        let (volume, inline) =
            (spec.field("source.persistentVolumeName"), spec.field("source.inlineVolumeSpec"));
        match (volume.is_set(), inline.is_set()) {
            (false, false) => spec
                .field("source")
                .required("must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
            (true, true) => spec
                .field("source")
                .forbidden("must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
            _ => {}
        }
        if volume.is_set() && volume.str().is_empty() {
            volume.required("must specify non empty persistentVolumeName");
        }
        spec.field("nodeName").must_follow(names::is_dns1123_subdomain);
    })
}

pub(super) fn attachment_update(new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
    let mut errors = attachment(new, context);
    errors.extend(check_update(new, old, |new, old| new.field("spec").unchanged(&old.field("spec"))));
    errors
}

pub(super) fn csi_node(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |node| {
        let mut seen = BTreeSet::new();
        for driver in node.field("spec.drivers").items() {
            driver.field("name").needs(names::is_dns1123_subdomain);
            driver.field("name").unique(&mut seen);
            driver.field("nodeID").needs_text();
            driver.field("allocatable.count").not_negative();
            let mut keys = BTreeSet::new();
            for key in driver.field("topologyKeys").items() {
                key.must_follow(names::is_qualified_name);
                key.unique(&mut keys);
            }
        }
    })
}

pub(super) fn csi_node_update(new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
    let mut errors = csi_node(new, context);
    errors.extend(check_update(new, old, |new, old| {
        let olds = old.field("spec.drivers");
        for driver in new.field("spec.drivers").items() {
            let before = olds.items().find(|o| o.field("name").str() == driver.field("name").str());
            if let Some(before) = before {
                let fixed = |d: &At<'_>| without(d, &["allocatable"]);
                if fixed(&driver) != fixed(&before) {
                    driver.invalid("field is immutable");
                }
            }
        }
    }));
    errors
}

pub(super) fn csi_driver(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |driver| {
        let (name, spec) = (driver.field("metadata.name"), driver.field("spec"));
        if name.str().len() > 63 {
            name.report(Error::too_long(&name.path(), 63));
        }
        for field in ["attachRequired", "podInfoOnMount", "storageCapacity"] {
            if !spec.field(field).is_set() {
                spec.field(field).required("");
            }
        }
        spec.field("fsGroupPolicy").one_of(&["File", "None", "ReadWriteOnceWithFSType"]);
        for mode in spec.field("volumeLifecycleModes").items() {
            mode.one_of(&["Ephemeral", "Persistent"]);
        }
        let mut seen = BTreeSet::new();
        for token in spec.field("tokenRequests").items() {
            if !seen.insert(token.field("audience").str()) {
                let audience = token.field("audience");
                audience.report(Error::duplicate(&audience.path(), audience.str()));
            }
            let seconds = token.field("expirationSeconds");
            if seconds.int().is_some_and(|s| s < 600) {
                seconds.invalid("may not specify a duration less than 10 minutes");
            }
        }
        let period = spec.field("nodeAllocatableUpdatePeriodSeconds");
        if period.int().is_some_and(|s| s < 10) {
            period.invalid("must be greater than or equal to 10 seconds");
        }
    })
}

pub(super) fn csi_driver_update(new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
    let mut errors = csi_driver(new, context);
    errors.extend(check_update(new, old, |new, old| {
        let (spec, before) = (new.field("spec"), old.field("spec"));
        for field in ["attachRequired", "fsGroupPolicy", "volumeLifecycleModes"] {
            spec.field(field).unchanged(&before.field(field));
        }
    }));
    errors
}

pub(super) fn capacity(object: &Value, _: &Context<'_>) -> ErrorList {
    check(object, |capacity| {
        capacity.field("storageClassName").needs(names::is_dns1123_subdomain);
        label_selector(&capacity.field("nodeTopology"));
        for field in ["capacity", "maximumVolumeSize"] {
            resource_quantity("storage", &capacity.field(field));
        }
    })
}

pub(super) fn capacity_update(new: &Value, old: &Value, context: &Context<'_>) -> ErrorList {
    let mut errors = capacity(new, context);
    errors.extend(check_update(new, old, |new, old| {
        for field in ["nodeTopology", "storageClassName"] {
            new.field(field).unchanged(&old.field(field));
        }
    }));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::check::texts;
    use serde_json::json;

    const CONTEXT: Context<'_> = Context::TEST;

    #[test]
    fn volumes() {
        let object = json!({"spec": {"capacity": {"storage": "0"}, "accessModes": ["X"], "local": {"path": "/a/../b"}, "nfs": {}}});
        assert_eq!(
            texts(&volume(&object, &CONTEXT)),
            [
                "spec.accessModes: Unsupported value: \"X\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                "spec.capacity[storage]: Invalid value: \"0\": must be greater than zero",
                "spec.nfs.server: Required value",
                "spec.nfs.path: Required value",
                "spec.local: Forbidden: may not specify more than 1 volume type",
            ]
        );
    }

    #[test]
    fn claims_grow() {
        let claim = |size: &str, mode: &str| {
            json!({"spec": {"accessModes": [mode], "resources": {"requests": {"storage": size}}},
            "status": {"phase": "Bound", "capacity": {"storage": "2Gi"}}})
        };
        let update = |new: Value| texts(&claim_update(&new, &claim("2Gi", "ReadWriteOnce"), &CONTEXT));
        assert_eq!(update(claim("3Gi", "ReadWriteOnce")), Vec::<String>::new());
        assert_eq!(
            update(claim("1Gi", "ReadWriteOnce")),
            ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
        );
        assert_eq!(
            update(claim("2Gi", "ReadWriteMany")),
            [
                "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
            ]
        );
    }

    #[test]
    fn classes_of_claims_are_filled_in_once() {
        let claim = |class: Option<&str>, annotation: Option<&str>| {
            let mut claim = json!({"metadata": {"annotations": {}}, "status": {"phase": "Bound"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
            if let Some(class) = class {
                claim["spec"]["storageClassName"] = class.into();
            }
            if let Some(class) = annotation {
                claim["metadata"]["annotations"][CLASS_ANNOTATION] = class.into();
            }
            claim
        };
        let faults = |new: Value, old: Value| claim_update(&new, &old, &CONTEXT).len();
        assert_eq!(faults(claim(Some("a"), None), claim(None, None)), 0);
        assert_eq!(faults(claim(Some("a"), None), claim(None, Some("a"))), 0);
        assert_eq!(faults(claim(Some("b"), Some("a")), claim(None, Some("a"))), 1);
        assert_eq!(faults(claim(Some("b"), None), claim(Some("a"), None)), 1);
        assert_eq!(
            texts(&claim_update(&claim(None, Some("b")), &claim(None, Some("a")), &CONTEXT)),
            [
                "metadata.annotations.volume.beta.kubernetes.io/storage-class: Invalid value: \"b\": field is immutable"
            ]
        );
        let with = |class: Value| {
            let mut claim = claim(None, None);
            claim["spec"]["volumeAttributesClassName"] = class;
            claim
        };
        for (class, what) in [(json!(""), "an empty string"), (Value::Null, "nil")] {
            assert_eq!(
                texts(&claim_update(&with(class), &with(json!("gold")), &CONTEXT)),
                [format!(
                    "spec.volumeAttributesClassName: Forbidden: update from non-nil value to {what} is forbidden"
                )]
            );
        }
    }

    #[test]
    fn classes_stay() {
        let class = |provisioner: &str| json!({"provisioner": provisioner, "volumeBindingMode": "Immediate"});
        assert_eq!(storage_class(&class("a/b"), &CONTEXT), vec![]);
        assert_eq!(
            texts(&storage_class_update(&class("b"), &class("a"), &CONTEXT)),
            ["provisioner: Forbidden: updates to provisioner are forbidden."]
        );
    }
}
