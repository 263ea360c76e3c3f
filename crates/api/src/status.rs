//! `Status`: what every API failure becomes. Codes, reasons and texts are those of upstream's
//! `apimachinery/pkg/api/errors`, since clients decide by them.

use crate::field;
use crate::{Map, Value};
use std::fmt;

/// One cause inside `details.causes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable reason; may be empty.
    pub reason: String,
    /// Text for people.
    pub message: String,
    /// Path of the field concerned; may be empty.
    pub field: String,
}

/// A failure (or, for deletes, a success) as told to a client: `v1.Status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason such as `NotFound`.
    pub reason: &'static str,
    /// Text for people.
    pub message: String,
    /// Name of the object concerned.
    pub name: String,
    /// API group concerned.
    pub group: String,
    /// Resource (or kind, for `Invalid`) concerned.
    pub kind: String,
    /// Uid of the object concerned.
    pub uid: String,
    /// Single faults.
    pub causes: Vec<Cause>,
    /// Seconds after which a retry makes sense; zero when nothing is said.
    pub retry_after_seconds: u32,
}

impl std::error::Error for Status {}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// `pods` in the core group, `deployments.apps` elsewhere.
pub fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl Status {
    /// A failure without details.
    pub fn failure(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Status { code, reason, message: message.into(), ..Status::default() }
    }
    fn about(
        code: u16,
        reason: &'static str,
        group: &str,
        resource: &str,
        name: &str,
        message: String,
    ) -> Self {
        Status {
            code,
            reason,
            message,
            name: name.to_owned(),
            group: group.to_owned(),
            kind: resource.to_owned(),
            ..Status::default()
        }
    }
    /// The answer to a request without usable credentials.
    pub fn unauthorized() -> Self {
        Self::failure(401, "Unauthorized", "Unauthorized")
    }
    /// A request that cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }
    /// The named object does not exist.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified(group, resource));
        Self::about(404, "NotFound", group, resource, name, message)
    }
    /// No such resource or path is served.
    pub fn no_such_resource() -> Self {
        Self::failure(404, "NotFound", "the server could not find the requested resource")
    }
    /// An object of that name exists.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", qualified(group, resource));
        Self::about(409, "AlreadyExists", group, resource, name, message)
    }
    /// Every generated name tried was taken.
    pub fn generate_name_conflict(group: &str, resource: &str, name: &str) -> Self {
        let message = format!(
            "{} {name:?} already exists, the server was not able to generate a unique name for the object",
            qualified(group, resource)
        );
        Self::about(409, "AlreadyExists", group, resource, name, message).retry_after(1)
    }
    /// The change collides with another one.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(group, resource));
        Self::about(409, "Conflict", group, resource, name, message)
    }
    /// The resourceVersion given is not the current one.
    pub fn stale(group: &str, resource: &str, name: &str) -> Self {
        Self::conflict(
            group,
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }
    /// An apply that collides with fields of other managers.
    pub fn apply_conflict(message: impl Into<String>, causes: Vec<Cause>) -> Self {
        Status { causes, ..Self::failure(409, "Conflict", message) }
    }
    /// Not allowed.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = if resource.is_empty() && group.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{} is forbidden: {why}", qualified(group, resource))
        } else {
            format!("{} {name:?} is forbidden: {why}", qualified(group, resource))
        };
        Self::about(403, "Forbidden", group, resource, name, message)
    }
    /// The object breaks rules of its kind. `kind` is the kind (`Pod`), not the resource.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[field::Error]) -> Self {
        let qualified = qualified(group, kind);
        let message = if errors.is_empty() {
            format!("{qualified} {name:?} is invalid")
        } else {
            format!("{qualified} {name:?} is invalid: {}", field::aggregate(errors))
        };
        let causes = errors
            .iter()
            .map(|e| Cause {
                reason: e.kind.reason().to_owned(),
                message: e.body(),
                field: e.path.to_string(),
            })
            .collect();
        Status { causes, ..Self::about(422, "Invalid", group, kind, name, message) }
    }
    /// The verb is not served for the resource.
    pub fn method_not_supported(group: &str, resource: &str, action: &str) -> Self {
        let message =
            format!("{action} is not supported on resources of kind {:?}", qualified(group, resource));
        Self::about(405, "MethodNotAllowed", group, resource, "", message)
    }
    /// The HTTP method is not served for the path.
    pub fn method_not_allowed() -> Self {
        Self::failure(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }
    /// None of the media types that the client accepts can be produced.
    pub fn not_acceptable(supported: &str) -> Self {
        Self::failure(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {supported}"),
        )
    }
    /// The body's media type is not understood.
    pub fn unsupported_media_type(supported: &str) -> Self {
        Self::failure(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {supported}"
            ),
        )
    }
    /// The history asked for is gone.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message)
    }
    /// A watch from, or list at, a revision that has been compacted.
    pub fn too_old_resource_version(requested: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {requested} ({oldest})"))
    }
    /// The body is over the limit.
    pub fn too_large(message: &str) -> Self {
        Self::failure(413, "RequestEntityTooLarge", format!("Request entity too large: {message}"))
    }
    /// Try again later.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::failure(429, "TooManyRequests", message).retry_after(retry_after_seconds)
    }
    /// A fault of ours.
    pub fn internal(error: impl fmt::Display) -> Self {
        let text = error.to_string();
        let mut status = Self::failure(500, "InternalError", format!("Internal error occurred: {text}"));
        status.causes = vec![Cause { message: text, ..Cause::default() }];
        status
    }
    /// The operation could not be done in time but may be tried again.
    pub fn server_timeout(group: &str, resource: &str, operation: &str, retry_after_seconds: u32) -> Self {
        let message = format!(
            "The {operation} operation against {} could not be completed at this time, please try again.",
            qualified(group, resource)
        );
        Self::about(500, "ServerTimeout", group, resource, operation, message)
            .retry_after(retry_after_seconds)
    }
    /// The operation took too long; it may still complete.
    pub fn timeout(message: impl fmt::Display) -> Self {
        Self::failure(504, "Timeout", format!("Timeout: {message}"))
    }
    /// A backend is away.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, "ServiceUnavailable", message)
    }
    /// Sets the seconds after which a retry makes sense.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = seconds;
        self
    }
    /// Adds a cause.
    #[must_use]
    pub fn cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        self.causes.push(Cause {
            reason: reason.to_owned(),
            message: message.to_owned(),
            field: field.to_owned(),
        });
        self
    }
    /// Whether the code tells of success.
    pub fn is_success(&self) -> bool {
        self.code < 400
    }

    /// The `v1.Status` object.
    pub fn to_value(&self) -> Value {
        let mut out = Map::new();
        out.insert("kind".into(), "Status".into());
        out.insert("apiVersion".into(), "v1".into());
        out.insert("metadata".into(), Value::Object(Map::new()));
        out.insert("status".into(), if self.is_success() { "Success" } else { "Failure" }.into());
        let mut put = |key: &str, value: &str| {
            if !value.is_empty() {
                out.insert(key.to_owned(), value.into());
            }
        };
        put("message", &self.message);
        put("reason", self.reason);
        if let Some(details) = self.details() {
            out.insert("details".into(), details);
        }
        if !self.is_success() {
            out.insert("code".into(), self.code.into());
        }
        Value::Object(out)
    }

    fn details(&self) -> Option<Value> {
        let mut details = Map::new();
        let texts = [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)];
        for (key, value) in texts {
            if !value.is_empty() {
                details.insert(key.into(), value.as_str().into());
            }
        }
        if !self.causes.is_empty() {
            details.insert("causes".into(), self.causes.iter().map(Cause::to_value).collect());
        }
        if self.retry_after_seconds > 0 {
            details.insert("retryAfterSeconds".into(), self.retry_after_seconds.into());
        }
        (!details.is_empty()).then_some(Value::Object(details))
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut out = Map::new();
        for (key, value) in [("reason", &self.reason), ("message", &self.message), ("field", &self.field)] {
            if !value.is_empty() {
                out.insert(key.into(), value.as_str().into());
            }
        }
        Value::Object(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shapes() {
        assert_eq!(
            Status::not_found("apps", "deployments", "x").to_value(),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "deployments.apps \"x\" not found", "reason": "NotFound", "code": 404,
                "details": {"name": "x", "group": "apps", "kind": "deployments"}})
        );
        let errors = [
            field::Error::required(&field::Path::new("spec").child("a"), ""),
            field::Error::invalid(&field::Path::new("spec"), "v", "no"),
        ];
        let status = Status::invalid("", "Pod", "p", &errors);
        assert_eq!(
            status.message,
            "Pod \"p\" is invalid: [spec.a: Required value, spec: Invalid value: \"v\": no]"
        );
        assert_eq!(status.causes[1].message, "Invalid value: \"v\": no");
    }
}
