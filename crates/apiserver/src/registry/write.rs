//! The steps that creates and updates share: admission, preparation, validation.

use std::sync::Arc;

use isopod_api::Value;
use isopod_api::object::child_mut;
use isopod_api::status::Status;
use isopod_rules::kinds::meta;

use super::Resource;
use crate::context::{Ctx, timestamp};
use crate::layers::{AdmissionRequest, Operation, Rollback};
use crate::options::WriteOptions;
use crate::server::ApiServer;

/// One write request on one object (or, for creates, collection).
#[derive(Clone, Copy)]
pub struct Write<'a> {
    /// The server.
    pub server: &'a ApiServer,
    /// The request.
    pub ctx: &'a Ctx,
    /// The resource of the path.
    pub resource: &'a Arc<Resource>,
    /// Subresource written, empty for the object itself.
    pub subresource: &'a str,
    /// Namespace of the path.
    pub namespace: &'a str,
    /// Name of the path, empty for creates.
    pub name: &'a str,
    /// Options.
    pub options: &'a WriteOptions,
    /// How the change is recorded in `metadata.managedFields`.
    pub manager: &'a Manager,
    /// Whether the server writes on its own behalf, past admission.
    pub system: bool,
}

/// Under which name and operation a change is recorded.
#[derive(Debug, Clone)]
pub struct Manager {
    /// Field manager.
    pub name: String,
    /// Whether this is a server-side apply, which records its fields itself.
    pub apply: bool,
}

impl Manager {
    /// The manager of a request: as named, or from the user agent.
    pub fn of(ctx: &Ctx, options: &WriteOptions) -> Manager {
        let name = match options.field_manager.as_str() {
            "" => ctx.default_manager(),
            named => named.to_owned(),
        };
        Manager { name, apply: false }
    }
}

/// Reservations that must be undone unless the write happens.
#[derive(Default)]
pub struct Rollbacks(pub Vec<Rollback>);

impl Rollbacks {
    /// Undoes everything, newest first.
    pub async fn undo(&mut self) {
        while let Some(rollback) = self.0.pop() {
            (rollback.0)().await;
        }
    }
}

impl Write<'_> {
    /// Runs one phase of admission over an object.
    pub async fn admission(
        &self,
        operation: Operation,
        mutate: bool,
        object: &mut Value,
        old: &Value,
        rollbacks: &mut Rollbacks,
    ) -> Result<(), Status> {
        if self.system {
            return Ok(());
        }
        let stored = &self.resource.stored;
        let name = object
            .get("metadata")
            .and_then(|m| m.get("name"))
            .and_then(Value::as_str)
            .filter(|_| self.name.is_empty())
            .unwrap_or(self.name)
            .to_owned();
        let mut request = AdmissionRequest {
            operation,
            user: &self.ctx.user,
            group: stored.group,
            version: stored.version,
            kind: stored.kind,
            resource: stored.plural,
            subresource: self.subresource,
            namespace: self.namespace,
            name: &name,
            object,
            old,
            dry_run: self.options.dry_run,
            warnings: Vec::new(),
            annotations: Vec::new(),
            rollbacks: Vec::new(),
        };
        let mut result = Ok(());
        for plugin in &self.server.layers().admission {
            if !plugin.handles(operation, stored.group, stored.plural, self.subresource) {
                continue;
            }
            result =
                if mutate { plugin.admit(&mut request).await } else { plugin.validate(&mut request).await };
            if result.is_err() {
                break;
            }
        }
        request.warnings.drain(..).for_each(|w| self.ctx.warn(w));
        if let Some(record) = &self.ctx.audit {
            request.annotations.drain(..).for_each(|(name, value)| record.annotate(name, value));
        }
        rollbacks.0.append(&mut request.rollbacks);
        if mutate && result.is_ok() {
            // What a plugin has filled in may bring defaults with it, as limits bring a policy for their change: they
            // must be there from the start, or the next update would add them and be refused for it.
            isopod_api::defaults::apply(stored.group, stored.version, stored.kind, object);
        }
        result
    }

    /// Fills in what the system decides about a new object's metadata, and drops what clients may not set.
    pub fn fill_metadata(&self, object: &mut Value) -> Result<(), Status> {
        let stored = &self.resource.stored;
        let meta = child_mut(object, "metadata");
        if meta.get("resourceVersion").and_then(Value::as_str).is_some_and(|v| !v.is_empty() && v != "0") {
            return Err(Status::failure(
                500,
                "",
                "resourceVersion should not be set on objects to be created",
            ));
        }
        for key in
            ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"]
        {
            meta.remove(key);
        }
        if stored.namespaced {
            match meta.get("namespace").and_then(Value::as_str).filter(|n| !n.is_empty()) {
                Some(namespace) if namespace != self.namespace => {
                    return Err(Status::bad_request(
                        "the namespace of the provided object does not match the namespace sent on the request",
                    ));
                }
                _ => meta.insert("namespace".to_owned(), self.namespace.into()),
            };
        }
        meta.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
        meta.insert("creationTimestamp".to_owned(), timestamp(self.ctx.now));
        if stored.strategy.generation {
            meta.insert("generation".to_owned(), 1.into());
        }
        Ok(())
    }

    /// Prepares and validates a new object.
    pub fn prepare_create(&self, object: &mut Value) -> Result<(), Status> {
        let stored = &self.resource.stored;
        let rules = self.ctx.rules(self.subresource);
        let strategy = stored.strategy;
        if stored.has_status && !strategy.keep_status_on_create {
            put_or_remove(object, "status", stored.empty.get("status").cloned());
        }
        (strategy.prepare_for_create)(object, &rules);
        let mut errors = meta::validate(object, stored.namespaced, strategy.name);
        errors.extend((strategy.validate)(object, &rules));
        if !errors.is_empty() {
            return Err(Status::invalid(stored.group, stored.kind, name_of(object), &errors));
        }
        (strategy.warnings)(object, None).into_iter().for_each(|w| self.ctx.warn(w));
        Ok(())
    }

    /// Prepares and validates a changed object. `replace_status` says which half of the object the request
    /// may change.
    pub fn prepare_update(&self, new: &mut Value, old: &Value, part: Part) -> Result<(), Status> {
        let stored = &self.resource.stored;
        let strategy = stored.strategy;
        let rules = self.ctx.rules(self.subresource);
        self.carry_metadata(new, old)?;
        match part {
            Part::Object => {
                if stored.has_status {
                    carry(new, old, "status");
                }
                (strategy.prepare_for_update)(new, old, &rules);
            }
            Part::Status => {
                let status = new.get("status").cloned();
                let metadata = new.get("metadata").cloned();
                *new = old.clone();
                put_or_remove(new, "status", status);
                put_or_remove(new, "metadata", metadata);
                (strategy.prepare_for_status_update)(new, old, &rules);
            }
            Part::Subresource => {}
        }
        bump_generation(new, old, strategy.generation);
        let mut errors = meta::validate(new, stored.namespaced, strategy.name);
        let changes = meta::validate_update(new, old);
        errors.extend(changes.into_iter().filter(|e| !errors.contains(e)).collect::<Vec<_>>());
        errors.extend(match part {
            Part::Object => (strategy.validate_update)(new, old, &rules),
            Part::Status => (strategy.validate_status_update)(new, old, &rules),
            Part::Subresource => (strategy.validate_subresource)(new, old, &rules),
        });
        if !errors.is_empty() {
            return Err(Status::invalid(stored.group, stored.kind, name_of(new), &errors));
        }
        if part == Part::Object {
            (strategy.warnings)(new, Some(old)).into_iter().for_each(|w| self.ctx.warn(w));
        }
        Ok(())
    }

    /// Keeps the metadata that no update may change, where the client left it out.
    fn carry_metadata(&self, new: &mut Value, old: &Value) -> Result<(), Status> {
        let stored = &self.resource.stored;
        let old_meta = old.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
        let meta = child_mut(new, "metadata");
        meta.remove("selfLink");
        let uid = |m: &isopod_api::Map| m.get("uid").and_then(Value::as_str).unwrap_or_default().to_owned();
        let (asked, actual) = (uid(meta), uid(&old_meta));
        if !asked.is_empty() && asked != actual {
            let why =
                format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {actual}");
            return Err(Status::conflict(stored.group, stored.plural, self.name, &why));
        }
        for key in
            ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "namespace"]
        {
            if meta.get(key).is_none_or(Value::is_null)
                && let Some(value) = old_meta.get(key)
            {
                meta.insert(key.to_owned(), value.clone());
            }
        }
        match old_meta.get("generation") {
            Some(generation) => meta.insert("generation".to_owned(), generation.clone()),
            None => meta.remove("generation"),
        };
        Ok(())
    }
}

/// Which part of an object a request changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but status.
    Object,
    /// Status alone.
    Status,
    /// Whatever the subresource's handler has changed in a copy of the object.
    Subresource,
}

/// `metadata.name` of an object.
pub fn name_of(object: &Value) -> &str {
    object.get("metadata").and_then(|m| m.get("name")).and_then(Value::as_str).unwrap_or_default()
}

/// Copies a top-level field from the old object.
pub fn carry(new: &mut Value, old: &Value, key: &str) {
    put_or_remove(new, key, old.get(key).cloned());
}

fn put_or_remove(object: &mut Value, key: &str, value: Option<Value>) {
    let Some(map) = object.as_object_mut() else { return };
    match value {
        Some(value) => map.insert(key.to_owned(), value),
        None => map.remove(key),
    };
}

/// Counts a change of anything but metadata and status.
fn bump_generation(new: &mut Value, old: &Value, counts: bool) {
    let relevant = |v: &Value| {
        let mut map = v.as_object().cloned().unwrap_or_default();
        for key in ["metadata", "status", "apiVersion", "kind"] {
            map.remove(key);
        }
        map
    };
    if counts && relevant(new) != relevant(old) {
        let generation =
            old.get("metadata").and_then(|m| m.get("generation")).and_then(Value::as_i64).unwrap_or(0);
        child_mut(new, "metadata").insert("generation".to_owned(), (generation + 1).into());
    }
}
