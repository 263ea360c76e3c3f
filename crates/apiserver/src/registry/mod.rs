//! The one path of all stored resources: read, write, watch, delete.

pub mod create;
pub mod decode;
pub mod delete;
pub mod encryption;
pub mod hooks;
pub mod list;
pub mod objects;
pub mod patch;
pub mod read;
pub mod resource;
pub mod storage;
pub mod update;
pub mod watch;
pub mod write;

use std::collections::HashMap;
use std::sync::Arc;

use isopod_api::facts;
use isopod_api::status::Status;
use isopod_kv::Store;

use crate::cache::Feed;
pub use resource::{Resource, Stored};

/// All served resources and where they are stored.
pub struct Registry {
    /// The store.
    pub store: Arc<dyn Store>,
    /// What feeds the caches.
    pub feed: Arc<Feed>,
    resources: HashMap<&'static str, HashMap<&'static str, HashMap<&'static str, Arc<Resource>>>>,
    stored: HashMap<&'static str, HashMap<&'static str, Arc<Stored>>>,
    ordered: Vec<Arc<Resource>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry({} resources)", self.ordered.len())
    }
}

impl Registry {
    /// The registry of the built-in resources. `prefix` is the store's, such as `registry`.
    pub fn new(
        store: Arc<dyn Store>,
        prefix: &str,
        storage_json: bool,
        encryption: Option<&Arc<encryption::Encryption>>,
    ) -> Registry {
        let feed = Arc::new(Feed::new(Arc::clone(&store), format!("/{prefix}/")));
        let mut registry =
            Registry { store, feed, resources: HashMap::new(), stored: HashMap::new(), ordered: Vec::new() };
        for facts in facts::builtin().resources() {
            if !facts.served {
                continue;
            }
            let stored = registry.stored_of(facts, prefix, storage_json, encryption);
            let resource = Arc::new(Resource { facts, stored });
            let group = registry.resources.entry(facts.group).or_default();
            group.entry(facts.version).or_default().insert(facts.plural, Arc::clone(&resource));
            registry.ordered.push(resource);
        }
        registry
    }

    /// The storage that all versions (and twins in other groups, as of events) of a resource share.
    fn stored_of(
        &mut self,
        facts: &'static facts::ResourceFacts,
        prefix: &str,
        json: bool,
        encryption: Option<&Arc<encryption::Encryption>>,
    ) -> Arc<Stored> {
        let by_name = self.stored.entry(facts.storage_group).or_default();
        if let Some(stored) = by_name.get(facts.plural) {
            let stored = Arc::clone(stored);
            self.stored.entry(facts.group).or_default().insert(facts.plural, Arc::clone(&stored));
            return stored;
        }
        let stored = Arc::new(Stored::new(facts, prefix, json, encryption.map(Arc::as_ref)));
        by_name.insert(facts.plural, Arc::clone(&stored));
        self.stored.entry(facts.group).or_default().insert(facts.plural, Arc::clone(&stored));
        if facts.verbs.contains(&"get") && facts.verbs.contains(&"list") {
            self.feed.add(Arc::clone(&stored.cache));
        }
        stored
    }

    /// A served resource.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources.get(group)?.get(version)?.get(plural)
    }

    /// All served resources, in discovery order.
    pub fn resources(&self) -> &[Arc<Resource>] {
        &self.ordered
    }

    /// The storage of a resource, whatever the version.
    pub fn stored(&self, group: &str, plural: &str) -> Result<&Arc<Stored>, Status> {
        let found = self.stored.get(group).and_then(|g| g.get(plural));
        found.ok_or_else(|| Status::internal(format!("no resource {plural} in group {group:?}")))
    }
}
