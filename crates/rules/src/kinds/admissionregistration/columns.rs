//! Tables of webhook configurations, admission policies and their bindings.

use isopod_api::Value;
use jiff::Timestamp;

use crate::kinds::columns::{Column, selector};
use crate::kinds::shared::{at, list_at, str_at};

pub(super) const WEBHOOKS: &[Column] = &[Column::integer("Webhooks", "Webhooks of the configuration.")];

pub(super) fn webhooks(object: &Value, _: Timestamp) -> Vec<Value> {
    vec![list_at(object, "webhooks").len().into()]
}

const PARAM_KIND: Column = Column::text("ParamKind", "Kind of the policy's parameters.");

pub(super) const VALIDATING_POLICY: &[Column] =
    &[Column::integer("Validations", "Validation rules of the policy."), PARAM_KIND];
pub(super) const MUTATING_POLICY: &[Column] =
    &[Column::integer("Mutations", "Mutations of the policy."), PARAM_KIND];

fn param_kind(policy: &Value) -> Value {
    let kind = at(policy, "spec.paramKind");
    kind.map_or_else(
        || "<unset>".to_owned(),
        |k| format!("{}/{}", str_at(k, "apiVersion"), str_at(k, "kind")),
    )
    .into()
}

pub(super) fn validating_policy(policy: &Value, _: Timestamp) -> Vec<Value> {
    vec![list_at(policy, "spec.validations").len().into(), param_kind(policy)]
}

pub(super) fn mutating_policy(policy: &Value, _: Timestamp) -> Vec<Value> {
    vec![list_at(policy, "spec.mutations").len().into(), param_kind(policy)]
}

pub(super) const BINDING: &[Column] = &[
    Column::text("PolicyName", "Policy that is bound."),
    Column::text("ParamRef", "Object with the policy's parameters."),
];

pub(super) fn binding(binding: &Value, _: Timestamp) -> Vec<Value> {
    let Some(param) = at(binding, "spec.paramRef") else {
        return vec![str_at(binding, "spec.policyName").into(), "<unset>".into()];
    };
    let (namespace, name) = (str_at(param, "namespace"), str_at(param, "name"));
    let object = match name {
        "" => selector(at(param, "selector")).as_str().unwrap_or_default().to_owned(),
        name => name.to_owned(),
    };
    let object = if namespace.is_empty() { object } else { format!("{namespace}/{object}") };
    vec![str_at(binding, "spec.policyName").into(), object.into()]
}
