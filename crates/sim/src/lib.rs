//! The judge of the store: checkers for what clients were promised.
//!
//! A run is recorded as a [`history::History`]: what clients asked and were told, what watchers were given, and what the
//! cluster says in the end has happened. [`check::check`] judges it: linearizability, durability, watches, leases.
//! [`check::agreement`] compares members with each other. The [`model`] that the answers are compared with shares no
//! code with the store.

pub mod check;
pub mod history;
pub mod model;
#[cfg(test)]
mod testing;
