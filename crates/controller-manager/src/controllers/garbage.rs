//! The garbage collector: informers of every deletable resource feed the graph; workers look and delete.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use isopod_client::{Change, Informer, Scope, WorkQueue};
use isopod_reconcile::garbage::{
    Graph, Id, Latest, Observed, OwnerState, Wants, break_circle, decide, orphan, unblock,
};
use isopod_reconcile::plan::{Action, Plan, Resource, Step, Target};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::ApiResource;
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tracing::{debug, warn};

use crate::context::Context;
use crate::control_loop::Running;
use crate::discovery::{Discovered, Served, discover};
use crate::executor::{Executor, Unobserved};
use crate::request;

const NAME: &str = "generic-garbage-collector";
/// How often discovery is asked even if no definition changed.
const REDISCOVER: Duration = Duration::from_secs(300);
/// Definitions often come in numbers; wait for the last of them.
const SETTLE: Duration = Duration::from_secs(1);
/// Owners remembered as absent.
const ABSENT_MAX: usize = 500;

#[derive(Default)]
struct Absent {
    order: VecDeque<(String, String)>,
    known: BTreeSet<(String, String)>,
}

impl Absent {
    fn insert(&mut self, key: (String, String)) {
        if self.known.insert(key.clone()) {
            self.order.push_back(key);
            if self.order.len() > ABSENT_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }
}

struct Collector {
    graph: Mutex<Graph>,
    delete: WorkQueue<String>,
    orphan: WorkQueue<String>,
    absent: Mutex<Absent>,
    /// (apiVersion, kind) → resource.
    kinds: RwLock<HashMap<(String, String), Served>>,
    executor: Executor,
    rediscover: Notify,
}

pub(crate) fn register(context: &Context) -> Option<Running> {
    let context = context.clone();
    Some(Box::pin(async move {
        let collector = Arc::new(Collector {
            graph: Mutex::default(),
            delete: WorkQueue::new("garbage_collector_attempt_to_delete"),
            orphan: WorkQueue::new("garbage_collector_attempt_to_orphan"),
            absent: Mutex::default(),
            kinds: RwLock::default(),
            executor: Executor::new(context.client(NAME), NAME),
            rediscover: Notify::new(),
        });
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(follow_discovery(collector.clone(), context.clone()));
        for _ in 0..context.config.concurrent_gc_syncs {
            tasks.spawn(collector.clone().delete_worker());
            tasks.spawn(collector.clone().orphan_worker());
        }
        context.shutdown.cancelled().await;
        collector.delete.shut_down();
        collector.orphan.shut_down();
        tasks.shutdown().await;
    }))
}

/// Starts and stops watches as resources come and go.
async fn follow_discovery(collector: Arc<Collector>, context: Context) {
    let mut watched: BTreeMap<Resource, Served> = BTreeMap::new();
    let mut pause = Duration::from_millis(50);
    loop {
        match discover(collector.executor.client()).await {
            Ok(found) => {
                pause = REDISCOVER;
                update_watches(&collector, &context, found, &mut watched);
            }
            Err(error) => {
                debug!(%error, "discovery for the garbage collector");
                pause = if pause >= REDISCOVER { SETTLE } else { (pause * 2).min(Duration::from_secs(10)) };
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = collector.rediscover.notified() => tokio::time::sleep(SETTLE).await,
        }
    }
}

fn update_watches(
    collector: &Arc<Collector>,
    context: &Context,
    found: Discovered,
    watched: &mut BTreeMap<Resource, Served>,
) {
    let complete = found.failures.is_empty();
    let wanted: BTreeMap<Resource, Served> = found
        .resources
        .iter()
        .filter(|served| served.can("delete") && served.can("list") && served.can("watch"))
        // Events own nothing and are owned by nothing.
        .filter(|served| served.resource.plural != "events")
        .map(|served| (served.resource.clone(), served.clone()))
        .collect();
    {
        let mut kinds = collector.kinds.write();
        if complete {
            kinds.clear();
        }
        for served in found.resources {
            kinds.insert((served.api_version(), served.kind.clone()), served);
        }
    }
    let gone: Vec<Resource> = watched.keys().filter(|have| !wanted.contains_key(have)).cloned().collect();
    for resource in gone.into_iter().filter(|_| complete) {
        if let Some(served) = watched.remove(&resource) {
            context.informers.stop_metadata(&api_resource(&served), &Scope::default());
        }
    }
    for (resource, served) in wanted {
        watched.entry(resource).or_insert_with(|| {
            watch(collector, context, &served);
            served
        });
    }
}

fn api_resource(served: &Served) -> ApiResource {
    ApiResource {
        group: served.resource.group.clone(),
        version: served.resource.version.clone(),
        api_version: served.api_version(),
        kind: served.kind.clone(),
        plural: served.resource.plural.clone(),
    }
}

/// Kinds that other loops hold whole are taken from there; of all others only the metadata is kept.
fn watch(collector: &Arc<Collector>, context: &Context, served: &Served) {
    use k8s_openapi::api::{apps::v1 as apps, batch::v1 as batch, coordination::v1 as coordination};
    use k8s_openapi::api::{
        core::v1 as core, discovery::v1 as discovery, policy::v1 as policy, rbac::v1 as rbac,
    };
    macro_rules! typed {
        ($($kind:ty),* $(,)?) => {$(
            if served.resource == Resource::of::<$kind>() {
                return feed(collector, &context.informers.get::<$kind>(), served);
            }
        )*};
    }
    typed!(
        core::Pod,
        core::Service,
        core::Endpoints,
        core::Node,
        core::Namespace,
        core::ServiceAccount,
        core::ReplicationController,
        core::PersistentVolumeClaim,
        core::ResourceQuota,
        rbac::ClusterRole,
        apps::ReplicaSet,
        apps::Deployment,
        apps::DaemonSet,
        apps::StatefulSet,
        apps::ControllerRevision,
        batch::Job,
        batch::CronJob,
        coordination::Lease,
        discovery::EndpointSlice,
        policy::PodDisruptionBudget,
    );
    let informer = context.informers.metadata(&api_resource(served), Scope::default());
    if matches!(served.resource.plural.as_str(), "customresourcedefinitions" | "apiservices") {
        let weak = Arc::downgrade(collector);
        informer.on_change(move |_| {
            if let Some(collector) = weak.upgrade() {
                collector.rediscover.notify_one();
            }
        });
    }
    feed(collector, &informer, served);
}

fn feed<K>(collector: &Arc<Collector>, informer: &Informer<K>, served: &Served)
where
    K: kube::Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (weak, api_version, kind) = (Arc::downgrade(collector), served.api_version(), served.kind.clone());
    informer.on_change(move |change| {
        let Some(collector) = weak.upgrade() else { return };
        let meta = change.object().meta();
        let wants = match change {
            Change::Deleted(_) => {
                let uid = meta.uid.as_deref().unwrap_or_default();
                let key = (uid.to_owned(), meta.namespace.clone().unwrap_or_default());
                let wants = collector.graph.lock().remove(uid);
                if !wants.delete.is_empty() {
                    collector.absent.lock().insert(key);
                }
                wants
            }
            Change::Updated { old, .. } if same(old.meta(), meta) => return,
            _ => collector.graph.lock().observe(&Observed { api_version: &api_version, kind: &kind, meta }),
        };
        collector.enqueue(wants);
    });
}

/// Whether a change means nothing to the graph.
fn same(old: &ObjectMeta, new: &ObjectMeta) -> bool {
    old.owner_references == new.owner_references
        && old.finalizers == new.finalizers
        && old.deletion_timestamp == new.deletion_timestamp
        && old.uid == new.uid
}

impl Collector {
    fn enqueue(&self, wants: Wants) {
        wants.delete.into_iter().for_each(|uid| self.delete.add(uid));
        wants.orphan.into_iter().for_each(|uid| self.orphan.add(uid));
    }

    async fn delete_worker(self: Arc<Self>) {
        while let Some(uid) = self.delete.get().await {
            self.settle(&self.delete, &uid, self.attempt_delete(&uid).await);
        }
    }

    async fn orphan_worker(self: Arc<Self>) {
        while let Some(uid) = self.orphan.get().await {
            self.settle(&self.orphan, &uid, self.attempt_orphan(&uid).await);
        }
    }

    fn settle(&self, queue: &WorkQueue<String>, uid: &String, result: Result<(), String>) {
        match result {
            Ok(()) => queue.forget(uid),
            Err(error) => {
                debug!(uid, error, "garbage collection will try again");
                queue.add_rate_limited(uid.clone());
            }
        }
        queue.done(uid);
    }

    /// Where objects of a kind live; an error if nobody serves it (now).
    fn target(&self, id: &Id) -> Result<Target, String> {
        let kinds = self.kinds.read();
        let served = kinds.get(&(id.api_version.clone(), id.kind.clone())).cloned();
        drop(kinds);
        let served = match served {
            Some(served) => served,
            // Another version of the same kind does as well.
            None => {
                let group = id.api_version.split_once('/').map_or("", |(group, _)| group);
                let kinds = self.kinds.read();
                let found = kinds.values().find(|s| s.resource.group == group && s.kind == id.kind).cloned();
                drop(kinds);
                found.ok_or_else(|| {
                    format!("no matches for kind \"{}\" in version \"{}\"", id.kind, id.api_version)
                })?
            }
        };
        if served.namespaced && id.namespace.is_empty() {
            return Err(format!("cluster-scoped dependent of namespaced {} {}", id.kind, id.name));
        }
        Ok(Target {
            namespace: served.namespaced.then(|| id.namespace.clone()),
            resource: served.resource,
            name: id.name.clone(),
        })
    }

    async fn read(&self, id: &Id) -> Result<Option<Latest>, String> {
        let target = self.target(id)?;
        match request::metadata(self.executor.client(), &target).await {
            Ok(meta) if meta.uid.as_deref() == Some(id.uid.as_str()) => Ok(Some(Latest { target, meta })),
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.message),
        }
    }

    async fn run(&self, action: Action) -> Result<(), String> {
        let mut plan = Plan::nothing();
        plan.push(action);
        self.executor.run(plan, &Unobserved).await.failure.map_or(Ok(()), Err)
    }

    async fn attempt_delete(&self, uid: &str) -> Result<(), String> {
        let known = {
            let graph = self.graph.lock();
            graph
                .needs_look(uid)
                .then(|| graph.id(uid).cloned())
                .flatten()
                .map(|id| (id, graph.is_virtual(uid), graph.deletes_dependents(uid)))
        };
        let Some((id, is_virtual, waiting)) = known else { return Ok(()) };
        let Some(latest) = self.read(&id).await? else {
            let wants = self.graph.lock().absent(uid);
            self.absent.lock().insert((uid.to_owned(), id.namespace.clone()));
            self.enqueue(wants);
            return Ok(());
        };
        if waiting {
            return self.finish_foreground(uid, &latest).await;
        }
        let mut owners = Vec::new();
        for owner in latest.meta.owner_references.iter().flatten() {
            owners.push(self.owner_state(owner, &id.namespace).await?);
        }
        let dependents = self.graph.lock().dependents(uid);
        let circle = owners.contains(&OwnerState::Waiting)
            && dependents.iter().any(|dependent| self.graph.lock().deletes_dependents(&dependent.uid));
        if circle {
            self.run(break_circle(&latest)).await?;
            return Err("broke a circle of owners".to_owned());
        }
        if let Some(action) = decide(&latest, &owners, dependents.len()) {
            return self.run(action).await;
        }
        if is_virtual {
            // It lives, but no informer has shown it: look again, lest the node stays for ever.
            return Err("not seen by an informer yet".to_owned());
        }
        Ok(())
    }

    /// An owner that waits for its dependents: lets it go when none blocks it any more.
    async fn finish_foreground(&self, uid: &str, latest: &Latest) -> Result<(), String> {
        let blocking = self.graph.lock().blocking(uid);
        if blocking.is_empty() {
            return match unblock(latest) {
                Some(action) => self.run(action).await,
                None => Ok(()),
            };
        }
        for dependent in blocking {
            if !self.graph.lock().deletes_dependents(&dependent) {
                self.delete.add(dependent);
            }
        }
        Ok(())
    }

    async fn owner_state(&self, owner: &OwnerReference, namespace: &str) -> Result<OwnerState, String> {
        let key = (owner.uid.clone(), namespace.to_owned());
        if self.absent.lock().known.contains(&key) {
            return Ok(OwnerState::Absent);
        }
        let id = Id {
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
            namespace: namespace.to_owned(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        };
        let Some(latest) = self.read(&id).await? else {
            self.absent.lock().insert(key);
            return Ok(OwnerState::Absent);
        };
        let foreground = latest
            .meta
            .finalizers
            .iter()
            .flatten()
            .any(|finalizer| finalizer == isopod_reconcile::garbage::FOREGROUND);
        let waiting = latest.meta.deletion_timestamp.is_some() && foreground;
        Ok(if waiting { OwnerState::Waiting } else { OwnerState::Solid })
    }

    async fn attempt_orphan(&self, uid: &str) -> Result<(), String> {
        let (id, dependents) = {
            let graph = self.graph.lock();
            let Some(id) = graph.id(uid).cloned() else { return Ok(()) };
            (id, graph.dependents(uid))
        };
        let Some(owner) = self.read(&id).await? else { return Ok(()) };
        let mut latest = Vec::new();
        for dependent in dependents {
            latest.extend(self.read(&dependent).await?);
        }
        let (cut, release) = orphan(&owner, &latest);
        let mut plan = Plan::nothing();
        if !cut.is_empty() {
            plan.steps.push(Step::All(cut));
        }
        plan.steps.extend(release.map(Step::One));
        let finished = self.executor.run(plan, &Unobserved).await;
        if let Some(failure) = finished.failure {
            warn!(uid, failure, "orphaning dependents");
            return Err(failure);
        }
        Ok(())
    }
}
