//! A control loop: informers fill a queue of keys, workers reconcile them, the executor applies the plans.

use std::collections::HashSet;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;
use isopod_client::{Change, Expectations, Informer, ObjectKey, WorkQueue};
use isopod_reconcile::meta::Meta;
use isopod_reconcile::plan::{Object, Plan, Resource, Write};
use tracing::{debug, error};

use crate::context::Context;
use crate::executor::{Executor, Finished, Observer};
use crate::metrics;

type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;
/// A loop that runs until shutdown.
pub(crate) type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A control loop under construction.
pub(crate) struct ControlLoop {
    name: &'static str,
    account: &'static str,
    component: &'static str,
    pub(crate) queue: WorkQueue<ObjectKey>,
    expectations: Arc<Expectations<ObjectKey>>,
    owned: HashSet<Resource>,
    synced: Vec<Wait>,
    context: Context,
    workers: usize,
    on_write: Option<OnWrite>,
}

/// Told of each write before it is sent (`true`), and when it failed (`false`).
type OnWrite = Box<dyn Fn(&Write, bool) + Send + Sync>;

impl ControlLoop {
    /// `queue` is upstream's name of the queue, which metrics show; `account` the service account in kube-system,
    /// which is the source of events too unless told otherwise.
    pub(crate) fn new(context: &Context, queue: &'static str, account: &'static str) -> Self {
        Self {
            name: queue,
            account,
            component: account,
            queue: WorkQueue::new(queue),
            expectations: Arc::default(),
            owned: HashSet::new(),
            synced: Vec::new(),
            workers: context.config.concurrent_syncs,
            context: context.clone(),
            on_write: None,
        }
    }

    /// The source of events, where upstream's is not named like the account.
    pub(crate) fn component(&mut self, component: &'static str) {
        self.component = component;
    }

    pub(crate) fn workers(&mut self, workers: usize) {
        self.workers = workers;
    }

    /// Lets the controller keep account of its own writes.
    pub(crate) fn on_write(&mut self, hook: impl Fn(&Write, bool) + Send + Sync + 'static) {
        self.on_write = Some(Box::new(hook));
    }

    /// The loop starts only once this informer has its first list.
    pub(crate) fn needs<K: Send + Sync + 'static>(&mut self, informer: &Informer<K>) {
        let informer = informer.clone();
        self.synced.push(Box::pin(async move { informer.wait_synced().await }));
    }

    /// Calls `react` for every change.
    pub(crate) fn on<K>(
        &mut self,
        informer: &Informer<K>,
        react: impl Fn(&WorkQueue<ObjectKey>, &Change<K>) + Send + Sync + 'static,
    ) where
        K: kube::Resource + Send + Sync + 'static,
    {
        self.needs(informer);
        let queue = self.queue.clone();
        informer.on_change(move |change| react(&queue, change));
    }

    /// Works on the objects of this kind themselves.
    pub(crate) fn of<K>(&mut self, informer: &Informer<K>)
    where
        K: kube::Resource + Object + Send + Sync + 'static,
    {
        let expectations = self.expectations.clone();
        self.on(informer, move |queue, change| {
            let key = change.key();
            if matches!(change, Change::Deleted(_)) {
                expectations.forget(&key);
            }
            queue.add(key);
        });
    }

    /// Works on the owner (of kind `O`) of objects of this kind. Creations and deletions of owned objects by plans
    /// of this loop must be seen in the cache before the owner counts as settled.
    pub(crate) fn owns<O, K>(
        &mut self,
        informer: &Informer<K>,
        orphan: impl Fn(&WorkQueue<ObjectKey>, &K) + Send + Sync + 'static,
    ) where
        O: k8s_openapi::Resource,
        K: kube::Resource + Object + Send + Sync + 'static,
    {
        self.owned.insert(Resource::of::<K>());
        let expectations = self.expectations.clone();
        self.on(informer, move |queue, change| {
            let object = change.object();
            if let Change::Updated { old, new } = change {
                let (was, is) = (owner_key::<O, K>(old), owner_key::<O, K>(new));
                if was != is
                    && let Some(was) = was
                {
                    queue.add(was);
                }
            }
            let Some(key) = owner_key::<O, K>(object) else {
                if object.controller().is_none() && !matches!(change, Change::Deleted(_)) {
                    orphan(queue, object);
                }
                return;
            };
            match change {
                Change::Added(_) if !object.deleting() => expectations.creation_observed(&key),
                Change::Updated { .. } if !object.deleting() => {}
                _ => expectations.deletion_observed(&key, object.uid()),
            }
            queue.add(key);
        });
    }

    /// The finished loop of a controller that must read from the API server while it decides.
    pub(crate) fn run_async(
        self,
        work: impl Fn(ObjectKey, Arc<Executor>) -> BoxFuture<'static, Finished> + Send + Sync + 'static,
    ) -> Running {
        self.start(Work::Async(Box::new(work)))
    }

    /// The finished loop: `reconcile` turns a key into a plan; its second argument says whether the cache has caught
    /// up with the loop's own writes for the key.
    pub(crate) fn run(self, reconcile: impl Fn(&ObjectKey, bool) -> Plan + Send + Sync + 'static) -> Running {
        self.start(Work::Pure(Box::new(reconcile)))
    }

    fn start(self, work: Work) -> Running {
        let executor = Arc::new(Executor::new(self.context.client(self.account), self.component));
        let worker = Arc::new(Worker {
            name: self.name,
            queue: self.queue,
            expectations: self.expectations,
            owned: self.owned,
            on_write: self.on_write,
            executor,
            work,
        });
        let (shutdown, workers) = (self.context.shutdown.clone(), self.workers);
        Box::pin(async move {
            let ready = futures::future::join_all(self.synced);
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ready => {}
            }
            debug!(controller = worker.name, "caches synced");
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..workers {
                tasks.spawn(worker.clone().run());
            }
            shutdown.cancelled().await;
            worker.queue.shut_down();
            tasks.shutdown().await;
        })
    }
}

/// The key of the controlling owner, if that is of kind `O`.
pub(crate) fn owner_key<O: k8s_openapi::Resource, K: Object>(object: &K) -> Option<ObjectKey> {
    let owner = object.controller()?;
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    (owner.kind == O::KIND && group == O::GROUP).then(|| ObjectKey::new(object.namespace(), &owner.name))
}

enum Work {
    Pure(Box<Reconcile>),
    Async(Box<Perform>),
}

type Reconcile = dyn Fn(&ObjectKey, bool) -> Plan + Send + Sync;
type Perform = dyn Fn(ObjectKey, Arc<Executor>) -> BoxFuture<'static, Finished> + Send + Sync;

struct Worker {
    name: &'static str,
    queue: WorkQueue<ObjectKey>,
    expectations: Arc<Expectations<ObjectKey>>,
    owned: HashSet<Resource>,
    on_write: Option<OnWrite>,
    executor: Arc<Executor>,
    work: Work,
}

impl Worker {
    async fn run(self: Arc<Self>) {
        while let Some(key) = self.queue.get().await {
            let started = Instant::now();
            let failure = self.process(&key).await;
            metrics::observe(self.name, started.elapsed(), failure.is_some());
            match failure {
                Some(failure) => {
                    debug!(controller = self.name, %key, failure, "will try again");
                    self.queue.add_rate_limited(key.clone());
                }
                None => self.queue.forget(&key),
            }
            self.queue.done(&key);
        }
    }

    async fn process(&self, key: &ObjectKey) -> Option<String> {
        // A fault in one object's pass must not end the loop for all others.
        let Ok(finished) = AssertUnwindSafe(self.finish(key)).catch_unwind().await else {
            error!(controller = self.name, %key, "reconcile panicked");
            return Some("panic".to_owned());
        };
        if let Some(after) = finished.requeue_after {
            self.queue.add_after(key.clone(), after);
        }
        finished.failure
    }

    async fn finish(&self, key: &ObjectKey) -> Finished {
        match &self.work {
            Work::Pure(reconcile) => {
                let plan = reconcile(key, self.expectations.satisfied(key));
                self.executor.run(plan, &Ledger { worker: self, key }).await
            }
            Work::Async(work) => work(key.clone(), self.executor.clone()).await,
        }
    }
}

/// Keeps the expectations of one key.
struct Ledger<'a> {
    worker: &'a Worker,
    key: &'a ObjectKey,
}

impl Observer for Ledger<'_> {
    fn starting(&self, plan: &Plan) {
        if let Some(hook) = &self.worker.on_write {
            plan.actions().for_each(|action| hook(&action.write, true));
        }
        let (mut creations, mut deletions) = (0, Vec::new());
        for action in plan.actions().filter(|a| self.worker.owned.contains(&a.write.target().resource)) {
            match &action.write {
                Write::Create { .. } => creations += 1,
                Write::Delete { uid: Some(uid), .. } => deletions.push(uid.clone()),
                _ => {}
            }
        }
        if creations > 0 || !deletions.is_empty() {
            self.worker.expectations.expect(self.key.clone(), creations, deletions);
        }
    }

    fn fell_through(&self, write: &Write) {
        if let Some(hook) = &self.worker.on_write {
            hook(write, false);
        }
        if !self.worker.owned.contains(&write.target().resource) {
            return;
        }
        match write {
            Write::Create { .. } => self.worker.expectations.creation_observed(self.key),
            Write::Delete { uid: Some(uid), .. } => {
                self.worker.expectations.deletion_observed(self.key, uid);
            }
            _ => {}
        }
    }
}
