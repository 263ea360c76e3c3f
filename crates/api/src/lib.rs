//! The vocabulary of isopod: Kubernetes objects as data, the facts of every kind, codecs, patches,
//! selectors, quantities and the `Status` that every API failure becomes.
//!
//! Pure: no async, no files, no sockets, no clock.
#![warn(missing_docs)]

pub mod codec;
pub mod convert;
pub mod defaults;
pub mod facts;
pub mod field;
pub mod identity;
pub mod names;
pub mod object;
pub mod openapi;
pub mod patch;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod status;

pub use object::Object;

/// A dynamic JSON value; the API server keeps every object in this form.
pub type Value = serde_json::Value;
/// The map inside an object [`Value`].
pub type Map = serde_json::Map<String, Value>;
