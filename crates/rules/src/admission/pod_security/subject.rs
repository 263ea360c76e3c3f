//! A pod as the checks look at it, and the wording they share.

use std::collections::BTreeSet;

use isopod_api::Value;

use super::super::value::{containers, text};
use super::evaluate::Violation;

/// The pod (or template) and the version of the rules.
pub(super) struct Subject<'a> {
    pub(super) pod: &'a Value,
    pub(super) spec: &'a Value,
    pub(super) minor: u32,
}

impl<'a> Subject<'a> {
    pub(super) fn new(pod: &'a Value, minor: u32) -> Self {
        Self { pod, spec: &pod["spec"], minor }
    }

    pub(super) fn containers(&self) -> impl Iterator<Item = &'a Value> {
        containers(self.spec)
    }

    /// Names of the containers for which `bad` holds.
    pub(super) fn named(&self, bad: impl Fn(&Value) -> bool) -> Vec<String> {
        self.containers().filter(|c| bad(c)).map(|c| text(c, "/name").to_owned()).collect()
    }

    /// From version 1.25 on, checks that mean nothing on Windows leave its pods alone.
    pub(super) fn is_windows(&self) -> bool {
        self.minor >= 25 && text(self.spec, "/os/name") == "windows"
    }

    /// From version 1.35 on, root in a user namespace is not root.
    pub(super) fn has_user_namespace(&self) -> bool {
        self.minor >= 35 && self.spec["hostUsers"] == false
    }
}

/// Who sets a bad value: the pod, some containers.
#[derive(Default)]
pub(super) struct Setters {
    pub(super) pod: bool,
    pub(super) containers: Vec<String>,
    pub(super) values: BTreeSet<String>,
}

impl Setters {
    /// Looks at a field of the pod's and of every container's security context. `bad` gives the bad value.
    pub(super) fn find(subject: &Subject<'_>, pointer: &str, bad: impl Fn(&Value) -> Option<String>) -> Self {
        let mut setters = Self::default();
        let at =
            |value: &Value| value["securityContext"].pointer(pointer).filter(|v| !v.is_null()).and_then(&bad);
        if let Some(value) = at(subject.spec) {
            setters.pod = true;
            setters.values.insert(value);
        }
        for container in subject.containers() {
            if let Some(value) = at(container) {
                setters.containers.push(text(container, "/name").to_owned());
                setters.values.insert(value);
            }
        }
        setters
    }

    pub(super) fn any(&self) -> bool {
        self.pod || !self.containers.is_empty()
    }

    /// `pod and containers "a", "b"`.
    pub(super) fn describe(&self) -> String {
        let mut parts = Vec::new();
        if self.pod {
            parts.push("pod".to_owned());
        }
        if !self.containers.is_empty() {
            parts.push(these("container", &self.containers));
        }
        parts.join(" and ")
    }

    pub(super) fn values(&self) -> String {
        quoted(self.values.iter())
    }
}

pub(super) fn violation(reason: &str, detail: impl Into<String>) -> Violation {
    Violation { reason: reason.to_owned(), detail: detail.into() }
}

/// `"a", "b"`.
pub(super) fn quoted<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect();
    items.join(", ")
}

/// `noun`, or with an `s` unless there is one.
pub(super) fn plural(noun: &str, count: usize) -> String {
    if count == 1 { noun.to_owned() } else { format!("{noun}s") }
}

/// `container "a"`, `containers "a", "b"`.
pub(super) fn these(noun: &str, names: &[String]) -> String {
    format!("{} {}", plural(noun, names.len()), quoted(names))
}

/// `uses`, `use`.
pub(super) fn uses(count: usize) -> &'static str {
    if count == 1 { "uses" } else { "use" }
}
