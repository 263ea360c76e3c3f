//! ControllerRevisions: the templates that a DaemonSet or StatefulSet has had.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::meta::{Meta, controller_ref};
use crate::plan::{Action, Object};
use crate::template::{fnv32a, safe_encode, semantically_equal};

/// Label of pods with the hash or name of their revision.
pub const REVISION_HASH: &str = "controller-revision-hash";
/// Length that leaves room for the hash behind an owner's name.
const PREFIX_MAX: usize = 223;

/// A template as a revision stores it: a patch that replaces the template.
pub fn data(template: &PodTemplateSpec) -> Value {
    let mut template = crate::plan::to_value(template);
    template["$patch"] = json!("replace");
    json!({ "spec": { "template": template } })
}

/// Hash of a revision's data.
pub fn hash(data: &Value, collisions: Option<i32>) -> String {
    let mut bytes = serde_json::to_vec(data).expect("a JSON value is always JSON");
    if let Some(count) = collisions {
        bytes.extend_from_slice(&count.to_le_bytes());
    }
    safe_encode(&fnv32a(&bytes).to_string())
}

/// The template that a revision stores.
pub fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut value = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    value.as_object_mut()?.remove("$patch");
    serde_json::from_value(value).ok()
}

/// Whether a revision stores these data.
pub fn holds(revision: &ControllerRevision, data: &Value) -> bool {
    revision.data.as_ref().is_some_and(|have| have.0 == *data || semantically_equal(&have.0, data))
}

/// The number after the highest.
pub fn next_number(revisions: &[Arc<ControllerRevision>]) -> i64 {
    revisions.iter().map(|revision| revision.revision).max().unwrap_or(0) + 1
}

/// A new revision of an owner, with the label that tells its hash.
pub fn make<O: Object>(
    owner: &O,
    template: &PodTemplateSpec,
    number: i64,
    collisions: Option<i32>,
    hash_label: &str,
) -> ControllerRevision {
    let data = data(template);
    let hash = hash(&data, collisions);
    let mut labels: BTreeMap<String, String> =
        template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(hash_label.to_owned(), hash.clone());
    let prefix: String = owner.name().chars().take(PREFIX_MAX).collect();
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}-{hash}")),
            namespace: owner.meta().namespace.clone(),
            labels: Some(labels),
            annotations: owner.meta().annotations.clone(),
            owner_references: Some(vec![controller_ref(owner)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: number,
    }
}

/// Deletions of revisions that no pod uses, oldest first, beyond the limit.
pub fn truncate(
    revisions: &[Arc<ControllerRevision>],
    is_live: impl Fn(&ControllerRevision) -> bool,
    limit: i32,
) -> Vec<Action> {
    let mut idle: Vec<_> = revisions.iter().filter(|revision| !is_live(revision)).collect();
    idle.sort_by_key(|revision| revision.revision);
    let surplus = idle.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    idle.into_iter().take(surplus).map(|revision| Action::delete(revision.as_ref())).collect()
}
