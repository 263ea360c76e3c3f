//! NamespaceLifecycle: nothing is made in a namespace that does not exist or is being emptied, and the namespaces
//! the system needs are not deleted.

use isopod_api::status::Status;

use super::value::text;
use super::{Operation, Plugin, Query, Request, View};

const IMMORTAL: &[&str] = &["default", "kube-public", "kube-system"];

pub(super) static PLUGIN: Plugin = Plugin {
    name: "NamespaceLifecycle",
    handles: |operation, _, _, _| operation != Operation::Connect,
    needs,
    // First of all, so that nothing else is said of a namespace that is not there.
    admit: Some(admit),
    validate: None,
};

fn is_namespace(request: &Request<'_>) -> bool {
    (request.group, request.resource) == ("", "namespaces")
}

/// Access reviews ask and store nothing, so they may be made of a namespace that is not there.
fn concerns(request: &Request<'_>) -> bool {
    let review = (request.group, request.resource) == ("authorization.k8s.io", "localsubjectaccessreviews");
    request.operation == Operation::Create
        && !request.namespace.is_empty()
        && !is_namespace(request)
        && !review
}

fn needs(request: &Request<'_>) -> Vec<Query> {
    if concerns(request) { vec![Query::get("", "namespaces", "", request.namespace)] } else { Vec::new() }
}

fn admit(request: &mut Request<'_>, view: &View) -> Result<(), Status> {
    if request.operation == Operation::Delete && is_namespace(request) && IMMORTAL.contains(&request.name) {
        return Err(Status::forbidden("", "namespaces", request.name, "this namespace may not be deleted"));
    }
    if !concerns(request) {
        return Ok(());
    }
    let name = request.namespace;
    let Some(namespace) = view.one("namespaces") else {
        return Err(Status::not_found("", "namespaces", name));
    };
    if text(namespace, "/status/phase") != "Terminating" {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {name} because it is being terminated");
    let message = format!("namespace {name} is being terminated");
    Err(request.forbidden(why).cause("NamespaceTerminating", &message, "metadata.namespace"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests_support::Change;
    use super::*;

    #[test]
    fn verdicts() {
        let create = |phase: &str| {
            let namespace = json!({"metadata": {"name": "ns"}, "status": {"phase": phase}});
            Change::create("pods", json!({"metadata": {"name": "p"}})).stored("namespaces", vec![namespace])
        };
        assert_eq!(create("Active").verdict(&PLUGIN), "ok");
        let refused = create("Terminating").run(&PLUGIN).expect_err("terminating");
        let why = "unable to create new content in namespace ns because it is being terminated";
        assert_eq!(refused.message, format!("pods \"p\" is forbidden: {why}"));
        assert_eq!(refused.causes[0].reason, "NamespaceTerminating");
        let mut lost = Change::create("pods", json!({}));
        assert_eq!(lost.verdict(&PLUGIN), "namespaces \"ns\" not found");
        let delete =
            |name| Change { operation: Operation::Delete, name, ..Change::create("namespaces", json!(null)) };
        let refused = "namespaces \"kube-system\" is forbidden: this namespace may not be deleted";
        assert_eq!(delete("kube-system").verdict(&PLUGIN), refused);
        assert_eq!(delete("mine").verdict(&PLUGIN), "ok");
    }
}
