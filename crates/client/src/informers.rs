//! The factory of informers: one watch and one typed copy of a kind per process and scope.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use kube::core::{ApiResource, DynamicObject, NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::informer::Informer;

/// Objects a list request brings at a time.
const PAGE_SIZE: u32 = 500;

/// Which objects of a kind an informer watches; the default is all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Scope {
    namespace: Option<String>,
    fields: Option<String>,
    labels: Option<String>,
}

impl Scope {
    /// Those that a field selector chooses.
    pub fn fields(selector: &str) -> Self {
        Self { fields: Some(selector.to_owned()), ..Self::default() }
    }

    /// Those that a label selector chooses.
    pub fn labels(selector: &str) -> Self {
        Self { labels: Some(selector.to_owned()), ..Self::default() }
    }

    fn watcher_config(&self) -> watcher::Config {
        watcher::Config {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            page_size: Some(PAGE_SIZE),
            ..watcher::Config::default()
        }
    }
}

/// What tells one informer from another: the type, the resource (for types that stand for many) and the scope.
type Slot = (TypeId, String, Scope);

struct Running {
    informer: Box<dyn Any + Send + Sync>,
    stop: CancellationToken,
}

struct Inner {
    client: kube::Client,
    shutdown: CancellationToken,
    running: Mutex<HashMap<Slot, Running>>,
}

/// Hands out informers, starting each at its first use; clones share them.
#[derive(Clone)]
pub struct Informers(Arc<Inner>);

impl Informers {
    /// A factory whose informers list and watch with `client` until `shutdown`.
    pub fn new(client: kube::Client, shutdown: CancellationToken) -> Self {
        Self(Arc::new(Inner { client, shutdown, running: Mutex::default() }))
    }

    /// The client the informers use.
    pub fn client(&self) -> kube::Client {
        self.0.client.clone()
    }

    /// The informer of all objects of `K`.
    pub fn get<K>(&self) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.scoped(Scope::default())
    }

    /// The informer of those objects of `K`, in all namespaces, that are in scope.
    pub fn scoped<K>(&self, scope: Scope) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.shared(String::new(), scope, |client, scope, stop| {
            Informer::spawn(watcher(Api::all(client), scope.watcher_config()), slim, stop)
        })
    }

    /// The informer of those objects of `K` that are in one namespace and in scope.
    pub fn namespaced<K>(&self, namespace: &str, scope: Scope) -> Informer<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
    {
        let scope = Scope { namespace: Some(namespace.to_owned()), ..scope };
        self.shared(String::new(), scope, |client, scope, stop| {
            Informer::spawn(watcher(Api::namespaced(client, namespace), scope.watcher_config()), slim, stop)
        })
    }

    /// The informer of a resource known only at run time, with whole objects, in all namespaces.
    pub fn dynamic(&self, resource: &ApiResource, scope: Scope) -> Informer<DynamicObject> {
        self.shared(slot_name(resource), scope, |client, scope, stop| {
            Informer::spawn(watcher(Api::all_with(client, resource), scope.watcher_config()), slim, stop)
        })
    }

    /// The informer of a resource's metadata alone, without annotations: what garbage collection and counting
    /// need, at a fraction of the memory.
    pub fn metadata(
        &self,
        resource: &ApiResource,
        scope: Scope,
    ) -> Informer<PartialObjectMeta<DynamicObject>> {
        self.shared(slot_name(resource), scope, |client, scope, stop| {
            let api = Api::<PartialObjectMeta<DynamicObject>>::all_with(client, resource);
            Informer::spawn(watcher(api, scope.watcher_config()), slim_metadata, stop)
        })
    }

    /// Forgets and stops the metadata informer of a resource that is no longer served.
    pub fn stop_metadata(&self, resource: &ApiResource, scope: &Scope) {
        let slot = (TypeId::of::<PartialObjectMeta<DynamicObject>>(), slot_name(resource), scope.clone());
        if let Some(running) = self.0.running.lock().remove(&slot) {
            running.stop.cancel();
        }
    }

    fn shared<K: Send + Sync + 'static>(
        &self,
        resource: String,
        scope: Scope,
        start: impl FnOnce(kube::Client, &Scope, CancellationToken) -> Informer<K>,
    ) -> Informer<K> {
        let slot = (TypeId::of::<K>(), resource, scope);
        let mut running = self.0.running.lock();
        if let Some(running) = running.get(&slot) {
            return running
                .informer
                .downcast_ref::<Informer<K>>()
                .expect("the slot holds the type's id")
                .clone();
        }
        let stop = self.0.shutdown.child_token();
        let informer = start(self.0.client.clone(), &slot.2, stop.clone());
        running.insert(slot, Running { informer: Box::new(informer.clone()), stop });
        informer
    }
}

fn slot_name(resource: &ApiResource) -> String {
    format!("{}/{}", resource.api_version, resource.plural)
}

/// Field ownership is the largest part of many objects and no component reads it.
fn slim<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

fn slim_metadata(object: &mut PartialObjectMeta<DynamicObject>) {
    object.metadata.managed_fields = None;
    object.metadata.annotations = None;
}
