//! Namespace deletion: empties the namespace by discovery, then finalizes it.

use std::collections::BTreeSet;

use futures::FutureExt;
use futures::StreamExt;
use futures::stream;
use isopod_client::{Change, ObjectKey};
use isopod_reconcile::meta::Meta;
use isopod_reconcile::namespace::{Report, conclude, is_finalized, mark_terminating, order, wants_work};
use isopod_reconcile::plan::{Action, Plan, Resource, Step, Target};
use k8s_openapi::api::core::v1::{Namespace, Pod};

use crate::context::Context;
use crate::control_loop::{ControlLoop, Running};
use crate::discovery::{Served, discover};
use crate::executor::{Executor, Finished, Unobserved};
use crate::request;

/// Resources of one namespace that are emptied at once.
const RESOURCES_IN_FLIGHT: usize = 8;

pub(crate) fn register(context: &Context) -> Option<Running> {
    let namespaces = context.informers.get::<Namespace>();
    let pods = context.informers.get::<Pod>();
    let mut control = ControlLoop::new(context, "namespace", "namespace-controller");
    control.workers(context.config.concurrent_syncs.max(10));
    control.on(&namespaces, |queue, change| {
        if change.object().deleting() && !matches!(change, Change::Deleted(_)) {
            queue.add(change.key());
        }
    });
    let all = namespaces.store();
    control.on(&pods, move |queue, change| {
        // The last pod gone lets the rest go: no need to wait for the estimated time.
        let Change::Deleted(pod) = change else { return };
        if all.find("", pod.namespace()).is_some_and(|namespace| namespace.deleting()) {
            queue.add(ObjectKey::new("", pod.namespace()));
        }
    });
    let context = context.clone();
    Some(control.run_async(move |key, executor| {
        let context = context.clone();
        async move { empty(&key, &executor, &context).await }.boxed()
    }))
}

async fn empty(key: &ObjectKey, executor: &Executor, context: &Context) -> Finished {
    let target =
        Target { resource: Resource::of::<Namespace>(), namespace: None, name: key.name().to_owned() };
    let mut namespace: Namespace = match request::object(executor.client(), &target).await {
        Ok(namespace) => namespace,
        Err(error) if error.is_not_found() => return Finished::default(),
        Err(error) => return Finished::failed(error),
    };
    if !wants_work(&namespace) {
        return Finished::default();
    }
    if let Some(action) = mark_terminating(&namespace) {
        let finished = run(executor, action).await;
        if finished.failure.is_some() {
            return finished;
        }
        namespace = match request::object(executor.client(), &target).await {
            Ok(namespace) => namespace,
            Err(error) if error.is_not_found() => return Finished::default(),
            Err(error) => return Finished::failed(error),
        };
    }
    if is_finalized(&namespace) {
        return Finished::default();
    }
    let report = match content(key.name(), executor, context).await {
        Ok(report) => report,
        Err(error) => return Finished::failed(error),
    };
    executor.run(conclude(&namespace, &report, context.now()), &Unobserved).await
}

async fn run(executor: &Executor, action: Action) -> Finished {
    let mut plan = Plan::nothing();
    plan.push(action);
    executor.run(plan, &Unobserved).await
}

/// One pass over all content: pods first, the rest only once no pod is left.
async fn content(name: &str, executor: &Executor, context: &Context) -> Result<Report, kube::Error> {
    let found = discover(executor.client()).await?;
    let mut report = Report { discovery_failures: found.failures, ..Report::default() };
    let served: Vec<Served> = found
        .resources
        .into_iter()
        .filter(|served| served.namespaced && (served.can("delete") || served.can("deletecollection")))
        .collect();
    let (pods, rest) = order(served.iter().map(|served| served.resource.clone()).collect());
    let of = |resource: &Resource| served.iter().find(|served| served.resource == *resource);
    if let Some(pods) = pods.as_ref().and_then(of) {
        let now = context.now();
        clear(name, pods, executor, now).await.into_report(&mut report);
        if !report.remaining.is_empty() || !report.content_failures.is_empty() {
            return Ok(report);
        }
    }
    // One resource can be served by several groups (events, ingresses): its objects are gone after the first.
    let now = context.now();
    let work: Vec<_> =
        rest.iter().filter_map(of).map(|served| clear(name, served, executor, now).boxed()).collect();
    let results: Vec<Cleared> = stream::iter(work).buffer_unordered(RESOURCES_IN_FLIGHT).collect().await;
    results.into_iter().for_each(|cleared| cleared.into_report(&mut report));
    Ok(report)
}

#[derive(Default)]
struct Cleared {
    failure: Option<String>,
    remaining: Option<(Resource, usize)>,
    finalizers: Vec<String>,
    estimate_seconds: i64,
}

impl Cleared {
    fn into_report(self, report: &mut Report) {
        report.content_failures.extend(self.failure);
        report.remaining.extend(self.remaining);
        for finalizer in self.finalizers {
            *report.finalizers.entry(finalizer).or_default() += 1;
        }
        report.estimate_seconds = report.estimate_seconds.max(self.estimate_seconds);
    }
}

/// Deletes all objects of one resource and looks what is left.
async fn clear(name: &str, served: &Served, executor: &Executor, now: jiff::Timestamp) -> Cleared {
    let target =
        Target { resource: served.resource.clone(), namespace: Some(name.to_owned()), name: String::new() };
    let mut cleared = Cleared::default();
    let client = executor.client();
    let before = match request::metadata_list(client, &target).await {
        Ok(items) => items,
        // The resource may have gone since discovery, with its objects.
        Err(error) if error.is_not_found() || error.code == 405 => return cleared,
        Err(error) => return Cleared { failure: Some(error.message), ..cleared },
    };
    if before.is_empty() {
        return cleared;
    }
    let plan = deletion(&target, served, &before);
    if let Some(failure) = executor.run(plan, &Unobserved).await.failure {
        cleared.failure = Some(failure);
    }
    let left = match request::metadata_list(client, &target).await {
        Ok(items) => items,
        Err(error) if error.is_not_found() => return cleared,
        Err(error) => return Cleared { failure: Some(error.message), ..cleared },
    };
    if left.is_empty() {
        return cleared;
    }
    for meta in &left {
        let names: BTreeSet<String> = meta.finalizers.iter().flatten().cloned().collect();
        cleared.finalizers.extend(names);
        if served.resource.plural == "pods"
            && let Some(at) = &meta.deletion_timestamp
        {
            let seconds = at.0.duration_since(now).as_secs().max(1);
            cleared.estimate_seconds = cleared.estimate_seconds.max(seconds);
        }
    }
    if cleared.finalizers.iter().any(|_| true) && cleared.estimate_seconds == 0 {
        // What finalizers guard takes as long as their owners need; upstream assumes fifteen seconds.
        cleared.estimate_seconds = 15;
    }
    cleared.remaining = Some((served.resource.clone(), left.len()));
    cleared
}

fn deletion(
    target: &Target,
    served: &Served,
    items: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta],
) -> Plan {
    let mut plan = Plan::nothing();
    if served.can("deletecollection") {
        plan.push(Action::delete_collection(target.clone()));
    } else {
        let each = items.iter().filter(|meta| meta.deletion_timestamp.is_none()).map(|meta| {
            let one = Target { name: meta.name.clone().unwrap_or_default(), ..target.clone() };
            Action::delete_at(one, meta.uid.clone())
        });
        plan.steps.push(Step::All(each.collect()));
    }
    plan
}
