//! Deployments: fed by their ReplicaSets, and by pods where old pods must be gone first.

use std::collections::BTreeMap;

use isopod_client::store::{BY_CONTROLLER_UID, controller_uid};
use isopod_client::{Change, ObjectKey};
use isopod_reconcile::deployment::{View, reconcile};
use isopod_reconcile::labels;
use isopod_reconcile::meta::{Meta, key};
use isopod_reconcile::plan::Plan;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;

use super::replicaset::{candidates, index_owners};
use crate::context::Context;
use crate::control_loop::{ControlLoop, Running, owner_key};

fn recreates(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("Recreate"))
}

pub(crate) fn register(context: &Context) -> Option<Running> {
    let deployments = context.informers.get::<Deployment>();
    let sets = context.informers.get::<ReplicaSet>();
    let pods = context.informers.get::<Pod>();
    index_owners(&sets);
    pods.add_index(BY_CONTROLLER_UID, controller_uid);

    let mut control = ControlLoop::new(context, "deployment", "deployment-controller");
    control.of(&deployments);
    let all = deployments.store();
    control.owns::<Deployment, ReplicaSet>(&sets, move |queue, orphan| {
        for deployment in all.list_namespace(orphan.namespace()) {
            let Some(spec) = &deployment.spec else { continue };
            if !labels::is_empty(&spec.selector) && labels::matches(&spec.selector, orphan.labels()) {
                queue.add(ObjectKey::from(key(deployment.as_ref()).as_str()));
            }
        }
    });
    let (owners, owned) = (deployments.store(), sets.store());
    control.on(&pods, move |queue, change| {
        // Only the end of a pod matters, and only to a Deployment that waits for it.
        let Change::Deleted(pod) = change else { return };
        let Some(set) = owner_key::<ReplicaSet, Pod>(pod).and_then(|key| owned.get(&key)) else { return };
        let Some(key) = owner_key::<Deployment, ReplicaSet>(&set) else { return };
        if owners.get(&key).is_some_and(|deployment| recreates(&deployment)) {
            queue.add(key);
        }
    });
    let (deployments, sets, pods, context) =
        (deployments.store(), sets.store(), pods.store(), context.clone());
    Some(control.run(move |key, settled| {
        let Some(deployment) = deployments.get(key) else { return Plan::nothing() };
        if !settled {
            // The ReplicaSet that was just made comes through the cache and brings the key back.
            return Plan::nothing();
        }
        let replica_sets = candidates(&sets, deployment.as_ref());
        let mut by_set = BTreeMap::new();
        if recreates(&deployment) {
            for set in &replica_sets {
                if set.controlled_by(deployment.uid()) {
                    by_set.insert(set.uid().to_owned(), pods.by_index(BY_CONTROLLER_UID, set.uid()));
                }
            }
        }
        reconcile(&deployment, View { replica_sets, pods: by_set }, context.now())
    }))
}
