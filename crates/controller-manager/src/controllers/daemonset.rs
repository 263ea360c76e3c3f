//! DaemonSets: fed by their pods and revisions, and by nodes.

use std::sync::Arc;

use isopod_client::store::{BY_CONTROLLER_UID, controller_uid};
use isopod_client::{Change, ObjectKey};
use isopod_reconcile::daemonset::{Failures, View, reconcile};
use isopod_reconcile::labels;
use isopod_reconcile::meta::Meta;
use isopod_reconcile::plan::Plan;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;

use super::replicaset::{candidates, index_owners};
use crate::context::Context;
use crate::control_loop::{ControlLoop, Running};

/// Whether a node changed in a way that decides about daemon pods.
fn matters(old: &Node, new: &Node) -> bool {
    let spec = |node: &Node| node.spec.as_ref().map(|s| (s.taints.clone(), s.unschedulable));
    old.labels() != new.labels() || spec(old) != spec(new)
}

pub(crate) fn register(context: &Context) -> Option<Running> {
    let sets = context.informers.get::<DaemonSet>();
    let pods = context.informers.get::<Pod>();
    let nodes = context.informers.get::<Node>();
    let revisions = context.informers.get::<ControllerRevision>();
    index_owners(&pods);
    revisions.add_index(BY_CONTROLLER_UID, controller_uid);

    let mut control = ControlLoop::new(context, "daemonset", "daemon-set-controller");
    control.component("daemonset-controller");
    control.of(&sets);
    let all = sets.store();
    control.owns::<DaemonSet, Pod>(&pods, move |queue, orphan| {
        for set in all.list_namespace(orphan.namespace()) {
            let selector = set.spec.as_ref().map(|spec| &spec.selector);
            if selector.is_some_and(|s| !labels::is_empty(s) && labels::matches(s, orphan.labels())) {
                queue.add(ObjectKey::of(set.as_ref()));
            }
        }
    });
    control.owns::<DaemonSet, ControllerRevision>(&revisions, |_, _| {});
    let all = sets.store();
    control.on(&nodes, move |queue, change| {
        if let Change::Updated { old, new } = change
            && !matters(old, new)
        {
            return;
        }
        all.for_each(|set| queue.add(ObjectKey::of(set.as_ref())));
    });
    let (sets, pods, nodes) = (sets.store(), pods.store(), nodes.store());
    let (revisions, context) = (revisions.store(), context.clone());
    let failures: Arc<Mutex<Failures>> = Arc::default();
    Some(control.run(move |key, settled| {
        let Some(set) = sets.get(key) else { return Plan::nothing() };
        let view = View {
            nodes: nodes.list(),
            pods: candidates(&pods, set.as_ref()),
            revisions: revisions.by_index(BY_CONTROLLER_UID, set.uid()),
            settled,
        };
        reconcile(&set, view, &mut failures.lock(), context.now())
    }))
}
