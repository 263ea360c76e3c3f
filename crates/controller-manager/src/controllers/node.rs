//! Nodes: pod ranges, health, taints, evictions.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use isopod_client::{Change, ObjectKey};
use isopod_reconcile::meta::Meta;
use isopod_reconcile::node_ipam::{Allocator, Range};
use isopod_reconcile::node_lifecycle::health::Sources;
use isopod_reconcile::node_lifecycle::{Monitor, Settings, eviction, taints};
use isopod_reconcile::plan::Plan;
use isopod_reconcile::pods as podview;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;

use super::{BY_NODE, index_pods_by_node};
use crate::Config;
use crate::context::Context;
use crate::control_loop::{ControlLoop, Running};
use crate::executor::{Executor, Unobserved};

/// Service account of all node controllers.
const ACCOUNT: &str = "node-controller";
/// Namespace of the nodes' Leases.
const LEASES: &str = "kube-node-lease";
/// Nodes written to at once by the monitor.
const NODES_IN_FLIGHT: usize = 16;

fn allocator(config: &Config) -> Allocator {
    let clusters: Vec<(Range, u8)> = config
        .cluster_cidrs
        .iter()
        .map(|net| {
            let mask = if net.addr().is_ipv6() {
                config.node_cidr_mask_size_ipv6
            } else {
                config.node_cidr_mask_size_ipv4
            };
            (Range::new(net.addr(), net.prefix_len()), mask)
        })
        .collect();
    let reserved: Vec<Range> =
        config.service_cidrs.iter().map(|net| Range::new(net.addr(), net.prefix_len())).collect();
    Allocator::new(&clusters, &reserved)
}

pub(crate) fn register_ipam(context: &Context) -> Option<Running> {
    if !context.config.allocate_node_cidrs {
        return None;
    }
    let nodes = context.informers.get::<Node>();
    let ranges = Arc::new(Mutex::new(allocator(&context.config)));
    let mut control = ControlLoop::new(context, "node_ipam", ACCOUNT);
    control.component("cidrAllocator");
    control.workers(1);
    let known = ranges.clone();
    control.on(&nodes, move |queue, change| {
        // All existing ranges are taken before the first worker starts, since workers wait for the first list.
        match change {
            Change::Added(node) => known.lock().occupy(node),
            Change::Deleted(node) => known.lock().release(node),
            Change::Updated { .. } => {}
        }
        queue.add(change.key());
    });
    let nodes = nodes.store();
    Some(control.run(move |key, _| {
        let Some(node) = nodes.get(key) else { return Plan::nothing() };
        let mut plan = ranges.lock().reconcile(&node);
        if plan.actions().next().is_some() {
            let ranges = ranges.clone();
            plan.then = Some(Box::new(move |outcome| {
                if !outcome.failures.is_empty() {
                    ranges.lock().give_back(node.uid());
                }
                Plan::nothing()
            }));
        }
        plan
    }))
}

pub(crate) fn register_lifecycle(context: &Context) -> Option<Running> {
    let nodes = context.informers.get::<Node>();
    let mut control = ControlLoop::new(context, "node_lifecycle_controller", ACCOUNT);
    control.of(&nodes);
    let store = nodes.store();
    let clock = context.clone();
    let taints = control.run(move |key, _| match store.get(key) {
        Some(node) => taints::reconcile(&node, clock.now()),
        None => Plan::nothing(),
    });
    let monitor = monitor(context.clone());
    Some(Box::pin(async move {
        tokio::join!(taints, monitor);
    }))
}

async fn monitor(context: Context) {
    let nodes = context.informers.get::<Node>();
    let pods = context.informers.get::<Pod>();
    let leases = context.informers.get::<Lease>();
    index_pods_by_node(&pods);
    let synced = async {
        tokio::join!(nodes.wait_synced(), pods.wait_synced(), leases.wait_synced());
    };
    tokio::select! {
        () = context.shutdown.cancelled() => return,
        () = synced => {}
    }
    let (nodes, pods, leases) = (nodes.store(), pods.store(), leases.store());
    let executor = Executor::new(context.client(ACCOUNT), "node-controller");
    let seconds = |time: Duration| jiff::SignedDuration::try_from(time).unwrap_or(jiff::SignedDuration::MAX);
    let config = &context.config;
    let mut state = Monitor::new(Settings {
        grace: seconds(config.node_monitor_grace_period),
        startup_grace: seconds(config.node_startup_grace_period),
        eviction_rate: config.node_eviction_rate,
        secondary_eviction_rate: config.secondary_node_eviction_rate,
        large_zone: config.large_cluster_size_threshold,
        unhealthy_threshold: config.unhealthy_zone_threshold,
    });
    let mut ticks = tokio::time::interval(config.node_monitor_period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = context.shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let plans = {
            let lease = |name: &str| leases.find(LEASES, name);
            let on_node = |name: &str| pods.by_index(BY_NODE, name);
            state.pass(&nodes.list(), &Sources { lease: &lease, pods: &on_node }, context.now())
        };
        for batch in chunks(plans, NODES_IN_FLIGHT) {
            let runs: Vec<_> = batch
                .into_iter()
                .map(|(_, plan)| {
                    let executor = &executor;
                    async move { executor.run(plan, &Unobserved).await }.boxed()
                })
                .collect();
            futures::future::join_all(runs).await;
        }
    }
}

fn chunks<T>(items: Vec<T>, size: usize) -> Vec<Vec<T>> {
    let mut out = Vec::new();
    let mut rest = items.into_iter().peekable();
    while rest.peek().is_some() {
        out.push(rest.by_ref().take(size).collect());
    }
    out
}

pub(crate) fn register_eviction(context: &Context) -> Option<Running> {
    let nodes = context.informers.get::<Node>();
    let pods = context.informers.get::<Pod>();
    index_pods_by_node(&pods);
    let mut control = ControlLoop::new(context, "noexec_taint_pod", ACCOUNT);
    control.component("taint-eviction-controller");
    let store = nodes.store();
    let scheduled: Arc<Mutex<HashSet<ObjectKey>>> = Arc::default();
    let announced = scheduled.clone();
    control.on(&pods, move |queue, change| {
        let pod = change.object();
        if matches!(change, Change::Deleted(_)) {
            announced.lock().remove(&change.key());
            return;
        }
        if let Change::Updated { old, new } = change {
            let spec = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.tolerations.clone());
            if podview::node(old) == podview::node(new) && spec(old) == spec(new) {
                return;
            }
        }
        let node = store.find("", podview::node(pod));
        if node.is_some_and(|node| taints::of(&node).iter().any(|taint| taint.effect == "NoExecute")) {
            queue.add(change.key());
        }
    });
    let on_node = pods.store();
    control.on(&nodes, move |queue, change| {
        let no_execute = |node: &Node| -> Vec<_> {
            taints::of(node).iter().filter(|taint| taint.effect == "NoExecute").cloned().collect()
        };
        let changed = match change {
            Change::Added(node) => !no_execute(node).is_empty(),
            Change::Updated { old, new } => no_execute(old) != no_execute(new),
            Change::Deleted(_) => false,
        };
        if changed {
            for pod in on_node.by_index(BY_NODE, change.object().name()) {
                queue.add(ObjectKey::of(pod.as_ref()));
            }
        }
    });
    let (nodes, pods, context) = (nodes.store(), pods.store(), context.clone());
    Some(control.run(move |key, _| {
        let Some(pod) = pods.get(key) else { return Plan::nothing() };
        let Some(node) = nodes.find("", podview::node(&pod)) else { return Plan::nothing() };
        let was_scheduled = scheduled.lock().contains(key);
        let plan = eviction::reconcile(&pod, &node, was_scheduled, context.now());
        if plan.requeue_after.is_some() {
            scheduled.lock().insert(key.clone());
        } else {
            scheduled.lock().remove(key);
        }
        plan
    }))
}
