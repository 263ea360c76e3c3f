//! The pods of this node: one worker each, found by uid.
//!
//! Everything that may concern a pod (the API, the runtime, a changed Secret, eviction) only writes what it
//! wants into [`PodShared`] and wakes the worker, which looks at everything anew. No event carries meaning, so
//! none can be lost or come in the wrong order.

pub(crate) mod launch;
pub(crate) mod mirror;
pub(crate) mod orphans;
pub(crate) mod publish;
pub(crate) mod source;
pub(crate) mod static_pods;
pub(crate) mod steps;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;

use isopod_podplan::{Ending, Observed, spec};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use crate::kubelet::Kubelet;

pub(crate) use mirror::{CONFIG_HASH, CONFIG_MIRROR, CONFIG_SOURCE};

/// What the worker is to bring about.
#[derive(Clone, Debug)]
pub(crate) struct Desired {
    /// The pod as the API or the manifest has it.
    pub(crate) pod: Arc<Pod>,
    /// The API's picture of a static pod.
    pub(crate) mirror: Option<Arc<Pod>>,
    /// Gone from its source: end it.
    pub(crate) removed: bool,
    /// Why the kubelet itself ends it.
    pub(crate) ending: Option<Ending>,
    /// The runtime reported a change.
    pub(crate) stale: bool,
    /// A Secret or ConfigMap of the pod changed, or what the pod shows of itself.
    pub(crate) refresh: bool,
}

/// What others may know of a pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// What the runtime has of it.
    pub(crate) observed: Observed,
    /// Its status as computed last.
    pub(crate) status: PodStatus,
    /// Nothing of it is started again.
    pub(crate) over: bool,
    /// None of its containers runs, and its resources are free.
    pub(crate) stopped: bool,
    /// It passed admission and counts against the node's resources.
    pub(crate) admitted: bool,
}

/// One pod, as its worker and others share it.
pub(crate) struct PodShared {
    pub(crate) uid: String,
    pub(crate) is_static: bool,
    desired: Mutex<Desired>,
    wake: Notify,
    view: RwLock<View>,
}

impl PodShared {
    fn new(pod: Arc<Pod>, is_static: bool) -> Self {
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            is_static,
            desired: Mutex::new(Desired {
                pod,
                mirror: None,
                removed: false,
                ending: None,
                stale: true,
                refresh: false,
            }),
            wake: Notify::new(),
            view: RwLock::default(),
        }
    }

    pub(crate) fn pod(&self) -> Arc<Pod> {
        self.desired.lock().pod.clone()
    }

    pub(crate) fn mirror(&self) -> Option<Arc<Pod>> {
        self.desired.lock().mirror.clone()
    }

    /// The object that the API has for this pod.
    pub(crate) fn api_pod(&self) -> Option<Arc<Pod>> {
        let desired = self.desired.lock();
        if self.is_static { desired.mirror.clone() } else { Some(desired.pod.clone()) }
    }

    pub(crate) fn view(&self) -> View {
        self.view.read().clone()
    }

    /// Changes what is wanted, and wakes the worker.
    pub(crate) fn change(&self, f: impl FnOnce(&mut Desired)) {
        f(&mut self.desired.lock());
        self.wake.notify_one();
    }
}

/// All pods of this node.
pub(crate) struct Pods {
    by_uid: RwLock<HashMap<String, Arc<PodShared>>>,
    /// Held while a pod is admitted, so that two cannot be given the same room.
    admission: Mutex<()>,
    /// Counts changes of any pod's view.
    changed: watch::Sender<u64>,
}

impl Pods {
    pub(crate) fn new() -> Self {
        Self { by_uid: RwLock::default(), admission: Mutex::new(()), changed: watch::channel(0).0 }
    }

    pub(crate) fn get(&self, uid: &str) -> Option<Arc<PodShared>> {
        self.by_uid.read().get(uid).cloned()
    }

    pub(crate) fn list(&self) -> Vec<Arc<PodShared>> {
        self.by_uid.read().values().cloned().collect()
    }

    /// The pod of that name; the newest where an older one is still ending. A static pod is also found by
    /// the uid of its mirror.
    pub(crate) fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Arc<PodShared>> {
        let mut found: Vec<_> = self
            .list()
            .into_iter()
            .filter(|p| {
                let pod = p.pod();
                pod.metadata.name.as_deref() == Some(name)
                    && pod.metadata.namespace.as_deref() == Some(namespace)
            })
            .filter(|p| {
                uid.is_none_or(|uid| {
                    p.uid == uid || p.mirror().is_some_and(|m| m.metadata.uid.as_deref() == Some(uid))
                })
            })
            .collect();
        found.sort_by_key(|p| p.view().over);
        found.into_iter().next()
    }

    /// Told of every change of a pod's view.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn touch(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    fn forget(&self, uid: &str) {
        self.by_uid.write().remove(uid);
        self.touch();
    }

    /// Takes a pod from its source: a new one gets a worker, a known one is updated.
    pub(crate) fn apply(&self, kubelet: &Arc<Kubelet>, pod: Arc<Pod>, is_static: bool) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if let Some(known) = self.get(&uid) {
            known.change(|d| {
                // Volumes of the downward API show them.
                let (new, old) = (&pod.metadata, &d.pod.metadata);
                d.refresh |= new.labels != old.labels || new.annotations != old.annotations;
                d.pod = pod;
                d.removed = false;
            });
            return;
        }
        let shared = Arc::new(PodShared::new(pod, is_static));
        self.by_uid.write().insert(uid, shared.clone());
        tokio::spawn(worker::run(kubelet.clone(), shared));
    }

    /// A pod is gone from its source.
    pub(crate) fn remove(&self, uid: &str, last: Option<Arc<Pod>>) {
        if let Some(known) = self.get(uid) {
            known.change(|d| {
                d.removed = true;
                if let Some(last) = last {
                    d.pod = last;
                }
            });
        }
    }

    /// Pods that hold resources of the node, but for one.
    pub(crate) fn active(&self, but: &str) -> Vec<Arc<Pod>> {
        self.list()
            .iter()
            .filter(|p| p.uid != but)
            .filter(|p| {
                let view = p.view.read();
                view.admitted && !(view.over && view.stopped)
            })
            .map(|p| p.pod())
            .collect()
    }
}

/// Whether the API's pod is the picture of a static pod.
pub(crate) fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(CONFIG_MIRROR))
}

/// Namespace and name, for logs.
pub(crate) fn name_of(pod: &Pod) -> String {
    let m = &pod.metadata;
    format!("{}/{}", m.namespace.as_deref().unwrap_or_default(), m.name.as_deref().unwrap_or_default())
}

/// The pod that counts as running: it has a usable sandbox.
pub(crate) fn runs(p: &PodShared) -> bool {
    p.view.read().observed.active_sandbox().is_some() && !spec::of(&p.pod()).containers.is_empty()
}
