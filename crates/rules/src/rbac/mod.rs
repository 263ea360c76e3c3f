//! Role based access control: who may do what, by roles and bindings.
//!
//! Matches upstream's RBAC authoriser. Pure: roles and bindings come in as objects, decisions go out.
//! - [`rule`]: one policy rule and what it matches;
//! - [`index`]: all roles and bindings, arranged by subject so that a decision looks at few of them;
//! - [`escalation`]: nobody may grant what they do not hold;
//! - [`aggregate`]: cluster roles that are the sum of others;
//! - [`bootstrap`]: the roles and bindings every cluster starts with, and how they are kept up to date;
//! - [`node`]: what a kubelet may see, by the pods bound to its node.

pub mod aggregate;
pub mod bootstrap;
pub mod escalation;
pub mod index;
pub mod node;
pub mod rule;

/// API group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

pub use index::{Answer, RbacIndex};
pub use rule::{Request, Rule};
