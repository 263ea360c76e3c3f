//! Jobs, the finalizers of pods whose Job is gone, and the end of finished Jobs.

use std::collections::HashSet;
use std::sync::Arc;

use isopod_client::store::BY_CONTROLLER_UID;
use isopod_client::{Change, ObjectKey};
use isopod_reconcile::job::{TRACKING, View, is_tracked, reconcile, release_orphan};
use isopod_reconcile::labels;
use isopod_reconcile::meta::{Meta, key};
use isopod_reconcile::plan::{Plan, Resource, Write};
use isopod_reconcile::ttl_after_finished;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use super::replicaset::{candidates, index_owners};
use crate::context::Context;
use crate::control_loop::{ControlLoop, Running, owner_key};

/// The pod whose tracking finalizer a write removes.
fn released_pod(write: &Write) -> Option<String> {
    let Write::Patch { target, body, .. } = write else { return None };
    let removed = body.pointer("/metadata/$deleteFromPrimitiveList~1finalizers/0")?;
    let ours = target.resource == Resource::of::<Pod>() && removed == TRACKING;
    ours.then(|| body.pointer("/metadata/uid").and_then(|uid| uid.as_str()).map(str::to_owned)).flatten()
}

pub(crate) fn register_jobs(context: &Context) -> Option<Running> {
    let jobs = context.informers.get::<Job>();
    let pods = context.informers.get::<Pod>();
    index_owners(&pods);
    let mut control = ControlLoop::new(context, "job", "job-controller");
    control.of(&jobs);
    let all = jobs.store();
    control.owns::<Job, Pod>(&pods, move |queue, orphan| {
        for job in all.list_namespace(orphan.namespace()) {
            let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            if selector.is_some_and(|s| !labels::is_empty(s) && labels::matches(s, orphan.labels())) {
                queue.add(ObjectKey::from(key(job.as_ref()).as_str()));
            }
        }
    });
    // Pods whose finalizer was removed but which the cache still shows with it: they must not be counted again.
    let released: Arc<Mutex<HashSet<String>>> = Arc::default();
    let seen = released.clone();
    control.on(&pods, move |_, change| {
        let pod = change.object();
        if matches!(change, Change::Deleted(_)) || !is_tracked(pod) {
            seen.lock().remove(pod.uid());
        }
    });
    let ledger = released.clone();
    control.on_write(move |write, sent| {
        if let Some(uid) = released_pod(write) {
            if sent {
                ledger.lock().insert(uid)
            } else {
                ledger.lock().remove(&uid)
            };
        }
    });
    let orphans = register_orphans(context);
    let (jobs, pods, context) = (jobs.store(), pods.store(), context.clone());
    let main = control.run(move |key, settled| {
        let Some(job) = jobs.get(key) else { return Plan::nothing() };
        let pods = candidates(&pods, job.as_ref());
        let released = {
            let all = released.lock();
            pods.iter().filter(|pod| all.contains(pod.uid())).map(|pod| pod.uid().to_owned()).collect()
        };
        reconcile(&job, View { pods, released, settled }, context.now())
    });
    Some(Box::pin(async move {
        tokio::join!(main, orphans);
    }))
}

/// Pods with the finalizer whose Job is gone: nobody else would let them go.
fn register_orphans(context: &Context) -> Running {
    let jobs = context.informers.get::<Job>();
    let pods = context.informers.get::<Pod>();
    let mut control = ControlLoop::new(context, "job_orphan_pod", "job-controller");
    control.workers(1);
    let known = jobs.store();
    let lost = move |pod: &Pod| {
        is_tracked(pod)
            && match owner_key::<Job, Pod>(pod) {
                Some(key) => known.get(&key).is_none_or(|job| !pod.controlled_by(job.uid())),
                None => pod.controller().is_none(),
            }
    };
    let is_lost = lost.clone();
    control.on(&pods, move |queue, change| {
        if !matches!(change, Change::Deleted(_)) && is_lost(change.object()) {
            queue.add(change.key());
        }
    });
    let owned = pods.store();
    control.on(&jobs, move |queue, change| {
        if let Change::Deleted(job) = change {
            for pod in owned.by_index(BY_CONTROLLER_UID, job.uid()) {
                queue.add(ObjectKey::of(pod.as_ref()));
            }
        }
    });
    let pods = pods.store();
    control.run(move |key, _| match pods.get(key) {
        // An orphan that a Job may still adopt keeps its finalizer until it is known to be lost.
        Some(pod) if lost(&pod) => release_orphan(&pod),
        _ => Plan::nothing(),
    })
}

pub(crate) fn register_ttl(context: &Context) -> Option<Running> {
    let jobs = context.informers.get::<Job>();
    let mut control = ControlLoop::new(context, "ttl_jobs_to_delete", "ttl-after-finished-controller");
    control.on(&jobs, |queue, change| {
        let wants =
            |job: &Job| job.spec.as_ref().is_some_and(|spec| spec.ttl_seconds_after_finished.is_some());
        if !matches!(change, Change::Deleted(_)) && wants(change.object()) {
            queue.add(change.key());
        }
    });
    let (jobs, context) = (jobs.store(), context.clone());
    Some(control.run(move |key, _| match jobs.get(key) {
        Some(job) => ttl_after_finished::reconcile(&job, context.now()),
        None => Plan::nothing(),
    }))
}
