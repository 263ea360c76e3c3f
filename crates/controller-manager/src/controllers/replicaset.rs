//! ReplicaSets and ReplicationControllers.

use isopod_client::store::{BY_CONTROLLER_UID, controller_uid};
use isopod_client::{Informer, ObjectKey, Store};
use isopod_reconcile::meta::{Meta, key};
use isopod_reconcile::plan::{Object, Plan};
use isopod_reconcile::replicaset::{Replicated, View, reconcile};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};

use crate::context::Context;
use crate::control_loop::{ControlLoop, Running};

/// Index of objects that nobody controls, by namespace.
const ORPHANS: &str = "orphans";

/// Objects by owner, and orphans by namespace: what an owner may claim.
pub(crate) fn index_owners<K: kube::Resource + Object + Send + Sync + 'static>(informer: &Informer<K>) {
    informer.add_index(BY_CONTROLLER_UID, controller_uid);
    informer.add_index(ORPHANS, |object: &K| {
        if object.controller().is_none() { vec![object.namespace().to_owned()] } else { vec![] }
    });
}

/// What an owner controls and the orphans of its namespace.
pub(crate) fn candidates<K: Object, O: Object>(store: &Store<K>, owner: &O) -> Vec<std::sync::Arc<K>> {
    let mut found = store.by_index(BY_CONTROLLER_UID, owner.uid());
    found.extend(store.by_index(ORPHANS, owner.namespace()));
    found
}

pub(crate) fn register_replica_sets(context: &Context) -> Option<Running> {
    let sets = context.informers.get::<ReplicaSet>();
    sets.add_index(BY_CONTROLLER_UID, controller_uid);
    let store = sets.store();
    let siblings = move |set: &ReplicaSet| match set.controller() {
        Some(controller) => store.by_index(BY_CONTROLLER_UID, &controller.uid),
        None => Vec::new(),
    };
    Some(register(context, "replicaset", "replicaset-controller", &sets, siblings))
}

pub(crate) fn register_replication_controllers(context: &Context) -> Option<Running> {
    let controllers = context.informers.get::<ReplicationController>();
    Some(register(context, "replicationmanager", "replication-controller", &controllers, |_| Vec::new()))
}

fn register<O>(
    context: &Context,
    queue: &'static str,
    account: &'static str,
    owners: &Informer<O>,
    siblings: impl Fn(&O) -> Vec<std::sync::Arc<O>> + Send + Sync + 'static,
) -> Running
where
    O: Replicated + kube::Resource,
{
    let pods = context.informers.get::<Pod>();
    index_owners(&pods);
    let mut control = ControlLoop::new(context, queue, account);
    control.of(owners);
    let all = owners.store();
    control.owns::<O, Pod>(&pods, move |queue, orphan| {
        for owner in all.list_namespace(orphan.namespace()) {
            if owner.selects(orphan.labels()) {
                queue.add(ObjectKey::from(key(owner.as_ref()).as_str()));
            }
        }
    });
    let (owners, pods, context) = (owners.store(), pods.store(), context.clone());
    control.run(move |key, settled| {
        let Some(owner) = owners.get(key) else { return Plan::nothing() };
        let mine = candidates(&pods, owner.as_ref());
        let mut related = Vec::new();
        let shrinking = mine.len() > usize::try_from(owner.replicas()).unwrap_or(0);
        if settled && shrinking {
            related.extend(mine.iter().filter(|pod| pod.controlled_by(owner.uid())).cloned());
            for sibling in siblings(&owner).iter().filter(|sibling| sibling.uid() != owner.uid()) {
                related.extend(pods.by_index(BY_CONTROLLER_UID, sibling.uid()));
            }
        }
        reconcile(&owner, View { pods: mine, related, settled }, context.now())
    })
}
