//! DefaultIngressClass: an ingress that names no class gets the default one.

use isopod_api::status::Status;

use super::value::{annotation, has, newest_default};
use super::{Operation, Plugin, Query, Request, View};

const GROUP: &str = "networking.k8s.io";
const DEFAULT: &[&str] = &["ingressclass.kubernetes.io/is-default-class"];

pub(super) static PLUGIN: Plugin = Plugin {
    name: "DefaultIngressClass",
    handles: |operation, group, resource, subresource| {
        operation == Operation::Create && group == GROUP && resource == "ingresses" && subresource.is_empty()
    },
    needs: |request| if wants(request) { vec![Query::list(GROUP, "ingressclasses", "")] } else { vec![] },
    admit: Some(admit),
    validate: None,
};

fn wants(request: &Request<'_>) -> bool {
    !has(&request.object["spec"], "ingressClassName")
        && annotation(request.object, "kubernetes.io/ingress.class").is_none()
}

fn admit(request: &mut Request<'_>, view: &View) -> Result<(), Status> {
    if wants(request)
        && let Some(class) = newest_default(view.list("ingressclasses"), DEFAULT)
    {
        request.object["spec"]["ingressClassName"] = class["metadata"]["name"].clone();
    }
    Ok(())
}
