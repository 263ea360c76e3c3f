//! PodDisruptionBudgets: fed by pods and by the sizes of the workloads that the pods belong to.

use isopod_client::{Change, ObjectKey, Store};
use isopod_reconcile::disruption::reconcile;
use isopod_reconcile::meta::Meta;
use isopod_reconcile::plan::Plan;
use isopod_reconcile::{labels, pods as podview};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::context::Context;
use crate::control_loop::{ControlLoop, Running};

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    // An absent selector selects nothing, an empty one everything.
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| labels::matches(selector, pod.labels()))
}

fn matters(old: &Pod, new: &Pod) -> bool {
    old.deleting() != new.deleting()
        || old.labels() != new.labels()
        || old.owners() != new.owners()
        || podview::is_ready(old) != podview::is_ready(new)
        || podview::phase(old) != podview::phase(new)
}

#[derive(Clone)]
struct Workloads {
    deployments: Store<Deployment>,
    sets: Store<ReplicaSet>,
    stateful: Store<StatefulSet>,
    controllers: Store<ReplicationController>,
}

impl Workloads {
    /// The workload behind a controller reference, and its size.
    fn scale(&self, pod: &Pod, owner: &OwnerReference) -> Result<(String, i32), String> {
        let missing = || format!("{} {} not found", owner.kind, owner.name);
        let size = |replicas: Option<i32>| replicas.unwrap_or(1);
        let namespace = pod.namespace();
        match (owner.api_version.as_str(), owner.kind.as_str()) {
            ("apps/v1", "ReplicaSet") => {
                let set = self.sets.find(namespace, &owner.name).ok_or_else(missing)?;
                let above = set.controller().filter(|above| above.kind == "Deployment");
                let deployment = above.and_then(|above| self.deployments.find(namespace, &above.name));
                Ok(match deployment {
                    Some(deployment) => (
                        deployment.uid().to_owned(),
                        size(deployment.spec.as_ref().and_then(|spec| spec.replicas)),
                    ),
                    None => (set.uid().to_owned(), size(set.spec.as_ref().and_then(|spec| spec.replicas))),
                })
            }
            ("apps/v1", "StatefulSet") => {
                let set = self.stateful.find(namespace, &owner.name).ok_or_else(missing)?;
                Ok((set.uid().to_owned(), size(set.spec.as_ref().and_then(|spec| spec.replicas))))
            }
            ("v1", "ReplicationController") => {
                let set = self.controllers.find(namespace, &owner.name).ok_or_else(missing)?;
                Ok((set.uid().to_owned(), size(set.spec.as_ref().and_then(|spec| spec.replicas))))
            }
            (version, kind) => Err(format!("{kind}.{version} does not implement the scale subresource")),
        }
    }
}

pub(crate) fn register(context: &Context) -> Option<Running> {
    let informers = &context.informers;
    let budgets = informers.get::<PodDisruptionBudget>();
    let pods = informers.get::<Pod>();
    let (deployments, sets) = (informers.get::<Deployment>(), informers.get::<ReplicaSet>());
    let (stateful, controllers) = (informers.get::<StatefulSet>(), informers.get::<ReplicationController>());

    let mut control = ControlLoop::new(context, "disruption", "disruption-controller");
    control.component("controllermanager");
    control.of(&budgets);
    let all = budgets.store();
    control.on(&pods, move |queue, change| {
        let mut touched = vec![change.object().clone()];
        if let Change::Updated { old, new } = change {
            if !matters(old, new) {
                return;
            }
            touched.push(old.clone());
        }
        for budget in all.list_namespace(change.object().namespace()) {
            if touched.iter().any(|pod| selects(&budget, pod)) {
                queue.add(ObjectKey::of(budget.as_ref()));
            }
        }
    });
    // A workload that changes its size changes what its pods' budgets expect.
    let all = budgets.store();
    control.on(&deployments, move |queue, change| {
        let Change::Updated { old, new } = change else { return };
        let size = |deployment: &Deployment| deployment.spec.as_ref().and_then(|spec| spec.replicas);
        if size(old) != size(new) {
            for budget in all.list_namespace(new.namespace()) {
                queue.add(ObjectKey::of(budget.as_ref()));
            }
        }
    });
    control.needs(&sets);
    control.needs(&stateful);
    control.needs(&controllers);
    let workloads = Workloads {
        deployments: deployments.store(),
        sets: sets.store(),
        stateful: stateful.store(),
        controllers: controllers.store(),
    };
    let (budgets, pods, context) = (budgets.store(), pods.store(), context.clone());
    Some(control.run(move |key, _| {
        let Some(budget) = budgets.get(key) else { return Plan::nothing() };
        let mut selected = pods.list_namespace(budget.namespace());
        selected.retain(|pod| selects(&budget, pod) && !podview::is_terminal(pod));
        let scale = |pod: &Pod, owner: &OwnerReference| workloads.scale(pod, owner);
        reconcile(&budget, &selected, &scale, context.now())
    }))
}
