//! What each kind of object obeys beyond its schema, and who may do what: pure functions over values.
#![warn(missing_docs)]

pub mod admission;
pub mod audit;
pub mod flowcontrol;
pub mod kinds;
pub mod managedfields;
pub mod quota;
pub mod rbac;
