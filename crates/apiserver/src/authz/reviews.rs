//! `SubjectAccessReview` and its siblings: may somebody do something?

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use isopod_api::Value;
use isopod_api::field::{Error, Path};
use isopod_api::identity::UserInfo;
use isopod_api::status::Status;
use serde_json::json;

use crate::layers::{Attributes, Authorizer, Decision, Layers, VirtualRequest, VirtualResource};

const GROUP: &str = "authorization.k8s.io";

/// Whose rights are asked about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Somebody's, named in the review.
    Subject,
    /// Somebody's, in the namespace of the review alone.
    Local,
    /// The client's own.
    Own,
}

struct AccessReview {
    whose: Whose,
    layers: Layers,
}

/// The three access reviews.
pub(super) fn all(authorizers: &[Arc<dyn Authorizer>]) -> Vec<Arc<dyn VirtualResource>> {
    let layers = Layers { authorizers: authorizers.to_vec(), ..Layers::default() };
    let review =
        |whose| -> Arc<dyn VirtualResource> { Arc::new(AccessReview { whose, layers: layers.clone() }) };
    vec![review(Whose::Subject), review(Whose::Local), review(Whose::Own)]
}

impl AccessReview {
    fn kind(&self) -> &'static str {
        match self.whose {
            Whose::Subject => "SubjectAccessReview",
            Whose::Local => "LocalSubjectAccessReview",
            Whose::Own => "SelfSubjectAccessReview",
        }
    }

    fn validate(&self, object: &Value, spec: &Value, namespace: &str) -> Vec<Error> {
        let path = Path::new("spec");
        let mut errors = Vec::new();
        let given = |field: &str| spec.get(field).is_some_and(|value| !value.is_null());
        let (resource, path_attributes) = (given("resourceAttributes"), given("nonResourceAttributes"));
        if resource && path_attributes {
            errors.push(Error::invalid(
                &path.child("nonResourceAttributes"),
                spec["nonResourceAttributes"].clone(),
                "cannot be specified in combination with resourceAttributes",
            ));
        }
        if !resource && !path_attributes {
            errors.push(Error::invalid(
                &path.child("resourceAttributes"),
                Value::Null,
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
        let text = |field: &str| spec.get(field).and_then(Value::as_str).unwrap_or("");
        let groups = spec.get("groups").and_then(Value::as_array).is_some_and(|groups| !groups.is_empty());
        if self.whose != Whose::Own && text("user").is_empty() && !groups {
            let detail = "at least one of user or group must be specified";
            errors.push(Error::invalid(&path.child("user"), text("user"), detail));
        }
        if self.whose == Whose::Local {
            let own = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("");
            let asked = spec.pointer("/resourceAttributes/namespace").and_then(Value::as_str).unwrap_or("");
            if asked != namespace || (!own.is_empty() && own != namespace) {
                let path = path.child("resourceAttributes").child("namespace");
                errors.push(Error::invalid(
                    &path,
                    asked,
                    format!("must match metadata.namespace: {namespace}"),
                ));
            }
            if path_attributes {
                let path = path.child("nonResourceAttributes");
                errors.push(Error::invalid(&path, Value::Null, "disallowed on this kind of request"));
            }
        }
        errors
    }
}

fn user_of(spec: &Value) -> UserInfo {
    let text = |field: &str| spec.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let extra = spec.get("extra").and_then(Value::as_object);
    UserInfo {
        name: text("user"),
        uid: text("uid"),
        groups: spec.get("groups").map(list).unwrap_or_default(),
        extra: extra
            .into_iter()
            .flatten()
            .map(|(key, values)| (key.to_lowercase(), list(values)))
            .collect::<BTreeMap<_, _>>(),
    }
}

fn attributes_of(spec: &Value) -> Attributes {
    if let Some(asked) = spec.get("resourceAttributes").filter(|asked| !asked.is_null()) {
        let text = |field: &str| asked.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
        let selector = |field: &str| {
            asked
                .get(field)
                .and_then(|s| s.get("rawSelector"))
                .and_then(Value::as_str)
                .unwrap_or("")
                .to_owned()
        };
        return Attributes {
            verb: text("verb"),
            group: text("group"),
            version: text("version"),
            resource: text("resource"),
            subresource: text("subresource"),
            namespace: text("namespace"),
            name: text("name"),
            is_resource: true,
            field_selector: requirements(asked, "fieldSelector").unwrap_or_else(|| selector("fieldSelector")),
            label_selector: selector("labelSelector"),
            ..Attributes::default()
        };
    }
    let text = |field: &str| {
        spec.pointer(&format!("/nonResourceAttributes/{field}"))
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned()
    };
    Attributes { verb: text("verb"), path: text("path"), ..Attributes::default() }
}

/// A field selector given as requirements, in the form it has in a query.
fn requirements(asked: &Value, field: &str) -> Option<String> {
    let list = asked.get(field)?.get("requirements")?.as_array()?;
    let text = |requirement: &Value| {
        let key = requirement.get("key")?.as_str()?;
        let value = requirement.get("values")?.as_array()?.first()?.as_str()?;
        match requirement.get("operator")?.as_str()? {
            "In" => Some(format!("{key}={value}")),
            "NotIn" => Some(format!("{key}!={value}")),
            _ => None,
        }
    };
    Some(list.iter().filter_map(text).collect::<Vec<_>>().join(","))
}

#[async_trait]
impl VirtualResource for AccessReview {
    fn resource(&self) -> (&'static str, &'static str, &'static str) {
        let resource = match self.whose {
            Whose::Subject => "subjectaccessreviews",
            Whose::Local => "localsubjectaccessreviews",
            Whose::Own => "selfsubjectaccessreviews",
        };
        (GROUP, resource, "")
    }

    async fn create(&self, request: &VirtualRequest<'_>, mut object: Value) -> Result<Value, Status> {
        let spec = object.get("spec").cloned().unwrap_or_default();
        let errors = self.validate(&object, &spec, request.namespace);
        if !errors.is_empty() {
            return Err(Status::invalid(GROUP, self.kind(), "", &errors));
        }
        let user = if self.whose == Whose::Own { request.user.clone() } else { user_of(&spec) };
        object["status"] = match self.layers.authorize(&user, &attributes_of(&spec)).await {
            Decision::Allow(reason) => status(true, false, &reason),
            Decision::Deny(reason) => status(false, true, &reason),
            Decision::NoOpinion(reason) => status(false, false, &reason),
        };
        Ok(object)
    }
}

fn status(allowed: bool, denied: bool, reason: &str) -> Value {
    let mut status = json!({"allowed": allowed});
    if denied {
        status["denied"] = json!(true);
    }
    if !reason.is_empty() {
        status["reason"] = json!(reason);
    }
    status
}
