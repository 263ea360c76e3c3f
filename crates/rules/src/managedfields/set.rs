//! Sets of field paths in the form of `FieldsV1`.

use std::collections::BTreeMap;

use isopod_api::{Map, Value};

/// A set of paths. An element is `f:NAME`, `k:{KEYS}`, `v:VALUE` or `i:INDEX`, as in `FieldsV1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet(BTreeMap<String, Entry>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// Whether the path to here is in the set itself.
    member: bool,
    below: FieldSet,
}

impl FieldSet {
    /// Reads `fieldsV1`; `None` if it is malformed.
    pub fn from_fields_v1(value: &Value) -> Option<FieldSet> {
        let mut set = FieldSet::default();
        for (element, below) in value.as_object()? {
            if element == "." {
                continue;
            }
            if !["f:", "k:", "v:", "i:"].iter().any(|p| element.starts_with(p)) {
                return None;
            }
            let map = below.as_object()?;
            let entry = Entry {
                member: map.is_empty() || map.contains_key("."),
                below: FieldSet::from_fields_v1(below)?,
            };
            set.0.insert(element.clone(), entry);
        }
        Some(set)
    }

    /// The set as `fieldsV1`.
    pub fn to_fields_v1(&self) -> Value {
        let mut out = Map::new();
        for (element, entry) in &self.0 {
            let mut below = entry.below.to_fields_v1();
            if entry.member
                && let Some(map) = below.as_object_mut().filter(|m| !m.is_empty())
            {
                map.insert(".".to_owned(), Value::Object(Map::new()));
            }
            out.insert(element.clone(), below);
        }
        Value::Object(out)
    }

    /// Whether no path is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the path of one element.
    pub(super) fn add(&mut self, element: String) {
        self.0.entry(element).or_default().member = true;
    }

    /// Puts a set below an element, if it is not empty.
    pub(super) fn put(&mut self, element: String, below: FieldSet) {
        if !below.is_empty() {
            self.0.entry(element).or_default().below = below;
        }
    }

    /// Whether an element's own path is in the set.
    pub(super) fn has(&self, element: &str) -> bool {
        self.0.get(element).is_some_and(|e| e.member)
    }

    /// What is below an element.
    pub(super) fn below(&self, element: &str) -> Option<&FieldSet> {
        self.0.get(element).map(|e| &e.below)
    }

    /// Removes an element and everything below it.
    pub fn remove(&mut self, element: &str) {
        self.0.remove(element);
    }

    /// Keeps only these elements at the top.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|element, _| keep(element));
    }

    /// Removes elements below a top-level one, and it too if nothing is left.
    pub fn remove_below(&mut self, element: &str, names: &[&str]) {
        if let Some(entry) = self.0.get_mut(element) {
            names.iter().for_each(|n| entry.below.remove(n));
            entry.member = false;
            if entry.below.is_empty() {
                self.0.remove(element);
            }
        }
    }

    /// Paths in either set.
    #[must_use]
    pub fn union(&self, other: &FieldSet) -> FieldSet {
        let mut out = self.clone();
        for (element, theirs) in &other.0 {
            let ours = out.0.entry(element.clone()).or_default();
            ours.member |= theirs.member;
            ours.below = ours.below.union(&theirs.below);
        }
        out
    }

    /// Paths in this set and not in the other.
    #[must_use]
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |ours, theirs| ours && !theirs, true)
    }

    /// Paths in both sets.
    #[must_use]
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |ours, theirs| ours && theirs, false)
    }

    fn combine(&self, other: &FieldSet, member: fn(bool, bool) -> bool, keep_unmatched: bool) -> FieldSet {
        let mut out = FieldSet::default();
        for (element, ours) in &self.0 {
            let combined = match other.0.get(element) {
                Some(theirs) => Entry {
                    member: member(ours.member, theirs.member),
                    below: ours.below.combine(&theirs.below, member, keep_unmatched),
                },
                None if keep_unmatched => ours.clone(),
                None => continue,
            };
            if combined.member || !combined.below.is_empty() {
                out.0.insert(element.clone(), combined);
            }
        }
        out
    }

    /// Every path in the set as people read it: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect("", &mut out);
        out
    }

    fn collect(&self, prefix: &str, out: &mut Vec<String>) {
        for (element, entry) in &self.0 {
            let path = format!("{prefix}{}", shown(element));
            if entry.member {
                out.push(path.clone());
            }
            entry.below.collect(&path, out);
        }
    }
}

fn shown(element: &str) -> String {
    let (kind, rest) = element.split_at(2.min(element.len()));
    match kind {
        "f:" => format!(".{rest}"),
        "k:" => {
            let keys: Map = serde_json::from_str(rest).unwrap_or_default();
            let pairs: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", pairs.join(","))
        }
        "v:" => format!("[={rest}]"),
        _ => format!("[{rest}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(value: Value) -> FieldSet {
        FieldSet::from_fields_v1(&value).unwrap()
    }

    #[test]
    fn algebra() {
        let a = set(json!({"f:spec": {"f:a": {}, "f:l": {"k:{\"name\":\"x\"}": {".": {}, "f:y": {}}}}}));
        let b = set(json!({"f:spec": {"f:a": {}, "f:b": {}, "f:l": {"k:{\"name\":\"x\"}": {"f:y": {}}}}}));
        assert_eq!(a.to_fields_v1(), set(a.to_fields_v1()).to_fields_v1());
        assert_eq!(
            a.intersection(&b).to_fields_v1(),
            json!({"f:spec": {"f:a": {}, "f:l": {"k:{\"name\":\"x\"}": {"f:y": {}}}}})
        );
        assert_eq!(a.difference(&b).to_fields_v1(), json!({"f:spec": {"f:l": {"k:{\"name\":\"x\"}": {}}}}));
        assert_eq!(
            a.union(&b).paths(),
            [".spec.a", ".spec.b", ".spec.l[name=\"x\"]", ".spec.l[name=\"x\"].y"]
        );
        assert!(FieldSet::from_fields_v1(&json!({"x": {}})).is_none());
    }
}
