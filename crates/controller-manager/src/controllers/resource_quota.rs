//! ResourceQuotas: what a namespace uses, counted afresh whenever something goes.
//!
//! Admission adds what is created to the status at once; this loop sets it right when objects end or are deleted, and
//! every five minutes in any case. Creations bring a count too, but a little later and many at a time: what was made
//! before a quota was first counted is in no status yet.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use isopod_client::{Change, Informer, ObjectKey, WorkQueue};
use isopod_reconcile::meta::Meta;
use isopod_reconcile::plan::{Action, Plan, Resource, Target, to_value};
use isopod_reconcile::pods as podview;
use isopod_rules::quota;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use serde_json::{Value, json};

use crate::context::Context;
use crate::control_loop::{ControlLoop, Running};
use crate::discovery::discover;
use crate::executor::{Executor, Finished, Unobserved};
use crate::request;

const RESYNC: Duration = Duration::from_secs(300);
/// Creations within this time share one count.
const GATHER: Duration = Duration::from_secs(1);

pub(crate) fn register(context: &Context) -> Option<Running> {
    let quotas = context.informers.get::<ResourceQuota>();
    let pods = context.informers.get::<Pod>();
    let services = context.informers.get::<Service>();
    let claims = context.informers.get::<PersistentVolumeClaim>();
    let mut control = ControlLoop::new(context, "resourcequota_primary", "resourcequota-controller");
    control.on(&quotas, |queue, change| {
        if let Change::Updated { old, new } = change
            && old.spec == new.spec
        {
            return;
        }
        queue.add(change.key());
    });
    let store = quotas.store();
    let wake = move |queue: &WorkQueue<ObjectKey>, namespace: &str, created: bool| {
        for quota in store.list_namespace(namespace) {
            let key = ObjectKey::of(quota.as_ref());
            if created { queue.add_after(key, GATHER) } else { queue.add(key) }
        }
    };
    let wake_pods = wake.clone();
    control.on(&pods, move |queue, change| {
        let counts = match change {
            Change::Added(_) | Change::Deleted(_) => true,
            Change::Updated { old, new } => {
                podview::is_terminal(old) != podview::is_terminal(new)
                    || old.spec.as_ref().map(|s| &s.containers) != new.spec.as_ref().map(|s| &s.containers)
            }
        };
        if counts {
            wake_pods(queue, change.object().namespace(), matches!(change, Change::Added(_)));
        }
    });
    let wake_services = wake.clone();
    control.on(&services, move |queue, change| {
        let counts = match change {
            Change::Added(_) | Change::Deleted(_) => true,
            Change::Updated { old, new } => {
                let kind =
                    |service: &Service| service.spec.as_ref().map(|s| (s.type_.clone(), s.ports.clone()));
                kind(old) != kind(new)
            }
        };
        if counts {
            wake_services(queue, change.object().namespace(), matches!(change, Change::Added(_)));
        }
    });
    control.on(&claims, move |queue, change| {
        wake(queue, change.object().namespace(), matches!(change, Change::Added(_)));
    });
    let sources = Arc::new(Sources { context: context.clone(), quotas, pods, services, claims });
    Some(control.run_async(move |key, executor| {
        let sources = sources.clone();
        async move { sources.count(&key, &executor).await }.boxed()
    }))
}

struct Sources {
    context: Context,
    quotas: Informer<ResourceQuota>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
}

impl Sources {
    async fn count(&self, key: &ObjectKey, executor: &Executor) -> Finished {
        let Some(current) = self.quotas.store().get(key) else { return Finished::default() };
        let value = to_value(current.as_ref());
        let spec = &value["spec"];
        let hard = quota::amounts(&spec["hard"]);
        let counted: BTreeSet<(&str, &str)> =
            hard.keys().filter_map(|name| quota::counted_resource(name)).collect();
        let mut used = quota::Amounts::new();
        for (group, resource) in counted {
            match self.objects(current.namespace(), group, resource).await {
                Ok(objects) => used.extend(quota::total(spec, group, resource, &objects)),
                Err(error) => return Finished::failed(error),
            }
        }
        let old = &value["status"];
        let same = quota::amounts(&old["used"]) == used && quota::amounts(&old["hard"]) == hard;
        let mut plan = Plan::nothing();
        plan.requeue(RESYNC);
        if !same {
            let status = json!({ "hard": spec["hard"], "used": quota::to_value(&used) });
            let mut copy = current.as_ref().clone();
            match serde_json::from_value(status) {
                Ok(status) => copy.status = Some(status),
                Err(error) => return Finished::failed(error),
            }
            plan.push(Action::update_status(&copy));
        }
        executor.run(plan, &Unobserved).await
    }

    /// The namespace's objects of one resource; where only their number counts, as many empty ones.
    async fn objects(&self, namespace: &str, group: &str, resource: &str) -> Result<Vec<Value>, String> {
        Ok(match (group, resource) {
            ("", "pods") => values(&self.pods.store().list_namespace(namespace)),
            ("", "services") => values(&self.services.store().list_namespace(namespace)),
            ("", "persistentvolumeclaims") => values(&self.claims.store().list_namespace(namespace)),
            _ => {
                // Read with the identity that may list everything, as the informers do.
                let client = self.context.informers.client();
                let found = discover(&client).await.map_err(|error| error.to_string())?;
                let served = found
                    .resources
                    .into_iter()
                    .find(|served| served.resource.group == group && served.resource.plural == resource);
                let Some(served) = served else { return Ok(Vec::new()) };
                let resource: Resource = served.resource;
                let target = Target { resource, namespace: Some(namespace.to_owned()), name: String::new() };
                let items = request::metadata_list(&client, &target).await.map_err(|error| error.message)?;
                items.into_iter().map(|meta| json!({ "metadata": meta })).collect()
            }
        })
    }
}

fn values<K: serde::Serialize>(objects: &[Arc<K>]) -> Vec<Value> {
    objects.iter().map(|object| to_value(object.as_ref())).collect()
}
