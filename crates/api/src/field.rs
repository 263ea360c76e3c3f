//! Paths into objects and the errors that validation reports for them, worded as upstream's
//! `apimachinery/pkg/util/validation/field`, since clients show and tests match these texts.

use crate::Value;
use std::fmt;

/// A path such as `spec.containers[0].name`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// A path of one field.
    pub fn new(root: &str) -> Self {
        Path(root.to_owned())
    }
    /// The empty path.
    pub fn root() -> Self {
        Path(String::new())
    }
    /// The field `name` below this path; dots in `name` separate fields.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Path(name.to_owned()) } else { Path(format!("{}.{name}", self.0)) }
    }
    /// The list element `index` below this path.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Path(format!("{}[{index}]", self.0))
    }
    /// The map entry `key` below this path.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Path(format!("{}[{key}]", self.0))
    }
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants are upstream's error types by name")]
pub enum ErrorKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TooFew,
    Internal,
    TypeInvalid,
    TooShort,
}

impl ErrorKind {
    /// The machine-readable reason, as found in `Status.details.causes[].reason`.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "FieldValueNotFound",
            ErrorKind::Required => "FieldValueRequired",
            ErrorKind::Duplicate => "FieldValueDuplicate",
            ErrorKind::Invalid => "FieldValueInvalid",
            ErrorKind::NotSupported => "FieldValueNotSupported",
            ErrorKind::Forbidden => "FieldValueForbidden",
            ErrorKind::TooLong => "FieldValueTooLong",
            ErrorKind::TooMany => "FieldValueTooMany",
            ErrorKind::TooFew => "FieldValueTooFew",
            ErrorKind::Internal => "InternalError",
            ErrorKind::TypeInvalid => "FieldValueTypeInvalid",
            ErrorKind::TooShort => "FieldValueTooShort",
        }
    }
    fn title(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "Not found",
            ErrorKind::Required => "Required value",
            ErrorKind::Duplicate => "Duplicate value",
            ErrorKind::Invalid | ErrorKind::TypeInvalid => "Invalid value",
            ErrorKind::NotSupported => "Unsupported value",
            ErrorKind::Forbidden => "Forbidden",
            ErrorKind::TooLong => "Too long",
            ErrorKind::TooMany => "Too many",
            ErrorKind::TooFew => "Too few",
            ErrorKind::Internal => "Internal error",
            ErrorKind::TooShort => "Too short",
        }
    }
    fn shows_value(self) -> bool {
        !matches!(
            self,
            ErrorKind::Required
                | ErrorKind::Forbidden
                | ErrorKind::TooLong
                | ErrorKind::TooShort
                | ErrorKind::Internal
        )
    }
}

/// One fault of one field.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    /// What sort of fault.
    pub kind: ErrorKind,
    /// Where.
    pub path: Path,
    /// The offending value; `None` when it is not to be shown.
    pub value: Option<Value>,
    /// More words; may be empty.
    pub detail: String,
}

/// All faults of one object.
pub type ErrorList = Vec<Error>;

impl Error {
    fn make(kind: ErrorKind, path: &Path, value: Option<Value>, detail: impl Into<String>) -> Self {
        Error { kind, path: path.clone(), value, detail: detail.into() }
    }
    /// A value that is not there.
    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        Self::make(ErrorKind::Required, path, None, detail)
    }
    /// A malformed or out-of-range value.
    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::make(ErrorKind::Invalid, path, Some(value.into()), detail)
    }
    /// A value of the wrong type.
    pub fn type_invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::make(ErrorKind::TypeInvalid, path, Some(value.into()), detail)
    }
    /// A value that stands twice where it may stand once.
    pub fn duplicate(path: &Path, value: impl Into<Value>) -> Self {
        Self::make(ErrorKind::Duplicate, path, Some(value.into()), "")
    }
    /// A reference to something absent.
    pub fn not_found(path: &Path, value: impl Into<Value>) -> Self {
        Self::make(ErrorKind::NotFound, path, Some(value.into()), "")
    }
    /// A value outside an enumeration.
    pub fn not_supported(path: &Path, value: impl Into<Value>, supported: &[&str]) -> Self {
        let mut detail = String::new();
        if !supported.is_empty() {
            let quoted: Vec<String> = supported.iter().map(|v| format!("{v:?}")).collect();
            detail = format!("supported values: {}", quoted.join(", "));
        }
        Self::make(ErrorKind::NotSupported, path, Some(value.into()), detail)
    }
    /// A value that is well formed but not allowed here.
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self::make(ErrorKind::Forbidden, path, None, detail)
    }
    /// A value of more than `max` bytes; the value itself is not shown.
    pub fn too_long(path: &Path, max: usize) -> Self {
        let unit = if max == 1 { "byte" } else { "bytes" };
        Self::make(ErrorKind::TooLong, path, None, format!("may not be more than {max} {unit}"))
    }
    /// A list of `actual` items where at most `max` may be.
    pub fn too_many(path: &Path, actual: usize, max: usize) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        Self::make(
            ErrorKind::TooMany,
            path,
            Some(Value::from(actual)),
            format!("must have at most {max} {unit}"),
        )
    }
    /// A fault of ours.
    pub fn internal(path: &Path, detail: impl Into<String>) -> Self {
        Self::make(ErrorKind::Internal, path, None, detail)
    }
    /// The message without the path.
    pub fn body(&self) -> String {
        let mut out = self.kind.title().to_owned();
        if self.kind.shows_value()
            && let Some(value) = &self.value
        {
            out.push_str(": ");
            out.push_str(&value.to_string());
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

/// All faults as one text, as upstream's aggregate: one fault bare, several in brackets, repeats left out.
pub fn aggregate(errors: &[Error]) -> String {
    let mut texts: Vec<String> = Vec::with_capacity(errors.len());
    for error in errors {
        let text = error.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    if texts.len() == 1 { texts.remove(0) } else { format!("[{}]", texts.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let spec = Path::new("spec");
        let check = |e: Error, want: &str| assert_eq!(e.to_string(), want);
        check(Error::required(&spec.child("name"), ""), "spec.name: Required value");
        check(
            Error::invalid(&spec.child("ports").index(0), "x", "bad"),
            "spec.ports[0]: Invalid value: \"x\": bad",
        );
        check(Error::invalid(&spec, 3, "bad"), "spec: Invalid value: 3: bad");
        check(
            Error::not_supported(&spec, "x", &["A", "B"]),
            "spec: Unsupported value: \"x\": supported values: \"A\", \"B\"",
        );
        check(Error::too_long(&spec.key("a/b"), 10), "spec[a/b]: Too long: may not be more than 10 bytes");
        check(Error::too_many(&spec, 4, 3), "spec: Too many: 4: must have at most 3 items");
    }
}
