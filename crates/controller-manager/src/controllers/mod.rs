//! One file a controller: its informers, its keys, its view.

mod deployment;
mod replicaset;

use crate::context::Context;
use crate::control_loop::Running;

/// Makes a loop, or nothing when the configuration gives it nothing to do.
type Register = fn(&Context) -> Option<Running>;

/// Every controller by upstream's name.
pub(crate) const ALL: &[(&str, Register)] = &[
    ("deployment-controller", deployment::register),
    ("replicaset-controller", replicaset::register_replica_sets),
    ("replicationcontroller-controller", replicaset::register_replication_controllers),
];
