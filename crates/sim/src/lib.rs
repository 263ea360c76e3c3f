//! The judge of the store: a simulator of whole clusters, and the checkers of what clients were promised.
//!
//! [`world`] runs a cluster in a world made of one seed: its members run their real code on simulated disks, clocks and
//! networks, and everything that may go wrong does.
//! A run is recorded as a [`history::History`]: what clients asked and were told, what watchers were given, and what the
//! cluster says in the end has happened. [`check::check`] judges it: linearizability, durability, watches, leases.
//! [`check::agreement`] compares members with each other. The [`model`] that the answers are compared with shares no
//! code with the store.

pub mod check;
pub mod history;
pub mod model;
pub mod random;
#[cfg(test)]
mod testing;
pub mod world;
