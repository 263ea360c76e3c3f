//! What a persistent volume claim uses: itself and the storage it asks for, also by storage class.

use isopod_api::Value;

use super::{Amounts, amounts, one};

const BY_CLASS: &str = ".storageclass.storage.k8s.io/";

/// Whether a name in `spec.hard` is about claims.
pub(super) fn is_name(name: &str) -> bool {
    matches!(name, "persistentvolumeclaims" | "requests.storage") || name.contains(BY_CLASS)
}

pub(super) fn usage(claim: &Value) -> Amounts {
    let beta = &claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"];
    let class = beta.as_str().or(claim["spec"]["storageClassName"].as_str()).unwrap_or("");
    let mut usage = Amounts::from([("persistentvolumeclaims".into(), one())]);
    if !class.is_empty() {
        usage.insert(format!("{class}{BY_CLASS}persistentvolumeclaims"), one());
    }
    let asked = amounts(&claim["spec"]["resources"]["requests"]).get("storage").copied();
    let granted = amounts(&claim["status"]["allocatedResources"]).get("storage").copied();
    // While a volume grows and the claim was shrunk again, the greater counts.
    if let Some(storage) = asked.max(granted) {
        usage.insert("requests.storage".into(), storage);
        if !class.is_empty() {
            usage.insert(format!("{class}{BY_CLASS}requests.storage"), storage);
        }
    }
    usage
}
