//! Defaults of the storage.k8s.io and resource.k8s.io groups.

use super::{Hook, is_empty, object_or_new, set, set_number, text};
use crate::Map;
use serde_json::json;

pub(super) fn hook(package: &str, name: &str) -> Option<Hook> {
    Some(match (package.split('/').next()?, name) {
        ("storage", "StorageClass") => storage_class,
        ("storage", "CSIDriver") => csi_driver,
        ("resource", "ExactDeviceRequest" | "DeviceSubRequest") => device_request,
        ("resource", "DeviceRequest") if package == "resource/v1beta1" => device_request_v1beta1,
        _ => return None,
    })
}

fn storage_class(class: &mut Map) {
    set(class, "reclaimPolicy", "Delete");
    set(class, "volumeBindingMode", "Immediate");
}

fn csi_driver(driver: &mut Map) {
    let spec = object_or_new(driver, "spec");
    set(spec, "attachRequired", true);
    for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        set(spec, field, false);
    }
    set(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if is_empty(spec, "volumeLifecycleModes") {
        spec.insert("volumeLifecycleModes".into(), json!(["Persistent"]));
    }
}

fn device_request(request: &mut Map) {
    set(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" {
        set_number(request, "count", 1);
    }
}

/// There, a request is either exact itself or a list of alternatives.
fn device_request_v1beta1(request: &mut Map) {
    if is_empty(request, "firstAvailable") {
        device_request(request);
    }
}
