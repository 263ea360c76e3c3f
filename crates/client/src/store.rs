//! The cache of one kind: what the informer has last seen, with indexes.
//!
//! Objects are shared (`Arc`) and never change; a newer version replaces the older.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use kube::Resource;
use parking_lot::RwLock;

use crate::key::ObjectKey;

/// Gives the index values of an object.
pub type IndexFn<K> = Arc<dyn Fn(&K) -> Vec<String> + Send + Sync>;

struct Index<K> {
    values: IndexFn<K>,
    keys: HashMap<String, HashSet<ObjectKey>>,
}

impl<K> Index<K> {
    fn insert(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.values)(object) {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.values)(object) {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
    }
}

struct Content<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    indexes: BTreeMap<String, Index<K>>,
}

/// A read handle on the cache of one kind; clones share it.
pub struct Store<K>(Arc<RwLock<Content<K>>>);

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self(Arc::new(RwLock::new(Content { objects: BTreeMap::new(), indexes: BTreeMap::new() })))
    }
}

impl<K> Store<K> {
    /// The object of that key.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.0.read().objects.get(key).cloned()
    }

    /// The object of that namespace (empty when cluster-scoped) and name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get(&ObjectKey::new(namespace, name))
    }

    /// All objects, by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.0.read().objects.values().cloned().collect()
    }

    /// All keys, in order.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.0.read().objects.keys().cloned().collect()
    }

    /// The objects of a namespace, by name.
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let content = self.0.read();
        let (from, to) = namespace_range(namespace);
        let range = (Bound::Included(from.as_str()), Bound::Excluded(to.as_str()));
        content.objects.range::<str, _>(range).map(|(_, object)| object.clone()).collect()
    }

    /// The objects that the index `name` files under `value`.
    ///
    /// # Panics
    /// When no such index was added: that is a fault of the program.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let content = self.0.read();
        let index = content.indexes.get(name).unwrap_or_else(|| panic!("index {name:?} was never added"));
        let Some(keys) = index.keys.get(value) else { return Vec::new() };
        let mut found: Vec<_> = keys.iter().filter_map(|key| content.objects.get_key_value(key)).collect();
        found.sort_unstable_by(|left, right| left.0.cmp(right.0));
        found.into_iter().map(|(_, object)| object.clone()).collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.0.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `each` for every object under the read lock; `each` must not call the store.
    pub fn for_each(&self, mut each: impl FnMut(&Arc<K>)) {
        self.0.read().objects.values().for_each(&mut each);
    }

    /// Adds an index, or does nothing when there is one of that name.
    pub fn add_index(&self, name: &str, values: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) {
        let mut content = self.0.write();
        if content.indexes.contains_key(name) {
            return;
        }
        let mut index = Index { values: Arc::new(values), keys: HashMap::new() };
        for (key, object) in &content.objects {
            index.insert(key, object);
        }
        content.indexes.insert(name.to_owned(), index);
    }

    /// Puts an object in; returns what it replaces.
    pub(crate) fn insert(&self, key: &ObjectKey, object: Arc<K>) -> Option<Arc<K>> {
        let mut content = self.0.write();
        let Content { objects, indexes } = &mut *content;
        let old = objects.insert(key.clone(), object.clone());
        for index in indexes.values_mut() {
            if let Some(old) = &old {
                index.remove(key, old);
            }
            index.insert(key, &object);
        }
        old
    }

    /// Takes an object out.
    pub(crate) fn remove(&self, key: &ObjectKey) -> Option<Arc<K>> {
        let mut content = self.0.write();
        let Content { objects, indexes } = &mut *content;
        let old = objects.remove(key)?;
        for index in indexes.values_mut() {
            index.remove(key, &old);
        }
        Some(old)
    }
}

/// `0` is the character after `/`.
fn namespace_range(namespace: &str) -> (String, String) {
    (format!("{namespace}/"), format!("{namespace}0"))
}

/// The name of the index of [`controller_uid`], by convention.
pub const BY_CONTROLLER_UID: &str = "controller-uid";

/// An index function: the uid of the owner that is the object's controller.
pub fn controller_uid<K: Resource>(object: &K) -> Vec<String> {
    let owners = object.meta().owner_references.as_deref().unwrap_or_default();
    owners.iter().filter(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone()).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(namespace: &str, name: &str, label: &str) -> Arc<ConfigMap> {
        let mut map = ConfigMap::default();
        map.metadata.namespace = Some(namespace.to_owned());
        map.metadata.name = Some(name.to_owned());
        map.metadata.labels = Some(BTreeMap::from([("app".to_owned(), label.to_owned())]));
        Arc::new(map)
    }

    fn names(objects: &[Arc<ConfigMap>]) -> Vec<&str> {
        objects.iter().filter_map(|object| object.metadata.name.as_deref()).collect()
    }

    #[test]
    fn indexes_follow_replacement_and_removal() {
        let store = Store::default();
        let put = |o: Arc<ConfigMap>| store.insert(&ObjectKey::of(&*o), o);
        put(object("a", "one", "x"));
        store.add_index("app", |map: &ConfigMap| {
            map.metadata.labels.iter().flat_map(|labels| labels.get("app").cloned()).collect()
        });
        put(object("a", "two", "x"));
        put(object("a-b", "three", "x"));
        assert_eq!(names(&store.by_index("app", "x")), ["three", "one", "two"]);
        assert_eq!(names(&store.list_namespace("a")), ["one", "two"]);
        put(object("a", "one", "y"));
        store.remove(&ObjectKey::new("a", "two"));
        assert_eq!(names(&store.by_index("app", "x")), ["three"]);
        assert_eq!(names(&store.by_index("app", "y")), ["one"]);
    }
}
