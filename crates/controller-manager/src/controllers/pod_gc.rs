//! The pod garbage collector: a look over all pods in memory every 20 seconds.

use std::collections::BTreeMap;
use std::time::Duration;

use isopod_reconcile::meta::Meta;
use isopod_reconcile::plan::{Resource, Target};
use isopod_reconcile::pod_gc::{Missing, orphaned, pass};
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::context::Context;
use crate::control_loop::Running;
use crate::executor::{Executor, Unobserved};
use crate::request;

const PERIOD: Duration = Duration::from_secs(20);

pub(crate) fn register(context: &Context) -> Option<Running> {
    let context = context.clone();
    Some(Box::pin(async move {
        let shutdown = context.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = run(context) => {}
        }
    }))
}

async fn run(context: Context) {
    let pods = context.informers.get::<Pod>();
    let nodes = context.informers.get::<Node>();
    tokio::join!(pods.wait_synced(), nodes.wait_synced());
    let (pods, nodes) = (pods.store(), nodes.store());
    let executor = Executor::new(context.client("pod-garbage-collector"), "pod-garbage-collector");
    let mut missing = Missing::default();
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let all = pods.list();
        let by_name: BTreeMap<String, _> =
            nodes.list().into_iter().map(|node| (node.name().to_owned(), node)).collect();
        let threshold = context.config.terminated_pod_gc_threshold;
        let found = pass(&all, &by_name, threshold, &mut missing, context.now());
        executor.run(found.plan, &Unobserved).await;
        for name in found.suspects {
            let target = Target { resource: Resource::of::<Node>(), namespace: None, name: name.clone() };
            let absent = request::metadata(executor.client(), &target).await;
            if absent.is_err_and(|error| error.is_not_found()) {
                executor.run(orphaned(&all, &name, context.now()), &Unobserved).await;
            }
        }
    }
}
