//! Admission plugins: they may complete an object, and may refuse it.
//!
//! One file a plugin, each pure: a plugin says which stored objects it needs ([`Plugin::needs`]), the shell brings
//! them as a [`View`], and the plugin decides. Adding one is a file and a line in [`PLUGINS`], which is in
//! upstream's order. Plugins that must write or ask the authorisers (ResourceQuota, the Certificate ones) have
//! their pure half here or in [`crate::quota`] and their shell in the API server.

mod default_ingress_class;
mod default_storage_class;
mod default_toleration_seconds;
mod deny_service_external_ips;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod node_restriction_pods;
mod persistent_volume_claim_resize;
pub mod pod_security;
mod priority;
mod runtime_class;
mod service_account;
mod storage_object_in_use_protection;
mod taint_nodes_by_condition;
mod value;

pub use node_restriction::token as node_may_request_token;

use isopod_api::Value;
use isopod_api::identity::UserInfo;
use isopod_api::status::Status;

/// The kind of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A changed object.
    Update,
    /// A deleted object.
    Delete,
    /// exec, attach, portforward, proxy.
    Connect,
}

/// A change to be judged. Objects are in the storage version of their kind.
#[derive(Debug)]
pub struct Request<'a> {
    /// The kind of change.
    pub operation: Operation,
    /// Who asks.
    pub user: &'a UserInfo,
    /// API group.
    pub group: &'a str,
    /// Plural resource.
    pub resource: &'a str,
    /// Subresource or empty.
    pub subresource: &'a str,
    /// Namespace or empty.
    pub namespace: &'a str,
    /// Object name; may be empty for a create with `generateName`.
    pub name: &'a str,
    /// The object to be stored; `Null` for a delete.
    pub object: &'a mut Value,
    /// The object as stored; `Null` for a create.
    pub old: &'a Value,
    /// Warnings for the client.
    pub warnings: &'a mut Vec<String>,
    /// Annotations for the audit log.
    pub annotations: &'a mut Vec<(&'static str, String)>,
    /// Five random characters fit for a name.
    pub suffix: &'a str,
}

impl Request<'_> {
    /// Refuses the request as upstream's admission does: 403, naming the object.
    pub fn forbidden(&self, why: impl AsRef<str>) -> Status {
        let meta = &self.object["metadata"];
        let given = |field: &str| meta[field].as_str().filter(|name| !name.is_empty());
        let name = given("name").or(given("generateName")).unwrap_or(self.name);
        Status::forbidden(
            self.group,
            self.resource,
            if name.is_empty() { "Unknown" } else { name },
            why.as_ref(),
        )
    }
}

/// Stored objects a plugin needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// One object.
    Get {
        /// API group.
        group: &'static str,
        /// Plural resource.
        resource: &'static str,
        /// Namespace or empty.
        namespace: String,
        /// Name.
        name: String,
    },
    /// All objects of a namespace, or of the cluster when that is empty.
    List {
        /// API group.
        group: &'static str,
        /// Plural resource.
        resource: &'static str,
        /// Namespace or empty.
        namespace: String,
    },
}

impl Query {
    fn get(group: &'static str, resource: &'static str, namespace: &str, name: &str) -> Self {
        Self::Get { group, resource, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn list(group: &'static str, resource: &'static str, namespace: &str) -> Self {
        Self::List { group, resource, namespace: namespace.to_owned() }
    }
}

/// The objects asked for, by resource. A plugin asks for at most one object of a resource, or all.
#[derive(Debug, Clone, Default)]
pub struct View(Vec<(&'static str, Vec<Value>)>);

impl View {
    /// The answers to a plugin's queries, in their order.
    pub fn new(answers: impl IntoIterator<Item = (Query, Vec<Value>)>) -> Self {
        let resource = |query: &Query| match query {
            Query::Get { resource, .. } | Query::List { resource, .. } => *resource,
        };
        Self(answers.into_iter().map(|(query, objects)| (resource(&query), objects)).collect())
    }

    /// All objects of a resource.
    pub fn list(&self, resource: &str) -> &[Value] {
        self.0
            .iter()
            .find(|(of, _)| *of == resource)
            .map(|(_, objects)| objects.as_slice())
            .unwrap_or_default()
    }

    /// The one object of a resource, if it exists.
    pub fn one(&self, resource: &str) -> Option<&Value> {
        self.list(resource).first()
    }
}

/// One phase of a plugin.
pub type Phase = fn(&mut Request<'_>, &View) -> Result<(), Status>;

/// An admission plugin.
#[derive(Debug, Clone, Copy)]
pub struct Plugin {
    /// Name, as upstream's `--enable-admission-plugins` knows it.
    pub name: &'static str,
    /// Whether it looks at such requests: operation, group, resource, subresource.
    pub handles: fn(Operation, &str, &str, &str) -> bool,
    /// What it must know.
    pub needs: fn(&Request<'_>) -> Vec<Query>,
    /// Completes the object.
    pub admit: Option<Phase>,
    /// Judges the completed object.
    pub validate: Option<Phase>,
}

impl Plugin {
    const NONE: Plugin =
        Plugin { name: "", handles: |_, _, _, _| false, needs: |_| Vec::new(), admit: None, validate: None };
}

/// All pure plugins, in upstream's order.
pub static PLUGINS: &[&Plugin] = &[
    &namespace_lifecycle::PLUGIN,
    &limit_ranger::PLUGIN,
    &service_account::PLUGIN,
    &node_restriction::PLUGIN,
    &taint_nodes_by_condition::PLUGIN,
    &pod_security::PLUGIN,
    &priority::PLUGIN,
    &default_toleration_seconds::PLUGIN,
    &default_storage_class::PLUGIN,
    &storage_object_in_use_protection::PLUGIN,
    &persistent_volume_claim_resize::PLUGIN,
    &runtime_class::PLUGIN,
    &default_ingress_class::PLUGIN,
    &deny_service_external_ips::PLUGIN,
];

#[cfg(test)]
pub(crate) mod tests_support;
