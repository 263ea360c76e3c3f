//! ClusterRoles that are the sum of others.

use isopod_client::ObjectKey;
use isopod_reconcile::meta::Meta;
use isopod_reconcile::plan::{Action, PatchKind, Plan, Target, to_value};
use isopod_rules::rbac::aggregate::aggregated_rules;
use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::{Value, json};

use crate::context::Context;
use crate::control_loop::{ControlLoop, Running};

pub(crate) fn register(context: &Context) -> Option<Running> {
    let roles = context.informers.get::<ClusterRole>();
    let mut control =
        ControlLoop::new(context, "ClusterRoleAggregator", "clusterrole-aggregation-controller");
    control.workers(1);
    let all = roles.store();
    control.on(&roles, move |queue, _| {
        // Any role may be a part of any sum; there are few sums.
        all.for_each(|role| {
            if role.aggregation_rule.is_some() {
                queue.add(ObjectKey::new("", role.name()));
            }
        });
    });
    let roles = roles.store();
    Some(control.run(move |key, _| {
        let mut plan = Plan::nothing();
        let Some(role) = roles.get(key).filter(|role| !role.deleting()) else { return plan };
        let all: Vec<Value> = roles.list().iter().map(|role| to_value(role.as_ref())).collect();
        if let Some(rules) = aggregated_rules(&to_value(role.as_ref()), &all) {
            let body =
                json!({ "metadata": { "resourceVersion": role.metadata.resource_version }, "rules": rules });
            plan.push(Action::patch(Target::of(role.as_ref()), PatchKind::Merge, body));
        }
        plan
    }))
}
