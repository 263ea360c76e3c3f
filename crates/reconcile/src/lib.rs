//! The decisions of the controllers, without their IO.
//!
//! Every controller is a function from a view of the cluster, the object it looks after and the current time to
//! a [`plan::Plan`]: the writes to make, the events to record and when to look again. Nothing here does IO, reads a
//! clock or draws a random number; the controller-manager crate gathers views from its informers and applies plans.
//!
//! Behaviour (fields, conditions, event reasons and texts, labels, names) matches kube-controller-manager 1.36.
#![warn(missing_docs)]

pub mod backoff;
pub mod bootstrap_token;
pub mod certificate;
pub mod claim;
pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod endpointslice_mirroring;
pub mod garbage;
pub mod history;
pub mod int_or_percent;
pub mod job;
pub mod labels;
pub mod meta;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod node_match;
pub mod plan;
pub mod pod_gc;
pub mod pods;
pub mod replicaset;
pub mod service_account;
pub mod statefulset;
pub mod template;
pub mod token_secret;
pub mod ttl_after_finished;
