//! StatefulSets: fed by their pods, revisions and claims.

use std::collections::BTreeMap;

use isopod_client::ObjectKey;
use isopod_client::store::{BY_CONTROLLER_UID, controller_uid};
use isopod_reconcile::labels;
use isopod_reconcile::meta::Meta;
use isopod_reconcile::plan::Plan;
use isopod_reconcile::statefulset::{View, claim_names, reconcile};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use super::replicaset::{candidates, index_owners};
use crate::context::Context;
use crate::control_loop::{ControlLoop, Running};

pub(crate) fn register(context: &Context) -> Option<Running> {
    let sets = context.informers.get::<StatefulSet>();
    let pods = context.informers.get::<Pod>();
    let claims = context.informers.get::<PersistentVolumeClaim>();
    let revisions = context.informers.get::<ControllerRevision>();
    index_owners(&pods);
    revisions.add_index(BY_CONTROLLER_UID, controller_uid);

    let mut control = ControlLoop::new(context, "statefulset", "statefulset-controller");
    control.of(&sets);
    let all = sets.store();
    control.owns::<StatefulSet, Pod>(&pods, move |queue, orphan| {
        for set in all.list_namespace(orphan.namespace()) {
            let selector = set.spec.as_ref().map(|spec| &spec.selector);
            if selector.is_some_and(|s| !labels::is_empty(s) && labels::matches(s, orphan.labels())) {
                queue.add(ObjectKey::of(set.as_ref()));
            }
        }
    });
    control.owns::<StatefulSet, ControllerRevision>(&revisions, |_, _| {});
    control.needs(&claims);
    let (sets, pods, claims) = (sets.store(), pods.store(), claims.store());
    let (revisions, context) = (revisions.store(), context.clone());
    Some(control.run(move |key, settled| {
        let Some(set) = sets.get(key) else { return Plan::nothing() };
        let pods = candidates(&pods, set.as_ref());
        let claims: BTreeMap<_, _> = claim_names(&set, &pods)
            .into_iter()
            .filter_map(|name| Some((name.clone(), claims.find(set.namespace(), &name)?)))
            .collect();
        let revisions = revisions.by_index(BY_CONTROLLER_UID, set.uid());
        reconcile(&set, View { pods, claims, revisions, settled }, context.now())
    }))
}
