//! Delete and deletecollection: preconditions, grace, finalizers, propagation.
//!
//! An object goes at once unless its kind grants grace (pods on a node) or finalizers hold it; then it is
//! marked with `deletionTimestamp` and goes with the last of them.

use futures::{StreamExt as _, TryStreamExt as _};
use isopod_api::field::{Error, Path};
use isopod_api::object::child_mut;
use isopod_api::status::Status;
use isopod_api::{Map, Value};
use isopod_rules::kinds::meta::{FINALIZER_FOREGROUND, FINALIZER_ORPHAN};
use serde_json::json;

use super::storage::{Current, Outcome, set_revision};
use super::update::is_finished;
use super::write::{Rollbacks, Write, name_of};
use crate::cache::Filter;
use crate::context::timestamp;
use crate::layers::Operation;
use crate::limits;
use crate::options::Query;

/// `metav1.DeleteOptions`.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds the object gets to end.
    pub grace_seconds: Option<i64>,
    /// `Orphan`, `Background` or `Foreground`.
    pub propagation: Option<String>,
    /// Uid the object must have.
    pub uid: Option<String>,
    /// Revision the object must have.
    pub resource_version: Option<String>,
    /// Nothing is to be deleted.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Reads options from a decoded body (which wins) and the query.
    pub fn parse(body: Option<&Value>, query: &Query) -> Result<DeleteOptions, Status> {
        let field = |key: &str| body.and_then(|b| b.get(key)).filter(|v| !v.is_null());
        let text = |v: &Value| v.as_str().map(str::to_owned);
        let orphan = field("orphanDependents").and_then(Value::as_bool);
        let mut propagation = field("propagationPolicy").and_then(text);
        if propagation.is_none() && !query.get("propagationPolicy").is_empty() {
            propagation = Some(query.get("propagationPolicy").to_owned());
        }
        let mut errors = Vec::new();
        let at = Path::new("propagationPolicy");
        if let Some(policy) = &propagation {
            if orphan.is_some() {
                let detail = "orphanDependents and deletionPropagation cannot be both set";
                errors.push(Error::invalid(&at, policy.as_str(), detail));
            }
            if !matches!(policy.as_str(), "Orphan" | "Background" | "Foreground") {
                let known = ["Foreground", "Background", "Orphan", "nil"];
                errors.push(Error::not_supported(&at, policy.as_str(), &known));
            }
        }
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors));
        }
        let propagation = propagation.or(orphan.map(|o| if o { "Orphan" } else { "Background" }.to_owned()));
        let preconditions = field("preconditions");
        let precondition = |key: &str| preconditions.and_then(|p| p.get(key)).and_then(text);
        let dry_run = query.all("dryRun").any(|v| v == "All")
            || field("dryRun").and_then(Value::as_array).is_some_and(|l| l.iter().any(|v| v == "All"));
        Ok(DeleteOptions {
            grace_seconds: match field("gracePeriodSeconds").and_then(Value::as_i64) {
                Some(seconds) => Some(seconds),
                None => query.number("gracePeriodSeconds")?,
            },
            propagation,
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
            dry_run,
        })
    }
}

/// How a delete ended.
#[derive(Debug)]
pub enum Deleted {
    /// The object is gone; its last state.
    Gone(Value),
    /// The object is marked and waits for its grace period or finalizers.
    Marked(Value),
}

impl Write<'_> {
    /// Deletes the object named by the path.
    pub async fn delete(&self, options: &DeleteOptions) -> Result<Deleted, Status> {
        let store = &*self.server.registry().store;
        let stored = &self.resource.stored;
        let mut current = stored.current(store, self.namespace, self.name).await?;
        for _ in 0..limits::UPDATE_RETRIES_MAX {
            let Some(found) = current else { return Err(self.resource.not_found(self.name)) };
            let mut rollbacks = Rollbacks::default();
            match self.delete_steps(&found, options, &mut rollbacks).await {
                Ok(Step::Done(deleted)) => {
                    if options.dry_run {
                        rollbacks.undo().await;
                    }
                    return Ok(deleted);
                }
                Ok(Step::Again(now)) => {
                    rollbacks.undo().await;
                    current = now;
                }
                Err(status) => {
                    rollbacks.undo().await;
                    return Err(status);
                }
            }
        }
        Err(Status::stale(stored.group, stored.plural, self.name))
    }

    async fn delete_steps(
        &self,
        current: &Current,
        options: &DeleteOptions,
        rollbacks: &mut Rollbacks,
    ) -> Result<Step, Status> {
        let stored = &self.resource.stored;
        self.check_preconditions(&current.object, options)?;
        let mut nothing = Value::Null;
        self.admission(Operation::Delete, true, &mut nothing, &current.object, rollbacks).await?;
        self.admission(Operation::Delete, false, &mut nothing, &current.object, rollbacks).await?;
        let store = &*self.server.registry().store;
        let (name, mut object) = (name_of(&current.object).to_owned(), current.object.clone());
        let waits = self.mark(&mut object, options);
        if waits {
            if options.dry_run || object == current.object {
                return Ok(Step::Done(Deleted::Marked(object)));
            }
            return Ok(match stored.put(store, &mut object, current.revision, 0).await? {
                Outcome::Done(_) => Step::Done(Deleted::Marked(object)),
                Outcome::Conflict(now) => Step::Again(now),
            });
        }
        if options.dry_run {
            return Ok(Step::Done(Deleted::Gone(object)));
        }
        Ok(match stored.remove(store, self.namespace, &name, current.revision).await? {
            Outcome::Done(revision) => {
                set_revision(&mut object, revision);
                self.server.after_delete(stored, &object).await;
                Step::Done(Deleted::Gone(object))
            }
            Outcome::Conflict(now) => Step::Again(now),
        })
    }

    fn check_preconditions(&self, object: &Value, options: &DeleteOptions) -> Result<(), Status> {
        let stored = &self.resource.stored;
        let meta = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
        let conflict = |why: &str| Err(Status::conflict(stored.group, stored.plural, self.name, why));
        if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != meta("uid")) {
            let actual = meta("uid");
            return conflict(&format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {actual}"
            ));
        }
        let actual = meta("resourceVersion");
        match options.resource_version.as_deref().filter(|v| *v != actual) {
            Some(asked) => conflict(&format!(
                "Precondition failed: ResourceVersion in precondition: {asked}, ResourceVersion in object meta: {actual}"
            )),
            None => Ok(()),
        }
    }

    /// Marks an object for deletion where something holds it; says whether something does.
    fn mark(&self, object: &mut Value, options: &DeleteOptions) -> bool {
        let stored = &self.resource.stored;
        let strategy = stored.strategy;
        let grace = strategy.graceful_seconds.and_then(|f| f(object, options.grace_seconds)).unwrap_or(0);
        let meta = child_mut(object, "metadata");
        set_propagation(meta, options.propagation.as_deref(), strategy.orphan_by_default);
        let held = meta.get("finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty());
        let marked = meta.get("deletionTimestamp").is_some_and(Value::is_string);
        if marked {
            // A later request may only shorten the time that is left.
            let before = meta.get("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
            if grace < before {
                set_deletion(meta, self.ctx.now, grace);
            }
        } else if held || grace > 0 || stored.kind == "Namespace" {
            set_deletion(meta, self.ctx.now, grace);
            if let Some(generation) = meta.get("generation").and_then(Value::as_i64).filter(|g| *g > 0) {
                meta.insert("generation".to_owned(), (generation + 1).into());
            }
        } else {
            return false;
        }
        if stored.kind == "Namespace" {
            child_mut(object, "status").insert("phase".to_owned(), "Terminating".into());
        }
        !is_finished(object, stored.kind)
    }

    /// Deletes every object of the collection that the selection matches; gives their last states.
    pub async fn delete_collection(
        &self,
        filter: &Filter,
        options: &DeleteOptions,
    ) -> Result<Vec<Value>, Status> {
        let snapshot = self.server.snapshot(self.resource, None).await?;
        let stored = &self.resource.stored;
        let prefix = filter.key_prefix();
        let names: Vec<(String, String)> = snapshot
            .objects
            .with_prefix(&prefix)
            .filter(|e| filter.matches(e, stored.strategy))
            .map(|e| (e.name().0.to_owned(), e.name().1.to_owned()))
            .collect();
        // Several at once, so that the store commits them together.
        let deletes = futures::stream::iter(names).map(|(namespace, name)| async move {
            let one = Write { namespace: &namespace, name: &name, ..*self };
            match one.delete(options).await {
                Ok(Deleted::Gone(object) | Deleted::Marked(object)) => Ok(Some(object)),
                Err(status) if status.code == 404 => Ok(None),
                Err(status) => Err(status),
            }
        });
        let deleted: Vec<Option<Value>> =
            deletes.buffered(limits::DELETE_COLLECTION_PARALLEL).try_collect().await?;
        let items = deleted.into_iter().flatten().collect();
        Ok(items)
    }
}

enum Step {
    Done(Deleted),
    Again(Option<Current>),
}

fn set_deletion(meta: &mut Map, now: jiff::Timestamp, grace: i64) {
    let at = now.checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(now);
    meta.insert("deletionTimestamp".to_owned(), timestamp(at));
    meta.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
}

/// Sets the garbage collector's finalizers as the policy asks.
fn set_propagation(meta: &mut Map, policy: Option<&str>, orphan_by_default: bool) {
    let mut finalizers: Vec<Value> =
        meta.get("finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
    let has = |finalizers: &[Value], name: &str| finalizers.iter().any(|f| f == name);
    let (orphan, foreground) = match policy {
        Some("Orphan") => (true, false),
        Some("Foreground") => (false, true),
        Some(_) => (false, false),
        None => {
            let orphan = has(&finalizers, FINALIZER_ORPHAN);
            let foreground = has(&finalizers, FINALIZER_FOREGROUND);
            (orphan || (orphan_by_default && !foreground), foreground)
        }
    };
    for (name, wanted) in [(FINALIZER_ORPHAN, orphan), (FINALIZER_FOREGROUND, foreground)] {
        match (wanted, has(&finalizers, name)) {
            (true, false) => finalizers.push(name.into()),
            (false, true) => finalizers.retain(|f| f != name),
            _ => {}
        }
    }
    if finalizers.is_empty() {
        meta.remove("finalizers");
    } else {
        meta.insert("finalizers".to_owned(), finalizers.into());
    }
}
