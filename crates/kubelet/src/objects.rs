//! ConfigMaps and Secrets that pods on this node refer to, one watch an object, as long as a pod refers to it.
//!
//! One watch each, since that is all that a node may read (the Node authoriser), and since it brings changes
//! to running pods without polling. An immutable object is watched no further once it was read.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// How long a reader waits for the first answer of the API server.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What may be referred to.
pub(crate) trait Referable:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    fn immutable(&self) -> bool;
}

impl Referable for ConfigMap {
    fn immutable(&self) -> bool {
        self.immutable == Some(true)
    }
}

impl Referable for Secret {
    fn immutable(&self) -> bool {
        self.immutable == Some(true)
    }
}

#[derive(Clone, Debug)]
enum State<K> {
    /// No answer yet.
    Unknown,
    Missing,
    Present(Arc<K>),
    /// The API server refuses or cannot be reached.
    Failed(String),
}

/// Why an object could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("{kind} {name:?} not found")]
    NotFound { kind: String, name: String },
    #[error("{0}")]
    Failed(String),
}

type Key = (String, String);

struct Entry<K> {
    state: watch::Receiver<State<K>>,
    users: BTreeSet<String>,
    task: AbortHandle,
}

/// Called with the uid of each pod that refers to an object that changed.
pub(crate) type OnChange = Arc<dyn Fn(&str) + Send + Sync>;

type Entries<K> = Arc<Mutex<HashMap<Key, Entry<K>>>>;

/// All referred objects of one kind.
pub(crate) struct Objects<K> {
    client: kube::Client,
    entries: Entries<K>,
    on_change: OnChange,
}

impl<K: Referable> Objects<K> {
    pub(crate) fn new(client: kube::Client, on_change: OnChange) -> Self {
        Self { client, entries: Arc::default(), on_change }
    }

    /// The object, waiting for the first answer if it was not referred to before. The pod `uid` is told of
    /// changes from now on, until [`Objects::release`].
    pub(crate) async fn get(&self, uid: &str, namespace: &str, name: &str) -> Result<Arc<K>, ReadError> {
        let mut state = self.refer(uid, namespace, name);
        let kind = K::kind(&()).to_lowercase();
        let known = state.wait_for(|s| !matches!(s, State::Unknown));
        let found = match tokio::time::timeout(FIRST_ANSWER, known).await {
            Ok(Ok(state)) => state.clone(),
            _ => State::Failed(format!("{kind} {namespace}/{name}: no answer from the API server")),
        };
        match found {
            State::Present(object) => Ok(object),
            State::Missing | State::Unknown => Err(ReadError::NotFound { kind, name: name.to_owned() }),
            State::Failed(text) => Err(ReadError::Failed(text)),
        }
    }

    fn refer(&self, uid: &str, namespace: &str, name: &str) -> watch::Receiver<State<K>> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut entries = self.entries.lock();
        let entry = entries.entry(key.clone()).or_insert_with(|| {
            let (tx, state) = watch::channel(State::Unknown);
            let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
            let task = follow(api, key, tx, Arc::downgrade(&self.entries), self.on_change.clone());
            Entry { state, users: BTreeSet::new(), task: tokio::spawn(task).abort_handle() }
        });
        entry.users.insert(uid.to_owned());
        entry.state.clone()
    }

    /// Forgets what the pod referred to.
    pub(crate) fn release(&self, uid: &str) {
        self.entries.lock().retain(|_, entry| {
            entry.users.remove(uid);
            if entry.users.is_empty() {
                entry.task.abort();
            }
            !entry.users.is_empty()
        });
    }
}

async fn follow<K: Referable>(
    api: Api<K>,
    key: Key,
    state: watch::Sender<State<K>>,
    entries: std::sync::Weak<Mutex<HashMap<Key, Entry<K>>>>,
    on_change: OnChange,
) {
    let config = watcher::Config::default().fields(&format!("metadata.name={}", key.1));
    let mut stream = std::pin::pin!(watcher::watcher(api, config));
    let mut pause = RETRY_MIN;
    let mut listed = None;
    while let Some(event) = stream.next().await {
        let new = match event {
            Ok(Event::Init) => {
                listed = None;
                continue;
            }
            Ok(Event::InitApply(object)) => {
                listed = Some(Arc::new(object));
                continue;
            }
            Ok(Event::InitDone) => listed.take().map_or(State::Missing, State::Present),
            Ok(Event::Apply(object)) => State::Present(Arc::new(object)),
            Ok(Event::Delete(_)) => State::Missing,
            Err(error) => {
                // What was read before stays good: the API server's absence must not hurt running pods.
                if matches!(*state.borrow(), State::Unknown | State::Failed(_)) {
                    state.send_replace(State::Failed(error.to_string()));
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
                continue;
            }
        };
        pause = RETRY_MIN;
        let done = matches!(&new, State::Present(o) if o.immutable());
        let first = matches!(*state.borrow(), State::Unknown);
        state.send_replace(new);
        if !first {
            let users: Vec<String> = match entries.upgrade() {
                Some(entries) => {
                    entries.lock().get(&key).map(|e| e.users.iter().cloned().collect()).unwrap_or_default()
                }
                None => return,
            };
            users.iter().for_each(|uid| on_change(uid));
        }
        if done {
            return;
        }
    }
}
