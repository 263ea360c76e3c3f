//! The list of managers of an object, and the record of an update.

use isopod_api::Value;
use isopod_api::schema::Schema;
use serde_json::json;

use super::set::FieldSet;
use super::walk::compare;

/// Most managers by update that are kept apart; the oldest are joined into one.
const UPDATE_MANAGERS_MAX: usize = 10;
/// Name of the manager that old ones are joined into.
const ANCIENT: &str = "ancient-changes";

/// Under what a change is recorded.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// Name of the manager.
    pub manager: &'a str,
    /// Whether the manager applies (and not updates).
    pub apply: bool,
    /// Version the change was made in.
    pub api_version: &'a str,
    /// Subresource the change went through, or empty.
    pub subresource: &'a str,
    /// Time of the change, RFC 3339.
    pub time: &'a str,
}

/// One manager and its fields.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Managed {
    pub(super) manager: String,
    pub(super) apply: bool,
    pub(super) api_version: String,
    pub(super) subresource: String,
    pub(super) time: String,
    pub(super) fields: FieldSet,
}

impl Managed {
    pub(super) fn is(&self, who: &Who<'_>) -> bool {
        // An applier is one manager in whatever version it applies.
        self.manager == who.manager
            && self.apply == who.apply
            && self.subresource == who.subresource
            && (self.apply || self.api_version == who.api_version)
    }

    fn to_value(&self) -> Value {
        let mut value = json!({
            "manager": self.manager,
            "operation": if self.apply { "Apply" } else { "Update" },
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.to_fields_v1(),
        });
        if !self.time.is_empty() {
            value["time"] = self.time.as_str().into();
        }
        if !self.subresource.is_empty() {
            value["subresource"] = self.subresource.as_str().into();
        }
        value
    }
}

/// All managers of an object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Managers(pub(super) Vec<Managed>);

impl Managers {
    /// Reads `metadata.managedFields`; `None` if an entry is malformed.
    pub fn of(object: &Value) -> Option<Managers> {
        let Some(list) = object.get("metadata").and_then(|m| m.get("managedFields")) else {
            return Some(Managers::default());
        };
        let mut out = Vec::new();
        for entry in list.as_array()? {
            let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let apply = match text("operation").as_str() {
                "Apply" => true,
                "Update" => false,
                _ => return None,
            };
            let fields = match entry.get("fieldsV1") {
                Some(fields) => FieldSet::from_fields_v1(fields)?,
                None => FieldSet::default(),
            };
            out.push(Managed {
                manager: text("manager"),
                apply,
                api_version: text("apiVersion"),
                subresource: text("subresource"),
                time: text("time"),
                fields,
            });
        }
        Some(Managers(out))
    }

    /// Whether nobody manages anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes `metadata.managedFields`.
    pub fn write(mut self, object: &mut Value) {
        self.0.retain(|m| !m.fields.is_empty());
        self.join_old();
        self.0.sort_by(|a, b| {
            let key = |m: &Managed| {
                (!m.apply, m.time.clone(), m.manager.clone(), m.api_version.clone(), m.subresource.clone())
            };
            key(a).cmp(&key(b))
        });
        let meta = isopod_api::object::child_mut(object, "metadata");
        if self.0.is_empty() {
            meta.remove("managedFields");
        } else {
            let list: Vec<Value> = self.0.iter().map(Managed::to_value).collect();
            meta.insert("managedFields".to_owned(), list.into());
        }
    }

    fn join_old(&mut self) {
        let mut updates: Vec<usize> = (0..self.0.len()).filter(|i| !self.0[*i].apply).collect();
        if updates.len() <= UPDATE_MANAGERS_MAX {
            return;
        }
        updates.sort_by(|a, b| self.0[*a].time.cmp(&self.0[*b].time));
        let old: Vec<usize> = updates[..=updates.len() - UPDATE_MANAGERS_MAX].to_vec();
        let mut joined: Vec<Managed> = Vec::new();
        for at in &old {
            let entry = self.0[*at].clone();
            let same =
                |m: &&mut Managed| m.api_version == entry.api_version && m.subresource == entry.subresource;
            match joined.iter_mut().find(same) {
                Some(into) => {
                    into.fields = into.fields.union(&entry.fields);
                    into.time = into.time.clone().max(entry.time);
                }
                None => joined.push(Managed { manager: ANCIENT.to_owned(), ..entry }),
            }
        }
        let mut at = 0;
        self.0.retain(|_| {
            at += 1;
            !old.contains(&(at - 1))
        });
        self.0.append(&mut joined);
    }
}

/// Paths of metadata that the system owns.
const SYSTEM_METADATA: &[&str] = &[
    "f:name",
    "f:namespace",
    "f:creationTimestamp",
    "f:selfLink",
    "f:uid",
    "f:clusterName",
    "f:generation",
    "f:managedFields",
    "f:resourceVersion",
    "f:deletionTimestamp",
    "f:deletionGracePeriodSeconds",
];

/// Takes out of a set what no manager can own.
pub(super) fn strip(set: &mut FieldSet) {
    set.remove("f:apiVersion");
    set.remove("f:kind");
    set.remove_below("f:metadata", SYSTEM_METADATA);
}

/// Records an update in the new object's `managedFields`. `old` is the stored object, or an empty
/// one in canonical form for a create.
pub fn record_update(new: &mut Value, old: &Value, schema: &Schema, who: &Who<'_>) {
    let list = new.get("metadata").and_then(|m| m.get("managedFields")).and_then(Value::as_array);
    if list.is_some_and(|l| l.len() == 1 && l[0].as_object().is_some_and(|e| e.is_empty())) {
        // A single empty entry is a client's wish to begin anew.
        isopod_api::object::child_mut(new, "metadata").remove("managedFields");
        return;
    }
    let sent = Managers::of(new).filter(|m| !m.is_empty());
    let mut managers = sent.or_else(|| Managers::of(old)).unwrap_or_default();
    let compared = compare(old, new, schema.root());
    let mut gained = compared.added.union(&compared.modified);
    let mut removed = compared.removed;
    strip(&mut gained);
    strip(&mut removed);
    if !gained.is_empty() || !removed.is_empty() {
        let lost = gained.union(&removed);
        for other in managers.0.iter_mut().filter(|m| !m.is(who)) {
            other.fields = other.fields.difference(&lost);
        }
        match managers.0.iter_mut().find(|m| m.is(who)) {
            Some(own) => {
                own.fields = own.fields.difference(&removed).union(&gained);
                who.time.clone_into(&mut own.time);
            }
            None => managers.0.push(Managed {
                manager: who.manager.to_owned(),
                apply: who.apply,
                api_version: who.api_version.to_owned(),
                subresource: who.subresource.to_owned(),
                time: who.time.to_owned(),
                fields: gained,
            }),
        }
    }
    managers.write(new);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_take_fields_over() {
        let facts = isopod_api::facts::builtin().kind("", "v1", "ConfigMap").unwrap();
        let who = |manager| Who {
            manager,
            apply: false,
            api_version: "v1",
            subresource: "",
            time: "2026-01-01T00:00:00Z",
        };
        let mut a = json!({"metadata": {"name": "n"}, "data": {"x": "1", "y": "1"}});
        record_update(&mut a, &json!({"metadata": {}}), &facts.schema, &who("first"));
        let mut b = a.clone();
        b["data"] = json!({"x": "2"});
        record_update(&mut b, &a, &facts.schema, &who("second"));
        let list = b["metadata"]["managedFields"].as_array().unwrap();
        assert_eq!(list.len(), 2, "{list:?}");
        assert_eq!(list[0]["fieldsV1"], json!({"f:data": {}}), "the map itself stays with its maker");
        assert_eq!(list[1]["fieldsV1"], json!({"f:data": {"f:x": {}}}));
    }
}
