//! Priority and fairness: which flow a request belongs to, and which request runs next.
//!
//! FlowSchemas assign requests to flows and flows to priority levels ([`schema`]); a level has a share of the
//! server's seats and may use what others lend ([`level`]); within a level, requests wait in queues from which the
//! flow that had least is served first ([`queues`]). As upstream's API Priority and Fairness (KEP-1040), with one
//! deliberate difference: seats are lent at the moment they are asked for, not in periods of ten seconds.

pub mod bootstrap;
pub mod level;
pub mod queues;
pub mod schema;
