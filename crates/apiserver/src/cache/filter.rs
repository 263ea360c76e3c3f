//! Which objects a list or watch is about: scope, labels, fields.

use std::borrow::Cow;

use isopod_api::selector::{FieldSelector, LabelSelector};
use isopod_rules::kinds::Strategy;

use super::entry::{Entry, Event};

/// The narrowest set a watch can be filed under, so that a change wakes only those it may concern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Every object.
    All,
    /// The objects of a namespace.
    Namespace(String),
    /// One object, by key.
    Object(String),
    /// Objects with one value of the resource's indexed field (`spec.nodeName` of pods).
    Index(String),
}

/// Field by whose value watches are filed, per kind: upstream's index triggers.
pub fn indexed_field(kind: &str) -> Option<&'static str> {
    (kind == "Pod").then_some("spec.nodeName")
}

/// A parsed selection.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Namespace, empty for all.
    pub namespace: String,
    /// Label selector.
    pub labels: LabelSelector,
    /// Field selector.
    pub fields: FieldSelector,
}

/// What a change is to a watcher with a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The object came into view.
    Added,
    /// The object changed in view.
    Modified,
    /// The object went out of view.
    Deleted,
}

impl Change {
    /// The `type` of the watch event.
    pub fn name(self) -> &'static str {
        match self {
            Change::Added => "ADDED",
            Change::Modified => "MODIFIED",
            Change::Deleted => "DELETED",
        }
    }
}

impl Filter {
    /// All objects of a namespace, or of all namespaces if it is empty.
    pub fn namespace(namespace: &str) -> Filter {
        Filter {
            namespace: namespace.to_owned(),
            labels: LabelSelector::everything(),
            fields: FieldSelector::default(),
        }
    }

    /// Whether only the namespace restricts the selection.
    pub fn is_plain(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// Start of the keys that can match.
    pub fn key_prefix(&self) -> String {
        if self.namespace.is_empty() { String::new() } else { format!("{}/", self.namespace) }
    }

    /// The one key that can match, if the selection names an object.
    pub fn exact_key(&self, namespaced: bool) -> Option<String> {
        let name = self.fields.exact("metadata.name")?;
        match (namespaced, self.namespace.is_empty()) {
            (false, _) => Some(name.to_owned()),
            (true, false) => Some(format!("{}/{name}", self.namespace)),
            (true, true) => self.fields.exact("metadata.namespace").map(|ns| format!("{ns}/{name}")),
        }
    }

    /// Where a watch with this filter is filed.
    pub fn scope(&self, namespaced: bool, index: Option<&str>) -> Scope {
        if let Some(key) = self.exact_key(namespaced) {
            return Scope::Object(key);
        }
        if let Some(value) = index.and_then(|f| self.fields.exact(f)) {
            return Scope::Index(value.to_owned());
        }
        if self.namespace.is_empty() { Scope::All } else { Scope::Namespace(self.namespace.clone()) }
    }

    /// Whether an object matches.
    pub fn matches(&self, entry: &Entry, strategy: &Strategy) -> bool {
        (self.namespace.is_empty() || entry.name().0 == self.namespace)
            && (self.labels.is_everything() || self.labels.matches(&entry.labels))
            && (self.fields.is_everything()
                || self.fields.matches(|f| Cow::Owned(entry.field(strategy, f).to_owned())))
    }

    /// What a change is under this filter; `None` if it concerns nothing in view.
    pub fn change(&self, event: &Event, strategy: &Strategy) -> Option<Change> {
        let seen = |e: &Option<std::sync::Arc<Entry>>| e.as_ref().is_some_and(|e| self.matches(e, strategy));
        match (seen(&event.before), seen(&event.now)) {
            (false, true) => Some(Change::Added),
            (true, true) => Some(Change::Modified),
            (true, false) => Some(Change::Deleted),
            (false, false) => None,
        }
    }
}
