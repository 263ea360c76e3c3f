//! The facts of every built-in kind and resource of the Kubernetes API v1.36: names, verbs, subresources, places in
//! the store, and schemas.
//!
//! The tables are committed text made by `cargo xtask import-api`; they are parsed once, at first use, in a few
//! milliseconds, and their strings stay where they are in the binary.

mod resources;

use crate::schema::{self, Schema, Ty, TypeId, Types};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// All built-in facts.
#[derive(Debug)]
pub struct Facts {
    types: Arc<Types>,
    groups: Vec<GroupFacts>,
    resources: Vec<ResourceFacts>,
    kinds: Vec<KindFacts>,
    by_resource: HashMap<(&'static str, &'static str, &'static str), usize>,
    by_kind: HashMap<(&'static str, &'static str, &'static str), usize>,
}

/// An API group.
#[derive(Clone, Debug)]
pub struct GroupFacts {
    /// Name; empty for the core group.
    pub name: &'static str,
    /// `groupPriorityMinimum` of the group's APIServices.
    pub priority: u32,
    /// Versions, preferred first, those not served by default included.
    pub versions: Vec<&'static str>,
}

/// A resource in one version.
#[derive(Clone, Debug)]
pub struct ResourceFacts {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version of the group.
    pub version: &'static str,
    /// Name in URLs.
    pub plural: &'static str,
    /// Name of one object in commands.
    pub singular: String,
    /// Kind of its objects.
    pub kind: &'static str,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Whether upstream serves it unless told otherwise.
    pub served: bool,
    /// Short names for commands.
    pub short_names: Vec<&'static str>,
    /// Categories such as `all`.
    pub categories: Vec<&'static str>,
    /// Verbs, in alphabetical order.
    pub verbs: Vec<&'static str>,
    /// Subresources by name.
    pub subresources: Vec<SubresourceFacts>,
    /// Place below `/registry/`, as `services/specs`.
    pub storage_path: &'static str,
    /// Group in which objects are stored.
    pub storage_group: &'static str,
    /// Version in which objects are stored.
    pub storage_version: &'static str,
    /// Schema of its objects.
    pub schema: Schema,
}

/// A subresource.
#[derive(Clone, Debug)]
pub struct SubresourceFacts {
    /// Name, as `status`.
    pub name: &'static str,
    /// Group of its kind.
    pub group: &'static str,
    /// Version of its kind.
    pub version: &'static str,
    /// Kind of its request and response.
    pub kind: &'static str,
    /// Verbs, in alphabetical order.
    pub verbs: Vec<&'static str>,
}

/// A kind in one version, served or not.
#[derive(Clone, Debug)]
pub struct KindFacts {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version of the group.
    pub version: &'static str,
    /// Name.
    pub kind: &'static str,
    /// Schema of its objects.
    pub schema: Schema,
}

static BUILTIN: LazyLock<Facts> = LazyLock::new(Facts::load);

/// The facts of the built-in API.
pub fn builtin() -> &'static Facts {
    &BUILTIN
}

impl Facts {
    fn load() -> Facts {
        let types = Arc::new(schema::parse(include_str!("../../facts/types.txt")));
        let mut kinds = Vec::new();
        let mut by_kind = HashMap::new();
        for id in types.ids().filter(|id| is_registered(&types, *id)) {
            let def = types.def(id);
            let package = &types.packages[def.package as usize];
            let facts = KindFacts {
                group: interned(&types, package.group),
                version: interned(&types, package.version),
                kind: interned(&types, def.name),
                schema: Schema::new(types.clone(), Ty::Struct(id)),
            };
            by_kind.insert((facts.group, facts.version, facts.kind), kinds.len());
            kinds.push(facts);
        }
        let mut facts = Facts {
            types,
            groups: Vec::new(),
            resources: Vec::new(),
            kinds,
            by_resource: HashMap::new(),
            by_kind,
        };
        resources::parse(include_str!("../../facts/resources.txt"), &mut facts);
        facts
    }

    /// Every resource, group by group.
    pub fn resources(&self) -> &[ResourceFacts] {
        &self.resources
    }

    /// A resource by its place in URLs.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&ResourceFacts> {
        self.by_resource.get(&(group, version, plural)).map(|at| &self.resources[*at])
    }

    /// The resource whose objects are of the kind.
    pub fn resource_of_kind(&self, group: &str, version: &str, kind: &str) -> Option<&ResourceFacts> {
        self.resources.iter().find(|r| (r.group, r.version, r.kind) == (group, version, kind))
    }

    /// Every kind.
    pub fn kinds(&self) -> &[KindFacts] {
        &self.kinds
    }

    /// A kind. The kinds of `meta/v1` (`Status`, `DeleteOptions`, …) are found in every group and version.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&KindFacts> {
        let found = self.by_kind.get(&(group, version, kind)).or_else(|| {
            let at = self.by_kind.get(&("meta.k8s.io", "v1", kind))?;
            Some(at)
        });
        found.map(|at| &self.kinds[*at])
    }

    /// Groups in the order of upstream's discovery, highest priority first.
    pub fn groups(&self) -> &[GroupFacts] {
        &self.groups
    }

    /// The arena of all built-in types.
    pub fn types(&self) -> &Arc<Types> {
        &self.types
    }

    /// Schema of an object of which no more is known than that it has `apiVersion`, `kind` and `metadata`: all other
    /// fields are kept as they are. Custom resources without a schema of their own are read by it.
    pub fn unstructured(&self) -> Schema {
        self.schema("custom", "Object").expect("the table has the type of unknown objects")
    }

    /// Schema of any built-in type, as (`meta/v1`, `ObjectMeta`).
    pub fn schema(&self, package: &str, name: &str) -> Option<Schema> {
        self.types.find(package, name).map(|id| Schema::new(self.types.clone(), Ty::Struct(id)))
    }
}

/// Whether a type is a kind of its group: has a `kind`, or is the one top-level type that has none.
fn is_registered(types: &Types, id: TypeId) -> bool {
    let def = types.def(id);
    match types.str(types.packages[def.package as usize].key) {
        "custom" => false,
        "meta/v1" if types.str(def.name) == "WatchEvent" => true,
        _ => def.is_kind,
    }
}

/// The table's text is static, so that its parts are too.
fn interned(types: &Types, span: schema::Span) -> &'static str {
    match &types.text {
        std::borrow::Cow::Borrowed(text) => span.of(text),
        std::borrow::Cow::Owned(_) => unreachable!("built-in types are parsed from static text"),
    }
}

#[cfg(test)]
mod tests;
