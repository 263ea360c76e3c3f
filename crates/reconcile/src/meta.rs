//! Reading object metadata: owners, keys, references, times.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

use crate::plan::{Guard, Object, Target};

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

/// Short names for what every controller asks of an object's metadata.
pub trait Meta {
    /// The metadata.
    fn meta(&self) -> &ObjectMeta;
    /// Name, or the empty string.
    fn name(&self) -> &str {
        self.meta().name.as_deref().unwrap_or_default()
    }
    /// Namespace, or the empty string.
    fn namespace(&self) -> &str {
        self.meta().namespace.as_deref().unwrap_or_default()
    }
    /// Uid, or the empty string.
    fn uid(&self) -> &str {
        self.meta().uid.as_deref().unwrap_or_default()
    }
    /// Labels.
    fn labels(&self) -> &BTreeMap<String, String> {
        self.meta().labels.as_ref().unwrap_or(&NO_LABELS)
    }
    /// Annotations.
    fn annotations(&self) -> &BTreeMap<String, String> {
        self.meta().annotations.as_ref().unwrap_or(&NO_LABELS)
    }
    /// Finalizers.
    fn finalizers(&self) -> &[String] {
        self.meta().finalizers.as_deref().unwrap_or_default()
    }
    /// Owner references.
    fn owners(&self) -> &[OwnerReference] {
        self.meta().owner_references.as_deref().unwrap_or_default()
    }
    /// Whether deletion was asked for.
    fn deleting(&self) -> bool {
        self.meta().deletion_timestamp.is_some()
    }
    /// Generation, 0 when unset.
    fn generation(&self) -> i64 {
        self.meta().generation.unwrap_or_default()
    }
    /// The owner that controls the object.
    fn controller(&self) -> Option<&OwnerReference> {
        self.owners().iter().find(|owner| owner.controller == Some(true))
    }
    /// Whether this uid controls the object.
    fn controlled_by(&self, uid: &str) -> bool {
        self.controller().is_some_and(|owner| owner.uid == uid)
    }
    /// When the object was created.
    fn created(&self) -> Option<Timestamp> {
        self.meta().creation_timestamp.as_ref().map(|time| time.0)
    }
}

impl<T: Object> Meta for T {
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }
}

/// `namespace/name`, or the name alone for cluster-scoped objects.
pub fn key<K: Object>(object: &K) -> String {
    if object.namespace().is_empty() {
        object.name().to_owned()
    } else {
        format!("{}/{}", object.namespace(), object.name())
    }
}

/// A reference for events.
pub fn reference<K: Object>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::API_VERSION.to_owned()),
        kind: Some(K::KIND.to_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// The owner reference by which `owner` controls a dependent.
pub fn controller_ref<K: Object>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::API_VERSION.to_owned(),
        kind: K::KIND.to_owned(),
        name: owner.name().to_owned(),
        uid: owner.uid().to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A guard that the object lives and is not being deleted.
pub fn alive<K: Object>(object: &K) -> Guard {
    Guard { target: Target::of(object), uid: object.uid().to_owned() }
}

/// A timestamp as the API stores it: whole seconds.
pub fn time(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).expect("whole seconds of a timestamp are in range"))
}

/// Time from `earlier` until `later`, zero when it has passed.
pub fn until(later: Timestamp, earlier: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or(Duration::ZERO)
}

/// `at` plus seconds, saturating.
pub fn plus_seconds(at: Timestamp, seconds: i64) -> Timestamp {
    at.saturating_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// Adds one annotation.
pub fn set_annotation(meta: &mut ObjectMeta, name: &str, value: impl Into<String>) {
    meta.annotations.get_or_insert_default().insert(name.to_owned(), value.into());
}

/// Adds one label.
pub fn set_label(meta: &mut ObjectMeta, name: &str, value: impl Into<String>) {
    meta.labels.get_or_insert_default().insert(name.to_owned(), value.into());
}
