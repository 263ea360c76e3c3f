//! Nobody grants by a role or a binding what they do not hold, unless they may `escalate` or `bind`.

use std::sync::Arc;

use async_trait::async_trait;
use isopod_api::Value;
use isopod_api::status::Status;
use isopod_rules::rbac::{GROUP, Rule, escalation};

use crate::authz::{Authorization, Rbac};
use crate::layers::{Admission, AdmissionRequest, Attributes, Decision, Layers, Operation};

/// Checks writes of roles and bindings.
pub(super) struct Escalation {
    rbac: Arc<Rbac>,
    layers: Layers,
}

impl Escalation {
    pub(super) fn new(authorization: &Authorization) -> Self {
        let layers = Layers { authorizers: authorization.authorizers.clone(), ..Layers::default() };
        Self { rbac: authorization.rbac.clone(), layers }
    }

    async fn may(&self, request: &AdmissionRequest<'_>, verb: &str, resource: &str, name: &str) -> bool {
        let attributes = Attributes {
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            namespace: request.namespace.to_owned(),
            name: name.to_owned(),
            is_resource: true,
            ..Attributes::default()
        };
        matches!(self.layers.authorize(request.user, &attributes).await, Decision::Allow(_))
    }

    async fn confirm(&self, request: &AdmissionRequest<'_>, wanted: &[Rule]) -> Result<(), String> {
        let held = self.rbac.rules_for(request.user, request.namespace).await;
        let (held, unresolved) = held.map_err(|status| status.message)?;
        escalation::confirm(request.user, &held, &unresolved, wanted)
    }

    async fn role(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        let name = name_of(request);
        if self.may(request, "escalate", request.resource, &name).await {
            return Ok(());
        }
        let refused = |why: &str| Status::forbidden(GROUP, request.resource, &name, why);
        let (new, old) = (&request.object["aggregationRule"], &request.old["aggregationRule"]);
        if new != old && self.confirm(request, &escalation::full_authority()).await.is_err() {
            return Err(refused("must have cluster-admin privileges to use the aggregationRule"));
        }
        let wanted = Rule::of_role(request.object);
        self.confirm(request, &wanted).await.map_err(|why| refused(&why))
    }

    async fn binding(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        let reference = &request.object["roleRef"];
        let text = |field: &str| reference[field].as_str().unwrap_or("");
        let (kind, role) = (text("kind"), text("name"));
        let resource = if kind == "ClusterRole" { "clusterroles" } else { "roles" };
        if self.may(request, "bind", resource, role).await {
            return Ok(());
        }
        let rules = self.rbac.rules_of_ref(request.namespace, kind, role).await?;
        let wanted = rules.map_err(|_| Status::not_found(GROUP, resource, role))?;
        let name = name_of(request);
        let confirmed = self.confirm(request, &wanted).await;
        confirmed.map_err(|why| Status::forbidden(GROUP, request.resource, &name, &why))
    }
}

fn name_of(request: &AdmissionRequest<'_>) -> String {
    let named =
        request.object.pointer("/metadata/name").and_then(Value::as_str).filter(|name| !name.is_empty());
    named.unwrap_or(request.name).to_owned()
}

/// Garbage collection changes owners and finalizers in its own name; that grants nothing.
fn grants_nothing_new(request: &AdmissionRequest<'_>) -> bool {
    let strip = |object: &Value| {
        let mut object = object.clone();
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
                meta.remove(field);
            }
        }
        object
    };
    request.operation == Operation::Update && strip(request.object) == strip(request.old)
}

#[async_trait]
impl Admission for Escalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    fn handles(&self, operation: Operation, group: &str, _resource: &str, subresource: &str) -> bool {
        group == GROUP && subresource.is_empty() && matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if escalation::exempt(request.user) || grants_nothing_new(request) {
            return Ok(());
        }
        match request.resource {
            "clusterroles" | "roles" => self.role(request).await,
            "clusterrolebindings" | "rolebindings" => self.binding(request).await,
            _ => Ok(()),
        }
    }
}
