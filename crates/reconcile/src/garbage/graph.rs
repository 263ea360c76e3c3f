//! The graph of owners and dependents, as the informers show it.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::{FOREGROUND, ORPHAN};

/// An object's uid and what a reference or the object itself says of its place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    /// `group/version`, or the version alone.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Namespace; for a virtual node that of the dependent that names it.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

/// What an informer shows of an object.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// API version of the informer's resource.
    pub api_version: &'a str,
    /// Kind of the informer's resource.
    pub kind: &'a str,
    /// The object's metadata.
    pub meta: &'a ObjectMeta,
}

/// Uids that want a look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Perhaps to be deleted.
    pub delete: BTreeSet<String>,
    /// Dependents to be orphaned.
    pub orphan: BTreeSet<String>,
}

#[derive(Debug)]
struct Node {
    id: Id,
    owners: Vec<OwnerReference>,
    dependents: BTreeSet<String>,
    deleting: bool,
    deleting_dependents: bool,
    /// Known from a reference only.
    is_virtual: bool,
}

/// All objects that own or are owned, or may be.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
}

fn has_finalizer(meta: &ObjectMeta, name: &str) -> bool {
    meta.finalizers.iter().flatten().any(|finalizer| finalizer == name)
}

impl Graph {
    /// An object was added or changed.
    pub fn observe(&mut self, seen: &Observed<'_>) -> Wants {
        let mut wants = Wants::default();
        let meta = seen.meta;
        let Some(uid) = meta.uid.clone().filter(|uid| !uid.is_empty()) else { return wants };
        let id = Id {
            api_version: seen.api_version.to_owned(),
            kind: seen.kind.to_owned(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: uid.clone(),
        };
        let owners = meta.owner_references.clone().unwrap_or_default();
        let deleting = meta.deletion_timestamp.is_some();
        let foreground = deleting && has_finalizer(meta, FOREGROUND);
        let orphaning = deleting && has_finalizer(meta, ORPHAN);

        let node = self.nodes.entry(uid.clone()).or_insert_with(|| Node {
            id: id.clone(),
            owners: Vec::new(),
            dependents: BTreeSet::new(),
            deleting: false,
            deleting_dependents: false,
            is_virtual: true,
        });
        if node.is_virtual && node.id != id {
            // The reference told another place: those dependents do not really have this owner.
            let misled = node.dependents.iter().cloned().collect::<Vec<_>>();
            wants.delete.extend(misled);
        }
        node.id = id;
        node.is_virtual = false;
        let was_foreground = node.deleting_dependents;
        let old_owners = std::mem::replace(&mut node.owners, owners.clone());
        node.deleting |= deleting;
        node.deleting_dependents |= foreground;
        if foreground && !was_foreground {
            wants.delete.extend(node.dependents.iter().cloned());
            wants.delete.insert(uid.clone());
        }
        if orphaning {
            wants.orphan.insert(uid.clone());
        }
        self.relink(&uid, &old_owners, &owners, &mut wants);
        wants
    }

    fn relink(&mut self, uid: &str, old: &[OwnerReference], new: &[OwnerReference], wants: &mut Wants) {
        let find = |list: &[OwnerReference], uid: &str| list.iter().find(|owner| owner.uid == uid).cloned();
        for owner in old {
            let now = find(new, &owner.uid);
            let was_blocking = owner.block_owner_deletion == Some(true);
            let unblocked =
                was_blocking && now.as_ref().is_none_or(|now| now.block_owner_deletion != Some(true));
            if let Some(node) = self.nodes.get_mut(&owner.uid) {
                if now.is_none() {
                    node.dependents.remove(uid);
                }
                if (unblocked || now.is_none()) && node.deleting_dependents {
                    wants.delete.insert(owner.uid.clone());
                }
            }
        }
        let namespace = self.nodes.get(uid).map(|node| node.id.namespace.clone()).unwrap_or_default();
        for owner in new.iter().filter(|owner| find(old, &owner.uid).is_none()) {
            let node = self.nodes.entry(owner.uid.clone()).or_insert_with(|| {
                // Nothing is known of this owner: ask the API server about it.
                wants.delete.insert(owner.uid.clone());
                Node {
                    id: Id {
                        api_version: owner.api_version.clone(),
                        kind: owner.kind.clone(),
                        namespace: namespace.clone(),
                        name: owner.name.clone(),
                        uid: owner.uid.clone(),
                    },
                    owners: Vec::new(),
                    dependents: BTreeSet::new(),
                    deleting: false,
                    deleting_dependents: false,
                    is_virtual: true,
                }
            });
            node.dependents.insert(uid.to_owned());
            let elsewhere = !node.id.namespace.is_empty() && node.id.namespace != namespace;
            let other = node.id.name != owner.name || node.id.kind != owner.kind;
            if node.deleting_dependents || elsewhere || other {
                wants.delete.insert(uid.to_owned());
            }
        }
    }

    /// An object is gone, or was never there.
    pub fn remove(&mut self, uid: &str) -> Wants {
        let mut wants = Wants::default();
        let Some(node) = self.nodes.remove(uid) else { return wants };
        for owner in &node.owners {
            if let Some(owner_node) = self.nodes.get_mut(&owner.uid) {
                owner_node.dependents.remove(uid);
                if owner_node.deleting_dependents {
                    wants.delete.insert(owner.uid.clone());
                } else if owner_node.is_virtual && owner_node.dependents.is_empty() {
                    self.nodes.remove(&owner.uid);
                }
            }
        }
        if !node.dependents.is_empty() {
            wants.delete.extend(node.dependents.iter().cloned());
            // Dependents still name the owner; without a node for it they would be lost to later events.
            let id = node.id.clone();
            self.nodes.insert(
                uid.to_owned(),
                Node {
                    id,
                    owners: Vec::new(),
                    deleting_dependents: false,
                    deleting: false,
                    is_virtual: true,
                    ..node
                },
            );
        }
        wants
    }

    /// A virtual node turned out to be absent: its dependents want a look.
    pub fn absent(&mut self, uid: &str) -> Wants {
        match self.nodes.get(uid) {
            Some(node) if node.is_virtual => {
                Wants { delete: node.dependents.iter().cloned().collect(), ..Wants::default() }
            }
            _ => self.remove(uid),
        }
    }

    /// The place of an object.
    pub fn id(&self, uid: &str) -> Option<&Id> {
        self.nodes.get(uid).map(|node| &node.id)
    }
    /// Whether the object is known from references only.
    pub fn is_virtual(&self, uid: &str) -> bool {
        self.nodes.get(uid).is_some_and(|node| node.is_virtual)
    }
    /// Whether a look can do anything: an object on its way out in the background needs nothing more.
    pub fn needs_look(&self, uid: &str) -> bool {
        self.nodes.get(uid).is_some_and(|node| !node.deleting || node.deleting_dependents)
    }
    /// Whether the object's dependents are being deleted first.
    pub fn deletes_dependents(&self, uid: &str) -> bool {
        self.nodes.get(uid).is_some_and(|node| node.deleting_dependents)
    }
    /// How many objects name this one as an owner.
    pub fn dependents(&self, uid: &str) -> Vec<Id> {
        let Some(node) = self.nodes.get(uid) else { return Vec::new() };
        node.dependents.iter().filter_map(|uid| self.nodes.get(uid)).map(|node| node.id.clone()).collect()
    }
    /// Dependents that must be gone before this object may go.
    pub fn blocking(&self, uid: &str) -> Vec<String> {
        let Some(node) = self.nodes.get(uid) else { return Vec::new() };
        let blocks = |dependent: &&String| {
            self.nodes.get(*dependent).is_some_and(|node| {
                node.owners.iter().any(|o| o.uid == uid && o.block_owner_deletion == Some(true))
            })
        };
        node.dependents.iter().filter(blocks).cloned().collect()
    }
    /// Objects in the graph.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }
    /// Whether the graph is empty.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}
