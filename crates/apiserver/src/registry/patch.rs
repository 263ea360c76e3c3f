//! Patch: JSON, merge, strategic merge; server-side apply is in [`crate::apply`].

use isopod_api::codec::{self, FieldValidation};
use isopod_api::patch;
use isopod_api::status::Status;
use isopod_api::{Value, defaults};

use super::decode::check_depth;
use super::write::Write;
use crate::limits;

/// A patch as sent.
#[derive(Debug, Clone)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' strategic merge patch.
    Strategic(Value),
    /// Server-side apply.
    Apply(Vec<u8>),
}

/// Media types of patches, as the 415 answer lists them.
const SUPPORTED: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";

impl Patch {
    /// Parses a body by its media type.
    pub fn parse(content_type: &str, body: &[u8]) -> Result<Patch, Status> {
        let json = || {
            check_depth(body)?;
            serde_json::from_slice::<Value>(body)
                .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))
        };
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => {
                let patch = json()?;
                let operations = patch.as_array().map_or(0, Vec::len);
                if operations > limits::JSON_PATCH_OPERATIONS_MAX {
                    return Err(Status::too_large(&format!(
                        "The allowed maximum operations in a JSON patch is {}, got {operations}",
                        limits::JSON_PATCH_OPERATIONS_MAX
                    )));
                }
                Ok(Patch::Json(patch))
            }
            "application/merge-patch+json" => Ok(Patch::Merge(object(json()?)?)),
            "application/strategic-merge-patch+json" => Ok(Patch::Strategic(object(json()?)?)),
            "application/apply-patch+yaml" => Ok(Patch::Apply(body.to_vec())),
            _ => Err(Status::unsupported_media_type(SUPPORTED)),
        }
    }
}

fn object(value: Value) -> Result<Value, Status> {
    if value.is_object() {
        Ok(value)
    } else {
        Err(Status::bad_request(
            "json: cannot unmarshal a value that is not an object into Go value of type map[string]interface {}",
        ))
    }
}

impl Write<'_> {
    /// The object that a patch makes of the current one, both in the storage version.
    pub fn patched(
        &self,
        patch: &Patch,
        current: &Value,
        validation: FieldValidation,
    ) -> Result<Value, Status> {
        let facts = self.resource.facts;
        let shown = self.resource.to_version(current.clone());
        let mut object = match patch {
            Patch::Json(operations) => {
                let mut object = shown;
                patch::json_patch(&mut object, operations).map_err(|e| patch_error(&e))?;
                object
            }
            Patch::Merge(patch) => {
                let mut object = shown;
                patch::merge_patch(&mut object, patch);
                object
            }
            Patch::Strategic(patch) => {
                let mut object = shown;
                patch::strategic_merge_patch(&facts.schema, &mut object, patch)
                    .map_err(|e| patch_error(&e))?;
                object
            }
            Patch::Apply(_) => return Err(Status::internal("an apply patch is no ordinary patch")),
        };
        let wanted = (self.resource.api_version(), facts.kind.to_owned());
        let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let sent = (text("apiVersion"), text("kind"));
        if sent != wanted {
            return Err(Status::bad_request(format!(
                "the patched object is {}, Kind={}, and not {}, Kind={}",
                sent.0, sent.1, wanted.0, wanted.1
            )));
        }
        if let Some(map) = object.as_object_mut() {
            map.remove("apiVersion");
            map.remove("kind");
        }
        let decoded = codec::normalize(object, &facts.schema, validation)
            .map_err(|e| Status::bad_request(e.bad_request(facts.kind, facts.version)))?;
        decoded.warnings.into_iter().for_each(|w| self.ctx.warn(w));
        let mut object = decoded.value;
        if let Some(map) = object.as_object_mut() {
            map.insert("apiVersion".to_owned(), wanted.0.into());
            map.insert("kind".to_owned(), wanted.1.into());
        }
        defaults::apply(facts.group, facts.version, facts.kind, &mut object);
        self.resource.to_storage(object)
    }
}

/// The failure of a patch as clients see it.
fn patch_error(error: &patch::PatchError) -> Status {
    match error {
        patch::PatchError::Malformed(text) => Status::bad_request(text),
        other => Status::failure(422, "Invalid", other.to_string()),
    }
}
