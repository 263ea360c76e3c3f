//! What a controller decided: writes, events and when to look again.
//!
//! A [`Plan`] is a value. Its steps run in order; a failed action that is not tolerated ends the plan, except that
//! the continuation (`then`) still runs and sees what happened, so that a status can report a failure.

use std::time::Duration;

use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::Value;

/// Every typed object with ordinary metadata.
pub trait Object: Metadata<Ty = ObjectMeta> + Serialize {}
impl<T: Metadata<Ty = ObjectMeta> + Serialize> Object for T {}

/// A resource as the URL names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    /// API group, empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural name in the URL.
    pub plural: String,
}

impl Resource {
    /// The resource of a typed kind.
    pub fn of<K: k8s_openapi::Resource>() -> Self {
        Self {
            group: K::GROUP.to_owned(),
            version: K::VERSION.to_owned(),
            plural: K::URL_PATH_SEGMENT.to_owned(),
        }
    }
}

/// One object at its place in the API.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// The resource.
    pub resource: Resource,
    /// Namespace; `None` for a cluster-scoped object.
    pub namespace: Option<String>,
    /// Name; empty in a create with `generateName`.
    pub name: String,
}

impl Target {
    /// Where a typed object lives.
    pub fn of<K: Object>(object: &K) -> Self {
        let meta = object.metadata();
        Self {
            resource: Resource::of::<K>(),
            namespace: meta.namespace.clone().filter(|ns| !ns.is_empty()),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

/// Patch formats that controllers send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 7386.
    Merge,
    /// Kubernetes' strategic merge.
    Strategic,
}

/// What happens to the dependents of a deleted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// The garbage collector deletes dependents afterwards.
    Background,
    /// Dependents go first.
    Foreground,
    /// Dependents stay and lose the reference.
    Orphan,
}

/// A write to one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// POST of a new object.
    Create {
        /// Where; the name may be empty.
        target: Target,
        /// The object.
        body: Value,
    },
    /// PUT of an object or one of its subresources; the body's resourceVersion is the precondition.
    Update {
        /// Where.
        target: Target,
        /// `status`, `finalize`, … or `None` for the object itself.
        subresource: Option<&'static str>,
        /// The object.
        body: Value,
    },
    /// PATCH of an object or one of its subresources.
    Patch {
        /// Where.
        target: Target,
        /// Subresource, if any.
        subresource: Option<&'static str>,
        /// Format of the body.
        kind: PatchKind,
        /// The patch.
        body: Value,
    },
    /// DELETE of an object.
    Delete {
        /// Where.
        target: Target,
        /// Only if the object still has this uid.
        uid: Option<String>,
        /// Only at this resourceVersion.
        resource_version: Option<String>,
        /// What happens to dependents; `None` leaves the choice to the API server.
        propagation: Option<Propagation>,
        /// Grace period in seconds; `None` keeps the object's own.
        grace_seconds: Option<i64>,
    },
    /// DELETE of all objects of a namespace's resource.
    DeleteCollection {
        /// Where; the name is empty.
        target: Target,
    },
}

impl Write {
    /// Where the write goes.
    pub fn target(&self) -> &Target {
        match self {
            Self::Create { target, .. }
            | Self::Update { target, .. }
            | Self::Patch { target, .. }
            | Self::Delete { target, .. }
            | Self::DeleteCollection { target } => target,
        }
    }
}

/// What an event's text ends with, known only once its action ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Tail {
    /// Nothing.
    #[default]
    None,
    /// The name of the object that was written.
    Name,
    /// The API server's error message.
    Error,
}

/// An event to record.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The object that the event is about.
    pub regarding: ObjectReference,
    /// `Warning` rather than `Normal`.
    pub warning: bool,
    /// Reason in CamelCase.
    pub reason: &'static str,
    /// Text, or the start of it.
    pub message: String,
    /// What the executor appends.
    pub tail: Tail,
}

impl Event {
    /// A Normal event.
    pub fn normal(regarding: ObjectReference, reason: &'static str, message: impl Into<String>) -> Self {
        Self { regarding, warning: false, reason, message: message.into(), tail: Tail::None }
    }
    /// A Warning event.
    pub fn warning(regarding: ObjectReference, reason: &'static str, message: impl Into<String>) -> Self {
        Self { regarding, warning: true, reason, message: message.into(), tail: Tail::None }
    }
    /// The same event with a tail.
    #[must_use]
    pub fn tail(mut self, tail: Tail) -> Self {
        self.tail = tail;
        self
    }
}

/// The failure of one action, as the API server told it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status; 0 when there was no answer.
    pub code: u16,
    /// `Status.reason`.
    pub reason: String,
    /// `Status.message`.
    pub message: String,
    /// A cause says that the namespace is being terminated.
    pub namespace_terminating: bool,
}

impl ApiError {
    /// The object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code == 404
    }
    /// The name is taken.
    pub fn is_already_exists(&self) -> bool {
        self.code == 409 && self.reason == "AlreadyExists"
    }
    /// The precondition failed.
    pub fn is_conflict(&self) -> bool {
        self.code == 409 && self.reason != "AlreadyExists"
    }
    /// The object is not acceptable, now or later.
    pub fn is_invalid(&self) -> bool {
        self.code == 422
    }
}

/// Failures that an action takes for success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tolerate {
    /// The object is gone.
    pub not_found: bool,
    /// The object is there already.
    pub already_exists: bool,
    /// Somebody else was faster.
    pub conflict: bool,
    /// The object was refused as invalid.
    pub invalid: bool,
    /// The namespace is being deleted.
    pub terminating: bool,
}

impl Tolerate {
    /// Whether the failure counts as success.
    pub fn accepts(&self, error: &ApiError) -> bool {
        (self.not_found && error.is_not_found())
            || (self.already_exists && error.is_already_exists())
            || (self.conflict && error.is_conflict())
            || (self.invalid && error.is_invalid())
            || (self.terminating && error.namespace_terminating)
    }
}

/// A fresh read that must hold before an action runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The object that must live.
    pub target: Target,
    /// Its uid.
    pub uid: String,
}

/// A write with its consequences.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    /// The write.
    pub write: Write,
    /// Events to record when it succeeds.
    pub on_ok: Vec<Event>,
    /// Events to record when it fails for a reason that is not tolerated.
    pub on_err: Vec<Event>,
    /// Failures that count as success.
    pub tolerate: Tolerate,
    /// The owner must be alive, by a fresh read.
    pub guard: Option<Guard>,
}

impl Action {
    fn new(write: Write) -> Self {
        Self { write, on_ok: Vec::new(), on_err: Vec::new(), tolerate: Tolerate::default(), guard: None }
    }
    /// Creates a typed object; the namespace comes from its metadata.
    pub fn create<K: Object>(object: &K) -> Self {
        Self::new(Write::Create { target: Target::of(object), body: to_value(object) })
    }
    /// Replaces a typed object.
    pub fn update<K: Object>(object: &K) -> Self {
        Self::new(Write::Update { target: Target::of(object), subresource: None, body: to_value(object) })
    }
    /// Replaces a typed object's status.
    pub fn update_status<K: Object>(object: &K) -> Self {
        Self::new(Write::Update {
            target: Target::of(object),
            subresource: Some("status"),
            body: to_value(object),
        })
    }
    /// Replaces another subresource of a typed object.
    pub fn update_subresource<K: Object>(object: &K, subresource: &'static str) -> Self {
        Self::new(Write::Update {
            target: Target::of(object),
            subresource: Some(subresource),
            body: to_value(object),
        })
    }
    /// Patches an object.
    pub fn patch(target: Target, kind: PatchKind, body: Value) -> Self {
        Self::new(Write::Patch { target, subresource: None, kind, body })
    }
    /// Patches an object's status.
    pub fn patch_status(target: Target, kind: PatchKind, body: Value) -> Self {
        Self::new(Write::Patch { target, subresource: Some("status"), kind, body })
    }
    /// Deletes a typed object, if it is still the same one.
    pub fn delete<K: Object>(object: &K) -> Self {
        Self::delete_at(Target::of(object), object.metadata().uid.clone())
    }
    /// Deletes the object at a place.
    pub fn delete_at(target: Target, uid: Option<String>) -> Self {
        let write =
            Write::Delete { target, uid, resource_version: None, propagation: None, grace_seconds: None };
        Self::new(write).tolerating(Tolerate { not_found: true, ..Tolerate::default() })
    }
    /// Deletes all objects of a resource in a namespace.
    pub fn delete_collection(target: Target) -> Self {
        Self::new(Write::DeleteCollection { target })
    }
    /// Sets the propagation policy of a delete.
    #[must_use]
    pub fn propagation(mut self, policy: Propagation) -> Self {
        if let Write::Delete { propagation, .. } = &mut self.write {
            *propagation = Some(policy);
        }
        self
    }
    /// Sets the grace period of a delete.
    #[must_use]
    pub fn grace(mut self, seconds: i64) -> Self {
        if let Write::Delete { grace_seconds, .. } = &mut self.write {
            *grace_seconds = Some(seconds);
        }
        self
    }
    /// Sets the resourceVersion precondition of a delete.
    #[must_use]
    pub fn at_version(mut self, version: Option<String>) -> Self {
        if let Write::Delete { resource_version, .. } = &mut self.write {
            *resource_version = version;
        }
        self
    }
    /// Adds an event for success.
    #[must_use]
    pub fn ok_event(mut self, event: Event) -> Self {
        self.on_ok.push(event);
        self
    }
    /// Adds an event for failure.
    #[must_use]
    pub fn err_event(mut self, event: Event) -> Self {
        self.on_err.push(event);
        self
    }
    /// Sets the failures that count as success.
    #[must_use]
    pub fn tolerating(mut self, tolerate: Tolerate) -> Self {
        self.tolerate = tolerate;
        self
    }
    /// Sets the guard.
    #[must_use]
    pub fn guarded(mut self, guard: Guard) -> Self {
        self.guard = Some(guard);
        self
    }
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// One action.
    One(Action),
    /// Actions side by side; all are tried.
    All(Vec<Action>),
    /// Batches of 1, 2, 4, … actions; the first batch with a failure is the last, so that a quota or a broken
    /// admission webhook does not meet thousands of futile requests.
    SlowStart(Vec<Action>),
    /// An event without a write.
    Note(Event),
}

/// What became of the steps.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Failures that were not tolerated, in order.
    pub failures: Vec<ApiError>,
    /// For each action in plan order: the object the API server answered with, or its error (also a tolerated one).
    /// Actions that were not tried are missing at the end.
    pub results: Vec<Result<Value, ApiError>>,
}

impl Outcome {
    /// The failures joined as upstream's aggregate error prints them.
    pub fn error(&self) -> Option<String> {
        let mut seen: Vec<&str> = Vec::new();
        for failure in &self.failures {
            if !seen.contains(&failure.message.as_str()) {
                seen.push(&failure.message);
            }
        }
        match seen.len() {
            0 => None,
            1 => Some(seen[0].to_owned()),
            _ => Some(format!("[{}]", seen.join(", "))),
        }
    }
}

/// The continuation of a plan: pure, like the reconcile function that made it.
pub type Then = Box<dyn FnOnce(&Outcome) -> Plan + Send>;

/// What to do for one key.
#[derive(Default)]
pub struct Plan {
    /// Steps in order.
    pub steps: Vec<Step>,
    /// Look again after this long.
    pub requeue_after: Option<Duration>,
    /// Look again as after a failure (rate limited).
    pub retry: bool,
    /// More to do once the steps ran.
    pub then: Option<Then>,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("steps", &self.steps)
            .field("requeue_after", &self.requeue_after)
            .field("retry", &self.retry)
            .field("then", &self.then.is_some())
            .finish()
    }
}

impl Plan {
    /// Nothing to do.
    pub fn nothing() -> Self {
        Self::default()
    }
    /// Appends an action.
    pub fn push(&mut self, action: Action) {
        self.steps.push(Step::One(action));
    }
    /// Appends an event.
    pub fn note(&mut self, event: Event) {
        self.steps.push(Step::Note(event));
    }
    /// Asks to be looked at again after a time, or earlier if that was asked before.
    pub fn requeue(&mut self, after: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(after, |old| old.min(after)));
    }
    /// Whether there is nothing to do now.
    pub fn is_idle(&self) -> bool {
        self.steps.is_empty() && self.then.is_none() && !self.retry
    }
    /// Every action of the steps, in order.
    pub fn actions(&self) -> impl Iterator<Item = &Action> {
        self.steps.iter().flat_map(|step| match step {
            Step::One(action) => std::slice::from_ref(action),
            Step::All(actions) | Step::SlowStart(actions) => actions.as_slice(),
            Step::Note(_) => &[],
        })
    }
}

/// Readable form of a plan for tests: one line a write or event.
pub fn describe(plan: &Plan) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for step in &plan.steps {
        let (label, actions) = match step {
            Step::One(action) => ("", std::slice::from_ref(action)),
            Step::All(actions) => ("all: ", actions.as_slice()),
            Step::SlowStart(actions) => ("slow: ", actions.as_slice()),
            Step::Note(event) => {
                let _ = writeln!(out, "event {} {}", event.reason, event.message);
                continue;
            }
        };
        for action in actions {
            let place = action.write.target();
            let at = format!("{}/{}", place.resource.plural, place.name);
            let _ = match &action.write {
                Write::Create { .. } => writeln!(out, "{label}create {at}"),
                Write::Update { subresource, .. } => {
                    writeln!(
                        out,
                        "{label}update {at}{}",
                        subresource.map(|s| format!("/{s}")).unwrap_or_default()
                    )
                }
                Write::Patch { subresource, body, .. } => writeln!(
                    out,
                    "{label}patch {at}{} {body}",
                    subresource.map(|s| format!("/{s}")).unwrap_or_default()
                ),
                Write::Delete { propagation, grace_seconds, .. } => writeln!(
                    out,
                    "{label}delete {at}{}{}",
                    propagation.map(|p| format!(" {p:?}")).unwrap_or_default(),
                    grace_seconds.map(|g| format!(" grace={g}")).unwrap_or_default()
                ),
                Write::DeleteCollection { .. } => writeln!(out, "{label}delete all {at}"),
            };
            for event in &action.on_ok {
                let _ = writeln!(out, "  ok: {} {}", event.reason, event.message);
            }
        }
    }
    if let Some(after) = plan.requeue_after {
        let _ = writeln!(out, "requeue {}s", after.as_secs_f64());
    }
    if plan.retry {
        out.push_str("retry\n");
    }
    out
}

/// A typed object as JSON.
pub fn to_value<K: Serialize>(object: &K) -> Value {
    serde_json::to_value(object).expect("a typed object is always JSON")
}
