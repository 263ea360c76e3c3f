//! DefaultStorageClass: a claim that names no class gets the default one.

use isopod_api::status::Status;

use super::value::{annotation, has, newest_default};
use super::{Operation, Plugin, Query, Request, View};

const DEFAULT: &[&str] =
    &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) static PLUGIN: Plugin = Plugin {
    name: "DefaultStorageClass",
    handles: |operation, group, resource, subresource| {
        operation == Operation::Create
            && group.is_empty()
            && resource == "persistentvolumeclaims"
            && subresource.is_empty()
    },
    needs: |request| {
        if wants(request) { vec![Query::list("storage.k8s.io", "storageclasses", "")] } else { vec![] }
    },
    admit: Some(admit),
    validate: None,
};

/// An empty class is a choice: no class.
fn wants(request: &Request<'_>) -> bool {
    !has(&request.object["spec"], "storageClassName") && annotation(request.object, BETA_CLASS).is_none()
}

fn admit(request: &mut Request<'_>, view: &View) -> Result<(), Status> {
    if wants(request)
        && let Some(class) = newest_default(view.list("storageclasses"), DEFAULT)
    {
        request.object["spec"]["storageClassName"] = class["metadata"]["name"].clone();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests_support::Change;
    use super::*;

    #[test]
    fn the_newest_default() {
        let class = |name: &str, created: &str, default: &str| json!({"metadata": {"name": name, "creationTimestamp": created, "annotations": {DEFAULT[0]: default}}});
        let classes = vec![
            class("old", "2025-01-01T00:00:00Z", "true"),
            class("new", "2026-01-01T00:00:00Z", "true"),
            class("newest", "2026-02-01T00:00:00Z", "false"),
        ];
        let chosen = |spec: Value, classes: Vec<Value>| {
            let mut change = Change::create("persistentvolumeclaims", json!({"spec": spec}))
                .stored("storageclasses", classes);
            assert_eq!(change.verdict(&PLUGIN), "ok");
            change.object["spec"]["storageClassName"].clone()
        };
        assert_eq!(chosen(json!({}), classes.clone()), "new");
        assert_eq!(chosen(json!({"storageClassName": ""}), classes), "");
        assert_eq!(chosen(json!({}), vec![]), Value::Null);
    }
}
