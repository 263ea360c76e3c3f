//! `SelfSubjectRulesReview`: everything the client may do in a namespace, as far as roles say.

use std::sync::Arc;

use async_trait::async_trait;
use isopod_api::Value;
use isopod_api::field::{Error, Path};
use isopod_api::identity::GROUP_MASTERS;
use isopod_api::status::Status;
use isopod_rules::rbac::{Rule, escalation};
use serde_json::json;

use super::Rbac;
use crate::layers::{VirtualRequest, VirtualResource};

const GROUP: &str = "authorization.k8s.io";

/// Lists the client's rules.
pub(super) struct SelfSubjectRulesReview(Arc<Rbac>);

impl SelfSubjectRulesReview {
    pub(super) fn new(rbac: Arc<Rbac>) -> Self {
        Self(rbac)
    }
}

#[async_trait]
impl VirtualResource for SelfSubjectRulesReview {
    fn resource(&self) -> (&'static str, &'static str, &'static str) {
        (GROUP, "selfsubjectrulesreviews", "")
    }

    async fn create(&self, request: &VirtualRequest<'_>, mut object: Value) -> Result<Value, Status> {
        let namespace = object.pointer("/spec/namespace").and_then(Value::as_str).unwrap_or("").to_owned();
        if namespace.is_empty() {
            return Err(Status::bad_request("no namespace on request"));
        }
        if namespace.contains('/') {
            let path = Path::new("spec").child("namespace");
            let errors = [Error::invalid(&path, namespace.as_str(), "is not a namespace")];
            return Err(Status::invalid(GROUP, "SelfSubjectRulesReview", "", &errors));
        }
        let (mut rules, missing) = self.0.rules_for(request.user, &namespace).await?;
        if request.user.in_group(GROUP_MASTERS) {
            rules.extend(escalation::full_authority());
        }
        let (paths, resources): (Vec<Rule>, Vec<Rule>) =
            rules.into_iter().partition(|rule| !rule.non_resource_urls.is_empty());
        let on_paths = |rule: &Rule| json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls});
        // Kubelets also have rights that no role names.
        let incomplete = request.user.node_name().is_some() || !missing.is_empty();
        object["status"] = json!({
            "resourceRules": resources,
            "nonResourceRules": paths.iter().map(on_paths).collect::<Vec<_>>(),
            "incomplete": incomplete,
        });
        if !missing.is_empty() {
            object["status"]["evaluationError"] = json!(missing.join(", "));
        }
        Ok(object)
    }
}
