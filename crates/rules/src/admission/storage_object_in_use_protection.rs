//! StorageObjectInUseProtection: claims and volumes get the finalizer that keeps them while they are in use.

use isopod_api::status::Status;
use serde_json::json;

use super::value::{items, push};
use super::{Operation, Plugin, Request, View};

pub(super) static PLUGIN: Plugin = Plugin {
    name: "StorageObjectInUseProtection",
    handles: |operation, group, resource, subresource| {
        operation == Operation::Create
            && subresource.is_empty()
            && matches!(
                (group, resource),
                ("", "persistentvolumeclaims" | "persistentvolumes")
                    | ("storage.k8s.io", "volumeattributesclasses")
            )
    },
    admit: Some(admit),
    ..Plugin::NONE
};

fn admit(request: &mut Request<'_>, _view: &View) -> Result<(), Status> {
    let finalizer = match request.resource {
        "persistentvolumeclaims" => "kubernetes.io/pvc-protection",
        "persistentvolumes" => "kubernetes.io/pv-protection",
        _ => "kubernetes.io/vac-protection",
    };
    let meta = &mut request.object["metadata"];
    if !items(meta, "finalizers").iter().any(|present| present == finalizer) {
        push(meta, "finalizers", json!(finalizer));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::Change;
    use super::*;

    #[test]
    fn added_once() {
        let mut change = Change::create("persistentvolumeclaims", json!({"metadata": {"finalizers": ["a"]}}));
        for _ in 0..2 {
            assert_eq!(change.verdict(&PLUGIN), "ok");
            assert_eq!(change.object["metadata"]["finalizers"], json!(["a", "kubernetes.io/pvc-protection"]));
        }
    }
}
