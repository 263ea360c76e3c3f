//! A value together with the place it stands at, so that checks read like the rules they enforce.
//!
//! Places are kept as a list of steps and become text only when there is something to report.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use isopod_api::Value;
use isopod_api::field::{Error, ErrorList, Path};
use isopod_api::quantity::Quantity;

use super::shared::at;

pub(super) const IMMUTABLE: &str = "field is immutable";
pub(super) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

#[derive(Clone, Copy)]
enum Part<'v> {
    Field(&'v str),
    Index(usize),
    Key(&'v str),
}

struct Step<'v> {
    above: Option<Rc<Step<'v>>>,
    part: Part<'v>,
}

impl Step<'_> {
    fn path(&self) -> Path {
        let above = self.above.as_ref().map_or_else(Path::root, |step| step.path());
        match self.part {
            Part::Field(name) => above.child(name),
            Part::Index(index) => above.index(index),
            Part::Key(key) => above.key(key),
        }
    }
}

/// A value that may be absent, where it stands, and the list that its faults go to.
#[derive(Clone)]
pub(super) struct At<'v> {
    value: Option<&'v Value>,
    step: Option<Rc<Step<'v>>>,
    errors: &'v RefCell<ErrorList>,
}

/// Runs checks over an object and gives the faults they found.
pub(super) fn check(object: &Value, rules: impl for<'a> FnOnce(At<'a>)) -> ErrorList {
    let errors = RefCell::default();
    rules(At { value: Some(object), step: None, errors: &errors });
    errors.into_inner()
}

/// Runs checks over a changed object and the one it replaces.
pub(super) fn check_update(
    new: &Value,
    old: &Value,
    rules: impl for<'a> FnOnce(At<'a>, At<'a>),
) -> ErrorList {
    let errors = RefCell::default();
    let root = |value| At { value: Some(value), step: None, errors: &errors };
    rules(root(new), root(old));
    errors.into_inner()
}

impl<'v> At<'v> {
    fn below(&self, value: Option<&'v Value>, part: Part<'v>) -> At<'v> {
        let step = Some(Rc::new(Step { above: self.step.clone(), part }));
        At { value: value.filter(|v| !v.is_null()), step, errors: self.errors }
    }
    /// The field at a dotted path below this value.
    pub(super) fn field(&self, path: &'v str) -> At<'v> {
        self.below(self.value.and_then(|v| at(v, path)), Part::Field(path))
    }
    /// An entry of a map; dots in the key mean nothing.
    pub(super) fn entry(&self, key: &'v str) -> At<'v> {
        self.below(self.value.and_then(|v| v.get(key)), Part::Key(key))
    }
    /// The items of a list.
    pub(super) fn items(&self) -> impl Iterator<Item = At<'v>> + use<'v> {
        let here = self.clone();
        self.list().iter().enumerate().map(move |(i, item)| here.below(Some(item), Part::Index(i)))
    }
    /// The entries of a map.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'v str, At<'v>)> + use<'v> {
        let here = self.clone();
        let map = self.value.and_then(Value::as_object).into_iter().flatten();
        map.map(move |(key, value)| (key.as_str(), here.below(Some(value), Part::Key(key))))
    }
    /// Whether there is a value.
    pub(super) fn is_set(&self) -> bool {
        self.value.is_some()
    }
    /// The value, null when absent.
    pub(super) fn value(&self) -> &'v Value {
        self.value.unwrap_or(&Value::Null)
    }
    /// The text, empty when absent.
    pub(super) fn str(&self) -> &'v str {
        self.value.and_then(Value::as_str).unwrap_or_default()
    }
    /// The number, if there is one.
    pub(super) fn int(&self) -> Option<i64> {
        self.value.and_then(Value::as_i64)
    }
    /// The truth, false when absent.
    pub(super) fn is_true(&self) -> bool {
        self.value == Some(&Value::Bool(true))
    }
    /// The quantity, if there is one.
    pub(super) fn quantity(&self) -> Option<Quantity> {
        self.value.and_then(|v| v.as_str()?.parse().ok())
    }
    /// The list, empty when absent.
    pub(super) fn list(&self) -> &'v [Value] {
        self.value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }
    /// The texts of a list.
    pub(super) fn texts(&self) -> impl Iterator<Item = &'v str> + use<'v> {
        self.list().iter().filter_map(Value::as_str)
    }
    /// How many items or entries there are.
    pub(super) fn len(&self) -> usize {
        match self.value {
            Some(Value::Array(list)) => list.len(),
            Some(Value::Object(map)) => map.len(),
            _ => 0,
        }
    }
    /// Whether there is neither text, item nor entry.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0 && self.str().is_empty()
    }
    /// Where the value stands.
    pub(super) fn path(&self) -> Path {
        self.step.as_ref().map_or_else(Path::root, |step| step.path())
    }

    // Faults.

    /// Reports any fault.
    pub(super) fn report(&self, error: Error) {
        self.errors.borrow_mut().push(error);
    }
    /// Reports faults found by other means.
    pub(super) fn report_all(&self, errors: ErrorList) {
        self.errors.borrow_mut().extend(errors);
    }
    /// Reports that the value is missing.
    pub(super) fn required(&self, detail: &str) {
        self.report(Error::required(&self.path(), detail));
    }
    /// Reports that the value is wrong.
    pub(super) fn invalid(&self, detail: impl Into<String>) {
        self.invalid_as(self.value().clone(), detail);
    }
    /// Reports that the value is wrong, showing another one for it.
    pub(super) fn invalid_as(&self, shown: impl Into<Value>, detail: impl Into<String>) {
        self.report(Error::invalid(&self.path(), shown, detail));
    }
    /// Reports that the value may not be there.
    pub(super) fn forbidden(&self, detail: impl Into<String>) {
        self.report(Error::forbidden(&self.path(), detail));
    }
    /// Reports that the value stands twice.
    pub(super) fn duplicate(&self) {
        self.report(Error::duplicate(&self.path(), self.value().clone()));
    }
    /// Reports that what the value names does not exist.
    pub(super) fn not_found(&self) {
        self.report(Error::not_found(&self.path(), self.value().clone()));
    }

    // Checks.

    /// A text that must be there.
    pub(super) fn needs_text(&self) -> bool {
        if self.str().is_empty() {
            self.required("");
        }
        !self.str().is_empty()
    }
    /// A text that, if it is there, follows a rule.
    pub(super) fn follows(&self, rule: fn(&str) -> Vec<String>) {
        if !self.str().is_empty() {
            self.must_follow(rule);
        }
    }
    /// A text that follows a rule, be it empty.
    pub(super) fn must_follow(&self, rule: fn(&str) -> Vec<String>) {
        rule(self.str()).into_iter().for_each(|message| self.invalid(message));
    }
    /// A text that must be there and follow a rule.
    pub(super) fn needs(&self, rule: fn(&str) -> Vec<String>) {
        if self.needs_text() {
            self.must_follow(rule);
        }
    }
    /// A text that is one of a few, if it is there.
    pub(super) fn one_of(&self, supported: &[&str]) {
        if self.is_set() && !supported.contains(&self.str()) {
            self.report(Error::not_supported(&self.path(), self.value().clone(), supported));
        }
    }
    /// A text that must be there and is one of a few.
    pub(super) fn needs_one_of(&self, supported: &[&str]) {
        if self.needs_text() {
            self.one_of(supported);
        }
    }
    /// A number that is not negative, if it is there.
    pub(super) fn not_negative(&self) {
        if self.int().is_some_and(|n| n < 0) {
            self.invalid(NOT_NEGATIVE);
        }
    }
    /// A number within bounds, if it is there.
    pub(super) fn within(&self, low: i64, high: i64) {
        if self.int().is_some_and(|n| !(low..=high).contains(&n)) {
            self.invalid(isopod_api::names::range_error(low, high));
        }
    }
    /// A value that may not differ from the old one.
    pub(super) fn unchanged(&self, old: &At<'_>) {
        if self.value != old.value {
            self.invalid(IMMUTABLE);
        }
    }
    /// A value that stands once among those already seen.
    pub(super) fn unique(&self, seen: &mut BTreeSet<String>) {
        let text =
            self.value.map_or_else(String::new, |v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
        if !seen.insert(text) {
            self.duplicate();
        }
    }
}

/// Lets tests state faults as the texts that clients see.
#[cfg(test)]
pub(super) fn texts(errors: &ErrorList) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn places_and_faults() {
        let object =
            json!({"spec": {"ports": [{"port": 0, "name": "A"}], "map": {"a.b/c": 1}, "none": null}});
        let errors = check(&object, |object| {
            let spec = object.field("spec");
            for port in spec.field("ports").items() {
                port.field("port").within(1, 2);
                port.field("name").one_of(&["B"]);
            }
            spec.field("map").entries().for_each(|(_, entry)| entry.forbidden("no"));
            spec.field("none").needs_text();
            spec.field("x.y").required("why");
        });
        assert_eq!(
            texts(&errors),
            [
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 2, inclusive",
                "spec.ports[0].name: Unsupported value: \"A\": supported values: \"B\"",
                "spec.map[a.b/c]: Forbidden: no",
                "spec.none: Required value",
                "spec.x.y: Required value: why",
            ]
        );
    }
}
