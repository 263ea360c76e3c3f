//! Server-side apply, and the record of who manages which fields.

use isopod_api::codec::{self, MediaType};
use isopod_api::object::child_mut;
use isopod_api::schema::{Schema, Ty};
use isopod_api::status::Status;
use isopod_api::{Value, defaults};
use isopod_rules::managedfields::{Who, apply, conflict_status, record_update};

use crate::context::timestamp;
use crate::registry::decode::{check_depth, decode_kind};
use crate::registry::update::Updated;
use crate::registry::write::{Part, Write};

/// Serves an apply patch: creates the object if there is none.
pub(crate) async fn serve(write: &Write<'_>, part: Part, document: &[u8]) -> Result<Updated, Status> {
    let config = parse(write, document)?;
    let mut change = |current: &Value| applied(write, part, current, &config);
    let mut absent = || {
        let mut object = applied(write, part, &Value::Null, &config)?;
        child_mut(&mut object, "metadata").insert("name".to_owned(), write.name.into());
        Ok(object)
    };
    let may_create = part == Part::Object;
    write.update(part, &mut change, if may_create { Some(&mut absent) } else { None }).await
}

/// The configuration as written, after it has been checked against the schema.
fn parse(write: &Write<'_>, document: &[u8]) -> Result<Value, Status> {
    let facts = write.resource.facts;
    check_depth(document)?;
    let gvk = (facts.group, facts.version, facts.kind);
    let validation = write.options.field_validation;
    decode_kind(write.ctx, document, MediaType::Yaml, &facts.schema, gvk, validation)?;
    let types = isopod_api::facts::builtin().types().clone();
    let any = Schema::new(types, Ty::Any);
    let raw = codec::decode(document, MediaType::Yaml, &any, codec::FieldValidation::Ignore)
        .map_err(|e| Status::bad_request(format!("error decoding YAML: {e}")))?;
    let config = raw.value;
    let wanted = write.resource.api_version();
    if config["apiVersion"] != wanted.as_str() || config["kind"] != facts.kind {
        return Err(Status::bad_request(format!(
            "invalid object type: the configuration must say apiVersion: {wanted} and kind: {}",
            facts.kind
        )));
    }
    if !config["metadata"]["managedFields"].is_null() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    Ok(config)
}

/// The object (in the storage version) that the configuration makes of the current one.
fn applied(write: &Write<'_>, part: Part, current: &Value, config: &Value) -> Result<Value, Status> {
    let resource = write.resource;
    let facts = resource.facts;
    let live = if current.is_null() { Value::Null } else { resource.to_version(current.clone()) };
    let has_status = resource.stored.has_status;
    let owns = |key: &str| match part {
        Part::Status => matches!(key, "status" | "metadata" | "apiVersion" | "kind"),
        _ => key != "status" || !has_status,
    };
    let time = timestamp(write.ctx.now);
    let api_version = resource.api_version();
    let who = Who {
        manager: &write.manager.name,
        apply: true,
        api_version: &api_version,
        subresource: write.subresource,
        time: time.as_str().unwrap_or_default(),
    };
    let result = apply(&live, config, &facts.schema, &who, write.options.force, owns)
        .map_err(|conflicts| conflict_status(&conflicts))?;
    let mut object = result.object;
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".to_owned(), api_version.as_str().into());
        map.insert("kind".to_owned(), facts.kind.into());
    }
    defaults::apply(facts.group, facts.version, facts.kind, &mut object);
    resource.to_storage(object)
}

impl Write<'_> {
    /// Records in `metadata.managedFields` what the write changed; an apply has done so itself.
    pub(crate) fn record_fields(&self, new: &mut Value, old: Option<&Value>) {
        if self.manager.apply {
            return;
        }
        let time = timestamp(self.ctx.now);
        let stored = &self.resource.stored;
        let api_version = stored.api_version();
        let who = Who {
            manager: &self.manager.name,
            apply: false,
            api_version: &api_version,
            subresource: self.subresource,
            time: time.as_str().unwrap_or_default(),
        };
        record_update(new, old.unwrap_or(&stored.empty), &stored.schema, &who);
    }
}
