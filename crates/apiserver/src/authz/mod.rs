//! Authorisation: what a user may do.
//!
//! Asked in upstream's order: members of `system:masters` may do everything; a node may do what its pods need;
//! everyone else what roles and bindings say. Who is permitted by nobody is refused.

mod masters;
mod node;
mod rbac;
mod reviews;
mod rules_review;

use std::sync::Arc;

pub use rbac::Rbac;

use crate::layers::{Authorizer, Objects, VirtualResource};

/// Configuration of authorisation.
#[derive(Clone, Debug, Default)]
pub struct Config {}

/// The authorisers of a server, and what else needs the roles.
pub struct Authorization {
    /// In the order they are asked.
    pub authorizers: Vec<Arc<dyn Authorizer>>,
    /// Roles and bindings.
    pub rbac: Arc<Rbac>,
    /// The endpoints that answer what somebody may do.
    pub virtual_resources: Vec<Arc<dyn VirtualResource>>,
}

/// Makes the authorisers. `objects` reads what is stored (roles and bindings, pods).
pub fn authorization(_config: &Config, objects: &Arc<dyn Objects>) -> Authorization {
    let rbac = Arc::new(Rbac::new(objects.clone()));
    let authorizers: Vec<Arc<dyn Authorizer>> =
        vec![Arc::new(masters::Masters), Arc::new(node::Node::new(objects.clone())), rbac.clone()];
    let mut virtual_resources = reviews::all(&authorizers);
    virtual_resources.push(Arc::new(rules_review::SelfSubjectRulesReview::new(rbac.clone())));
    Authorization { authorizers, rbac, virtual_resources }
}

/// The authorisers, in the order they are asked.
pub fn layers(config: &Config, objects: &Arc<dyn Objects>) -> Vec<Arc<dyn Authorizer>> {
    authorization(config, objects).authorizers
}
