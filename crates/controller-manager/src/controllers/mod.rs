//! One file a controller: its informers, its keys, its view.

mod certificates;
mod cluster_role;
mod cronjob;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod garbage;
mod job;
mod namespace;
mod node;
mod pod_gc;
mod replicaset;
mod resource_quota;
mod service_account;
mod statefulset;
mod token_cleaner;

use isopod_client::Informer;
use isopod_reconcile::pods;
use k8s_openapi::api::core::v1::Pod;

use crate::context::Context;
use crate::control_loop::Running;

/// Makes a loop, or nothing when the configuration gives it nothing to do.
type Register = fn(&Context) -> Option<Running>;

/// Every controller by upstream's name.
pub(crate) const ALL: &[(&str, Register)] = &[
    ("deployment-controller", deployment::register),
    ("replicaset-controller", replicaset::register_replica_sets),
    ("replicationcontroller-controller", replicaset::register_replication_controllers),
    ("daemonset-controller", daemonset::register),
    ("statefulset-controller", statefulset::register),
    ("endpointslice-controller", endpoints::register_slices),
    ("endpoints-controller", endpoints::register_endpoints),
    ("endpointslice-mirroring-controller", endpoints::register_mirroring),
    ("namespace-controller", namespace::register),
    ("serviceaccount-controller", service_account::register_default_accounts),
    ("serviceaccount-token-controller", service_account::register_token_secrets),
    ("root-ca-certificate-publisher-controller", service_account::register_root_ca),
    ("node-ipam-controller", node::register_ipam),
    ("node-lifecycle-controller", node::register_lifecycle),
    ("taint-eviction-controller", node::register_eviction),
    ("job-controller", job::register_jobs),
    ("cronjob-controller", cronjob::register),
    ("ttl-after-finished-controller", job::register_ttl),
    ("pod-garbage-collector-controller", pod_gc::register),
    ("disruption-controller", disruption::register),
    ("resourcequota-controller", resource_quota::register),
    ("clusterrole-aggregation-controller", cluster_role::register),
    ("certificatesigningrequest-approving-controller", certificates::register_approving),
    ("certificatesigningrequest-signing-controller", certificates::register_signing),
    ("certificatesigningrequest-cleaner-controller", certificates::register_cleaner),
    ("token-cleaner-controller", token_cleaner::register),
    ("garbage-collector-controller", garbage::register),
];

/// Index of pods by the node they are bound to.
const BY_NODE: &str = "node";

fn index_pods_by_node(informer: &Informer<Pod>) {
    informer.add_index(BY_NODE, |pod: &Pod| {
        let node = pods::node(pod);
        if node.is_empty() { vec![] } else { vec![node.to_owned()] }
    });
}
