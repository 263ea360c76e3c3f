//! Update of one object, by whatever changed it: PUT, PATCH, or a subresource.

use isopod_api::Value;
use isopod_api::field::{Error, Path};
use isopod_api::object::child_mut;
use isopod_api::status::Status;

use super::storage::{Current, Outcome, set_revision};
use super::write::{Part, Rollbacks, Write, name_of};
use crate::layers::Operation;
use crate::limits;

/// An updated object, and whether the update created it.
#[derive(Debug)]
pub struct Updated {
    /// The object in the storage version.
    pub object: Value,
    /// Whether it did not exist before.
    pub created: bool,
}

/// Makes the new object out of the current one. Called again when the object changed meanwhile.
pub type Change<'c> = &'c mut (dyn FnMut(&Value) -> Result<Value, Status> + Send);

impl Write<'_> {
    /// Updates the object named by the path. `absent` gives the object to create if there is none.
    pub async fn update(
        &self,
        part: Part,
        change: Change<'_>,
        absent: Option<&mut (dyn FnMut() -> Result<Value, Status> + Send)>,
    ) -> Result<Updated, Status> {
        let store = &*self.server.registry().store;
        let stored = &self.resource.stored;
        let mut current = stored.current(store, self.namespace, self.name).await?;
        if current.is_none()
            && let Some(absent) = absent
        {
            let object = self.create(absent()?).await?;
            return Ok(Updated { object, created: true });
        }
        for _ in 0..limits::UPDATE_RETRIES_MAX {
            let Some(found) = current else { return Err(self.resource.not_found(self.name)) };
            let mut rollbacks = Rollbacks::default();
            let result = self.update_steps(part, &found, change, &mut rollbacks).await;
            match result {
                Ok(Step::Done(object)) => {
                    if self.options.dry_run {
                        rollbacks.undo().await;
                    }
                    return Ok(Updated { object, created: false });
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

    async fn update_steps(
        &self,
        part: Part,
        current: &Current,
        change: Change<'_>,
        rollbacks: &mut Rollbacks,
    ) -> Result<Step, Status> {
        let stored = &self.resource.stored;
        let facts = self.resource.facts;
        let old = &current.object;
        let mut new = change(old)?;
        self.check_name(&mut new)?;
        self.check_revision(&mut new, current.revision)?;
        self.admission(Operation::Update, true, &mut new, old, rollbacks).await?;
        self.prepare_update(&mut new, old, part)?;
        self.admission(Operation::Update, false, &mut new, old, rollbacks).await?;
        self.server.before_store(self, &mut new, Some(old), rollbacks).await?;
        self.record_fields(&mut new, Some(old));
        if new == *old && !current.stale {
            return Ok(Step::Done(new));
        }
        if self.options.dry_run {
            return Ok(Step::Done(new));
        }
        let store = &*self.server.registry().store;
        if is_finished(&new, stored.kind) {
            return match stored.remove(store, self.namespace, name_of(&new), current.revision).await? {
                Outcome::Done(revision) => {
                    set_revision(&mut new, revision);
                    self.server.after_delete(stored, &new).await;
                    Ok(Step::Done(new))
                }
                Outcome::Conflict(now) => Ok(Step::Again(now)),
            };
        }
        let lease = self.server.lease_for(stored).await?;
        match stored.put(store, &mut new, current.revision, lease).await? {
            Outcome::Done(_) => {
                self.server.after_update(stored, &new, old).await;
                Ok(Step::Done(new))
            }
            Outcome::Conflict(None) => Err(Status::not_found(facts.group, facts.plural, self.name)),
            Outcome::Conflict(now) => Ok(Step::Again(now)),
        }
    }

    /// The name in the object must be the one in the path.
    fn check_name(&self, new: &mut Value) -> Result<(), Status> {
        let meta = child_mut(new, "metadata");
        let text = |key: &str| meta.get(key).and_then(Value::as_str).unwrap_or_default();
        let (name, namespace) = (text("name"), text("namespace"));
        if !name.is_empty() && name != self.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                self.name
            )));
        }
        if !namespace.is_empty() && namespace != self.namespace {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        meta.insert("name".to_owned(), self.name.into());
        Ok(())
    }

    /// Optimistic concurrency: the revision the client saw must be the current one, if it names one.
    fn check_revision(&self, new: &mut Value, current: i64) -> Result<(), Status> {
        let stored = &self.resource.stored;
        let facts = self.resource.facts;
        let meta = child_mut(new, "metadata");
        let asked = meta.get("resourceVersion").and_then(Value::as_str).unwrap_or_default();
        match asked {
            "" | "0" if !stored.strategy.unconditional_update => {
                let at = Path::new("metadata").child("resourceVersion");
                let error = Error::invalid(&at, 0, "must be specified for an update");
                Err(Status::invalid(stored.group, stored.kind, self.name, &[error]))
            }
            "" | "0" => {
                meta.insert("resourceVersion".to_owned(), current.to_string().into());
                Ok(())
            }
            asked if asked.parse() == Ok(current) => Ok(()),
            _ => Err(Status::stale(facts.group, facts.plural, self.name)),
        }
    }
}

enum Step {
    Done(Value),
    /// Somebody else was faster; the object as it is now.
    Again(Option<Current>),
}

/// Whether an object that is being deleted has nothing left to wait for.
pub fn is_finished(object: &Value, kind: &str) -> bool {
    let Some(meta) = object.get("metadata") else { return false };
    let empty = |list: Option<&Value>| list.and_then(Value::as_array).is_none_or(Vec::is_empty);
    let over = meta.get("deletionTimestamp").is_some_and(Value::is_string)
        && empty(meta.get("finalizers"))
        && meta.get("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0) == 0;
    over && (kind != "Namespace" || empty(object.get("spec").and_then(|s| s.get("finalizers"))))
}
