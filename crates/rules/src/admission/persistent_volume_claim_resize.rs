//! PersistentVolumeClaimResize: a claim grows only when it is bound and its class allows it.

use isopod_api::Value;
use isopod_api::quantity::Quantity;
use isopod_api::status::Status;

use super::value::{annotation, text};
use super::{Operation, Plugin, Query, Request, View};

pub(super) static PLUGIN: Plugin = Plugin {
    name: "PersistentVolumeClaimResize",
    handles: |operation, group, resource, subresource| {
        operation == Operation::Update
            && group.is_empty()
            && resource == "persistentvolumeclaims"
            && subresource.is_empty()
    },
    needs: |request| match class(request.old) {
        "" => vec![],
        class => vec![Query::get("storage.k8s.io", "storageclasses", "", class)],
    },
    admit: None,
    validate: Some(validate),
};

fn class(claim: &Value) -> &str {
    annotation(claim, "volume.beta.kubernetes.io/storage-class")
        .unwrap_or(text(claim, "/spec/storageClassName"))
}

fn size(claim: &Value) -> Quantity {
    text(claim, "/spec/resources/requests/storage").parse().unwrap_or_default()
}

fn validate(request: &mut Request<'_>, view: &View) -> Result<(), Status> {
    if size(request.old) >= size(request.object) {
        return Ok(());
    }
    if text(request.old, "/status/phase") != "Bound" {
        return Err(request.forbidden("Only bound persistent volume claims can be expanded"));
    }
    let allowed = view.one("storageclasses").is_some_and(|class| class["allowVolumeExpansion"] == true);
    if allowed {
        return Ok(());
    }
    Err(request.forbidden(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support \
         resize",
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests_support::Change;
    use super::*;

    #[test]
    fn grows_by_permission() {
        let claim = |size: &str, phase: &str| {
            json!({"metadata": {"name": "c"}, "spec": {"storageClassName": "s",
                "resources": {"requests": {"storage": size}}}, "status": {"phase": phase}})
        };
        let verdict = |old: Value, new: Value, allow: bool| {
            let class = json!({"metadata": {"name": "s"}, "allowVolumeExpansion": allow});
            Change::update("persistentvolumeclaims", old, new)
                .stored("storageclasses", vec![class])
                .verdict(&PLUGIN)
        };
        assert_eq!(verdict(claim("1Gi", "Bound"), claim("2Gi", "Bound"), true), "ok");
        assert_eq!(verdict(claim("2Gi", "Bound"), claim("2048Mi", "Bound"), false), "ok");
        assert!(verdict(claim("1Gi", "Bound"), claim("2Gi", "Bound"), false).contains("must support resize"));
        assert!(verdict(claim("1Gi", "Pending"), claim("2Gi", "Pending"), true).contains("Only bound"));
    }
}
