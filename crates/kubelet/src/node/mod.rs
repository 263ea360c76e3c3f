//! The Node object: registered, kept true, and proven alive.

pub(crate) mod facts;
pub(crate) mod lease;
pub(crate) mod register;
pub(crate) mod report;
